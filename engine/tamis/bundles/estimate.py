"""What a conversion will take, from a few of its images, before it starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tamis.atomic import refuse_missing_folder
from tamis.bundles.encoding import Record, encode
from tamis.bundles.layout import MAX_PAGE_SIZE
from tamis.bundles.settings import ConvertSettings
from tamis.errors import UsageError
from tamis.sources.base import Source, SourceItem

__all__ = ["Estimate", "check_free_space", "estimate"]

_POINTS, _AT_EACH = 16, 4  # images sampled: places in the source × neighbours at each
_TABLE_BYTES = 120  # metadata, allocation table and trailer, for each example
_MEMORY_PER_EXAMPLE = 300
_MEMORY_BASE = 150 << 20  # Python and its libraries
# No encoder makes a photograph this much larger; with so much room nothing need be sampled.
_AMPLE = 8
_TILER = 15  # bytes that a tiler touches for each of a record


@dataclass(frozen=True)
class Estimate:
    """What a conversion is expected to take; times in seconds, sizes in bytes.

    Attributes:
        n_examples: Images of the source.
        bytes: The bundle's size.
        seconds: With the given number of workers, as fast as the sample was.
        memory_bytes: Resident at its peak.
        free_bytes: Free now where the bundle goes.
        n_sampled: Images that the estimate rests on.
    """

    n_examples: int
    bytes: int
    seconds: float
    memory_bytes: int
    free_bytes: int
    n_sampled: int


def estimate(source: Source, settings: ConvertSettings, out: Path, workers: int) -> Estimate:
    """Encode a few images from all over the source and extrapolate.

    Raises:
        UsageError: The folder of ``out`` does not exist.
    """
    if settings.tiles:
        from tamis.tiles.transcoding import thread_tiler

        thread_tiler().tile(np.zeros(2, np.uint8))  # compiles, once for all images
    page_size = settings.page_size or MAX_PAGE_SIZE
    start = time.perf_counter()
    records = [encode(position, item, settings, page_size) for position, item in _sample(source)]
    seconds = time.perf_counter() - start
    sizes = [len(record.data) for record in records if isinstance(record, Record)]
    pixels = max(
        (record.width * record.height for record in records if isinstance(record, Record)),
        default=0,
    )
    each = 6 * pixels + (_TILER * max(sizes, default=0) if settings.tiles else 0)
    n = len(source)
    return Estimate(
        n_examples=n,
        bytes=round(sum(sizes) / max(len(sizes), 1) * n) + _TABLE_BYTES * n,
        seconds=seconds / len(records) * n / workers,
        memory_bytes=_MEMORY_BASE + _MEMORY_PER_EXAMPLE * n + workers * each,
        free_bytes=_free(out),
        n_sampled=len(records),
    )


def check_free_space(source: Source, settings: ConvertSettings, out: Path, done: int) -> None:
    """Refuse before the work starts where the bundle would not fit.

    Args:
        source: The images.
        settings: How they are stored.
        out: The bundle to write.
        done: Images that an interrupted conversion has already written.

    Raises:
        UsageError: The folder of ``out`` has less room than the rest of the bundle is expected to
            take.
    """
    free = _free(out)
    as_pixels = settings.mode == "raw" or settings.jpeg_share is not None
    known = None if as_pixels else source.n_bytes
    if known is not None and free > _AMPLE * known + _TABLE_BYTES * len(source):
        return
    expected = estimate(source, settings, out, 1)
    needed = expected.bytes * (len(source) - done) // len(source)
    if needed > free:
        raise UsageError(
            out.parent,
            expected=f"about {needed / 1e9:,.2f} GB free (from a sample of"
            f" {expected.n_sampled} images)",
            found=f"{free / 1e9:,.2f} GB",
            do="free space, choose another disk, or shrink images with --max-side",
        )


def _free(out: Path) -> int:
    refuse_missing_folder(out)
    return shutil.disk_usage(out.parent).free


def _sample(source: Source) -> Iterator[tuple[int, SourceItem]]:
    n = len(source)
    step = max(-(-n // _POINTS), _AT_EACH)
    for start in range(0, n, step):
        yield from enumerate(islice(source.items(start), _AT_EACH), start)

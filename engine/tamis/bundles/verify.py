"""Proving a bundle record by record."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.digest import span_checksums
from tamis.bundles.layout import JPEG_MODE, FieldType
from tamis.bundles.spans import Span
from tamis.errors import ImageError, UsageError
from tamis.images import MAX_PIXELS, decode_jpeg
from tamis.jpeg_header import plain_jpegs, scan_jpeg
from tamis.progress import QUIET, Progress

__all__ = ["Damage", "VerifyReport", "verify"]


@dataclass(frozen=True)
class Damage:
    """One damaged example: where it stands, which one it is, and what is wrong."""

    position: int
    example_id: int
    path: str | None
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The verdict on a bundle whose structure was found sound on opening.

    Attributes:
        ok: No damage.
        n_examples: Examples looked at.
        checksums: Whether there were checksums to compare (a trailer).
        damaged: The damaged examples in the bundle's order.
    """

    path: Path
    ok: bool
    n_examples: int
    checksums: bool
    damaged: tuple[Damage, ...]


def verify(
    bundle: Bundle,
    *,
    deep: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    progress: Progress = QUIET,
) -> VerifyReport:
    """Compare every record with its checksum and every JPEG's header with its stored size.

    :func:`tamis.bundles.opening.open_bundle` has checked the structure before. The file is read
    once, in file order; memory: O(workers) spans of 4 MiB, and with ``deep`` a decoded image each.

    Args:
        bundle: An opened bundle.
        deep: Also decode every image.
        max_pixels: Larger images count as damaged when they would have to be decoded.
        workers: Threads; None takes all cores.
        progress: Told of every example.

    Raises:
        BundleError: The file was replaced after it was opened, or cannot be read.
        UsageError: Less than one worker.
    """
    if workers is not None and workers < 1:
        raise UsageError("--workers", expected="1 or more", found=str(workers), do="leave it out")
    reasons: dict[int, str] = {}
    with (
        progress.task(f"verify {bundle.path.name}", bundle.n_examples) as advance,
        # Closed here and now, whatever happens: it waits for its threads.
        closing(
            bundle.map_spans(partial(_faults, bundle, max_pixels if deep else None), workers)
        ) as spans,
    ):
        for n_examples, found in spans:
            reasons |= found
            advance(n_examples)
    damaged = tuple(_damage(bundle, position, reasons[position]) for position in sorted(reasons))
    return VerifyReport(
        bundle.path, not damaged, bundle.n_examples, bundle.trailer is not None, damaged
    )


def _damage(bundle: Bundle, position: int, reason: str) -> Damage:
    path = bundle.paths[position].as_py() if bundle.paths is not None else None
    return Damage(position, int(bundle.example_ids[position]), path, reason)


def _faults(bundle: Bundle, max_pixels: int | None, span: Span) -> tuple[int, dict[int, str]]:
    """How many examples were looked at, and what is wrong with which: position → first fault."""
    reasons: dict[int, str] = {}
    if bundle.trailer is not None:
        wrong = span_checksums(span) != bundle.trailer.checksums[span.positions]
        for position in span.positions[wrong].tolist():
            reasons[position] = "the record's bytes do not match its checksum"
    for column, index in enumerate(bundle.payload_fields):
        if bundle.fields[index].type is not FieldType.RGB_IMAGE:
            continue
        rows = bundle.metadata[f"f{index}"][span.positions]
        starts, ends = span.starts[:, column], span.ends[:, column]
        doubtful = rows["mode"] == JPEG_MODE  # the size of raw pixels was checked on opening
        if max_pixels is None and doubtful.any():
            doubtful &= ~plain_jpegs(span.data, starts, ends, rows["width"], rows["height"])
        for i in np.flatnonzero(doubtful).tolist():
            position = int(span.positions[i])
            if position not in reasons:
                stored = (int(rows["width"][i]), int(rows["height"][i]))
                reason = _jpeg_fault(span.data[starts[i] : ends[i]], stored, max_pixels)
                if reason is not None:
                    reasons[position] = reason
    return len(span.positions), reasons


def _jpeg_fault(
    record: NDArray[np.uint8], stored: tuple[int, int], max_pixels: int | None
) -> str | None:
    table = f"the table says {stored[0]} × {stored[1]}"
    try:
        info = scan_jpeg(record)
        if not info.plain:
            return "a JPEG that FFCV does not decode to RGB (CMYK, 12-bit or arithmetic)"
        if (info.width, info.height) != stored:
            return f"the JPEG is {info.width} × {info.height}, {table}"
        if max_pixels is not None:
            height, width = decode_jpeg(record, max_pixels=max_pixels).shape[:2]
            if (width, height) != stored:
                return f"the JPEG decodes to {width} × {height}, {table}"
    except ImageError as error:
        return str(error)
    return None

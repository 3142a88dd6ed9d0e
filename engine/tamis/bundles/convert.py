"""Images → bundle.

On success the bundle stands under its final name; on a failing image, Ctrl-C or a crash nothing
does. Workers are threads that load, decode and encode (Pillow, OpenCV and the file system release
the GIL); an exception in one of them surfaces here at once. FFCV's writer waits for ever instead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from tamis.atomic import atomic_path
from tamis.bundles.layout import (
    DEFAULT_PAGE_SIZE,
    JPEG_MODE,
    MAX_PAGE_SIZE,
    RAW_MODE,
    image_fields,
)
from tamis.bundles.trailer import Trailer
from tamis.bundles.writer import BetonWriter, check_page_size
from tamis.devices import n_cores
from tamis.errors import SourceError, UsageError
from tamis.images import ImageError, decode_any, encode_jpeg, resize_to_side, scan_jpeg
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress
from tamis.sources.base import Source, SourceItem

__all__ = ["ConvertReport", "ConvertSettings", "convert"]

# Up to this side, `auto` keeps pixels of lossless sources: JPEG would save little and harm much.
_RAW_SIDE = 64
_MAX_SIDE = 65535  # FFCV stores sides as u16
_WRITE_BYTES = 8 << 20


@dataclass(frozen=True)
class ConvertSettings:
    """How images are stored.

    Attributes:
        max_side: Images with a longer side are shrunk by area to this side; None keeps all sizes.
        quality: JPEG quality, 1 to 100, where an image has to be encoded.
        mode: ``auto`` passes JPEGs through, stores other images of at most 64 × 64 as pixels and
            the rest as JPEG; ``jpeg`` stores JPEGs only; ``raw`` stores pixels only.
        page_size: Bytes; None takes FFCV's 8 MiB, or more where the largest file needs it.
        on_error: ``fail`` stops at an unreadable image, ``skip`` leaves it out and lists it.
    """

    max_side: int | None = None
    quality: int = 90
    mode: Literal["auto", "jpeg", "raw"] = "auto"
    page_size: int | None = None
    on_error: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        if self.max_side is not None and not 1 <= self.max_side <= _MAX_SIDE:
            raise UsageError(
                "--max-side",
                expected=f"1 to {_MAX_SIDE} pixels",
                found=str(self.max_side),
                do="leave it out to keep every size",
            )
        if not 1 <= self.quality <= 100:
            raise UsageError(
                "--quality", expected="1 to 100", found=str(self.quality), do="90 is FFCV's usual"
            )
        if self.page_size is not None:
            check_page_size(self.page_size)
        for option, value, choices in (
            ("--mode", self.mode, ("auto", "jpeg", "raw")),
            ("--on-error", self.on_error, ("fail", "skip")),
        ):
            if value not in choices:
                raise UsageError(
                    option, expected=" or ".join(choices), found=value, do="choose one of them"
                )


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did; times in seconds, sizes in bytes."""

    n_examples: int
    n_passed_through: int
    n_encoded: int
    skipped: tuple[dict[str, str], ...]
    bytes: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class _Record:
    mode: int
    width: int
    height: int
    data: bytes
    passed_through: bool


def convert(
    source: Source,
    out: Path,
    settings: ConvertSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> ConvertReport:
    """Write a source as a bundle with the fields ``image`` and ``label``.

    JPEGs that need no change are copied byte for byte. The output depends on the source and the
    settings alone, not on the number of workers. Memory: O(workers) images.

    Args:
        source: The images; their position in it is their example id.
        out: The bundle to write.
        settings: How images are stored.
        workers: Threads; None takes all cores.
        overwrite: Replace an existing ``out``.
        progress: Told of every image.

    Raises:
        SourceError: An image that cannot be read (with ``on_error="fail"``) or stored.
        UsageError: ``out`` exists, or its folder does not.
    """
    settings = settings or ConvertSettings()
    if workers is not None and workers < 1:
        raise UsageError("--workers", expected="1 or more", found=str(workers), do="leave it out")
    if not len(source):
        raise SourceError("source", expected="images", found="none", do="check the path")
    start = time.perf_counter()
    with atomic_path(out, overwrite=overwrite) as partial:
        page_size = settings.page_size or _page_size_for(source.largest)
        with BetonWriter(partial, image_fields(), len(source), page_size) as writer:
            assembly = _Assembly(writer, settings, source)
            with (
                progress.task(f"convert → {out.name}", len(source)) as advance,
                # Closed here and now, whatever happens: it waits for its threads.
                closing(_encoded(source, settings, workers or n_cores())) as records,
            ):
                for example_id, (item, record) in enumerate(records):
                    assembly.add(example_id, item, record)
                    advance()
            assembly.finish()
    seconds = time.perf_counter() - start
    return ConvertReport(
        n_examples=assembly.n_examples,
        n_passed_through=assembly.n_passed_through,
        n_encoded=assembly.n_examples - assembly.n_passed_through,
        skipped=tuple(assembly.skipped),
        bytes=out.stat().st_size,
        seconds=seconds,
        images_per_second=assembly.n_examples / seconds,
    )


class _Assembly:
    """Collects encoded records, writes them page by page, closes the bundle."""

    def __init__(self, writer: BetonWriter, settings: ConvertSettings, source: Source) -> None:
        self._writer, self._settings, self._source = writer, settings, source
        self._ids = np.zeros(len(source), np.int64)
        self._rows = np.zeros(len(source), writer.dtype)
        self._extents = np.zeros((len(source), 1, 2), np.int64)
        self._checksums = np.zeros(len(source), np.uint64)
        self._paths: list[str | None] = []
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.n_examples = self.n_passed_through = 0
        self.skipped: list[dict[str, str]] = []

    def add(self, example_id: int, item: SourceItem, record: _Record | ImageError) -> None:
        """Take the next image in source order."""
        name = item.path or f"image {example_id}"
        if isinstance(record, ImageError):
            if self._settings.on_error == "fail":
                raise SourceError(
                    name,
                    expected="a readable image",
                    found=str(record),
                    do="mend or remove it, or pass --on-error skip",
                )
            self.skipped.append({"path": name, "reason": str(record)})
            return
        if len(record.data) > self._writer.page_size:
            raise SourceError(
                name,
                expected=f"an encoded image of at most one page ({self._writer.page_size} bytes)",
                found=f"{len(record.data)} bytes",
                do="pass a larger --page-size, or --max-side to shrink images",
            )
        at = self.n_examples
        self._ids[at] = example_id
        self._rows[at] = ((record.mode, record.width, record.height, 0), item.label)
        self._extents[at, 0, 1] = len(record.data)
        self._checksums[at] = xxhash.xxh3_64_intdigest(record.data)
        self._paths.append(item.path)
        self._pending.append(record.data)
        self._pending_bytes += len(record.data)
        self.n_examples += 1
        self.n_passed_through += record.passed_through
        if self._pending_bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        sizes = np.array([len(data) for data in self._pending], np.int64)
        offsets = self._writer.place(sizes)
        block = bytearray(int(offsets[-1] - offsets[0] + sizes[-1]))
        for offset, data in zip(offsets - offsets[0], self._pending, strict=True):
            block[offset : offset + len(data)] = data
        self._writer.write(block, int(offsets[0]))
        self._extents[self.n_examples - len(sizes) : self.n_examples, 0, 0] = offsets
        self._pending, self._pending_bytes = [], 0

    def finish(self) -> None:
        """Write what is pending, then the tables."""
        if self._pending:
            self._flush()
        n = self.n_examples
        if n == 0:
            raise SourceError(
                "source",
                expected="at least one readable image",
                found=f"{len(self.skipped)} unreadable ones",
                do="check the first of them: " + self.skipped[0]["path"],
            )
        manifest = Manifest(
            operation="convert",
            settings={"source": self._source.describe(), **asdict(self._settings)},
            classes=self._source.classes,
            skipped=tuple(self.skipped),
        )
        trailer = Trailer(self._ids[:n], self._paths, self._checksums[:n], manifest)
        self._writer.finish(self._rows[:n], self._extents[:n], trailer)


def _page_size_for(largest: int | None) -> int:
    """FFCV's default, doubled until the largest file fits."""
    size = DEFAULT_PAGE_SIZE
    while largest is not None and size < min(largest, MAX_PAGE_SIZE):
        size *= 2
    return size


def _encoded(
    source: Source, settings: ConvertSettings, workers: int
) -> Generator[tuple[SourceItem, _Record | ImageError]]:
    """Encode on threads, a bounded number ahead, and give results in source order."""
    pending: deque[tuple[SourceItem, Future[_Record | ImageError]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="tamis-convert") as pool:
        try:
            for item in source:
                pending.append((item, pool.submit(_encode, item, settings)))
                if len(pending) >= 4 * workers:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def _encode(item: SourceItem, settings: ConvertSettings) -> _Record | ImageError:
    try:
        loaded = item.load()
        if isinstance(loaded, bytes):
            if settings.mode != "raw" and loaded[:2] == b"\xff\xd8":
                info = scan_jpeg(loaded)
                limit = min(settings.max_side or _MAX_SIDE, _MAX_SIDE)
                if info.plain and max(info.width, info.height) <= limit:
                    return _Record(JPEG_MODE, info.width, info.height, loaded, True)
            is_jpeg, pixels = loaded[:2] == b"\xff\xd8", decode_any(loaded)
        else:
            is_jpeg, pixels = False, loaded
        pixels = resize_to_side(pixels, settings.max_side or _MAX_SIDE)
        height, width = pixels.shape[:2]
        small = not is_jpeg and max(height, width) <= _RAW_SIDE
        if settings.mode == "raw" or (settings.mode == "auto" and small):
            return _Record(RAW_MODE, width, height, pixels.tobytes(), False)
        return _Record(JPEG_MODE, width, height, encode_jpeg(pixels, settings.quality), False)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"a file that cannot be read ({error.strerror or error})")

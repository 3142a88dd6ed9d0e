"""Images → bundle.

On success the bundle stands under its final name; on a failing image, Ctrl-C or a crash nothing
does. An interrupted conversion can be resumed, and ends with the same bytes.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tamis import __version__
from tamis.bundles.encoding import Record, encode_all
from tamis.bundles.estimate import check_free_space
from tamis.bundles.layout import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, image_fields
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.trailer import Trailer
from tamis.bundles.unfinished import ROW, Block, Journal, unfinished
from tamis.bundles.writer import BetonWriter
from tamis.devices import n_cores
from tamis.errors import ImageError, SourceError, UsageError
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress
from tamis.sources.base import Source, SourceItem

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ConvertReport", "convert"]

_WRITE_BYTES = 8 << 20


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did; times in seconds, sizes in bytes.

    Attributes:
        n_examples: In the bundle.
        n_passed_through: Copied byte for byte.
        n_encoded: Encoded, or stored as pixels.
        n_tiled: The source's own JPEGs, rewritten without loss with restart tiles.
        n_resumed: Images of the source that an interrupted conversion had dealt with.
        skipped: Images left out: ``{"path": …, "reason": …}``.
        bytes: The bundle's size.
        seconds: Of this process.
        images_per_second: Of this process.
    """

    n_examples: int
    n_passed_through: int
    n_encoded: int
    n_tiled: int
    n_resumed: int
    skipped: tuple[dict[str, str], ...]
    bytes: int
    seconds: float
    images_per_second: float


def convert(
    source: Source,
    out: Path,
    settings: ConvertSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> ConvertReport:
    """Write a source as a bundle with the fields ``image`` and ``label``.

    JPEGs that need no change are copied byte for byte, or with ``tiles`` without loss. The output
    depends on the source and the settings alone, not on the number of workers nor on
    interruptions. Memory: O(workers) images, and about 300 bytes per example for the tables.

    Args:
        source: The images; their position in it is their example id, unless it has its own.
        out: The bundle to write.
        settings: How images are stored.
        workers: Threads; None takes all cores.
        overwrite: Replace an existing ``out``.
        resume: Go on with an interrupted conversion of the same source and settings.
        progress: Told of every image.

    Raises:
        SourceError: An image that cannot be read (with ``on_error="fail"``) or stored.
        UsageError: ``out`` exists, its folder does not or has too little room, or the interrupted
            conversion was another one.
    """
    settings = settings or ConvertSettings()
    if workers is not None and workers < 1:
        raise UsageError("--workers", expected="1 or more", found=str(workers), do="leave it out")
    if not len(source):
        raise SourceError("source", expected="images", found="none", do="check the path")
    start = time.perf_counter()
    page_size = settings.page_size or _page_size_for(source.largest)
    task = _task(source, settings, page_size)
    with unfinished(out, task, overwrite=overwrite, resume=resume) as journal:
        n_resumed = journal.blocks[-1].consumed if journal.blocks else 0
        check_free_space(source, settings, out, n_resumed)
        with _Assembly(journal, source, settings, page_size) as assembly:
            with (
                progress.task(f"convert → {out.name}", len(source)) as advance,
                # Closed here and now, whatever happens: it waits for its threads.
                closing(
                    encode_all(source, settings, page_size, workers or n_cores(), n_resumed)
                ) as records,
            ):
                advance(n_resumed)
                for position, item, record in records:
                    assembly.add(position, item, record)
                    advance()
            assembly.finish()
    seconds = time.perf_counter() - start
    n_passed_through, n_tiled = (
        int(assembly.rows[name].sum()) for name in ("passed_through", "tiled")
    )
    return ConvertReport(
        n_examples=assembly.n_examples,
        n_passed_through=n_passed_through,
        n_encoded=assembly.n_examples - n_passed_through - n_tiled,
        n_tiled=n_tiled,
        n_resumed=n_resumed,
        skipped=tuple(assembly.skipped),
        bytes=out.stat().st_size,
        seconds=seconds,
        images_per_second=(len(source) - n_resumed) / seconds,
    )


def _task(source: Source, settings: ConvertSettings, page_size: int) -> dict[str, Any]:
    """What must be the same for a conversion to be resumed."""
    return {
        "source": {**source.describe(), "n": len(source), "fingerprint": source.fingerprint},
        "settings": asdict(settings),
        "page size": page_size,
        "version of tamis": __version__,
        "journal": ROW.itemsize,
    }


def _page_size_for(largest: int | None) -> int:
    """FFCV's default, doubled until the largest file fits."""
    size = DEFAULT_PAGE_SIZE
    while largest is not None and size < min(largest, MAX_PAGE_SIZE):
        size *= 2
    return size


class _Assembly:
    """Collects encoded records, writes them block by block, closes the bundle."""

    def __init__(
        self, journal: Journal, source: Source, settings: ConvertSettings, page_size: int
    ) -> None:
        self._journal, self._source, self._settings = journal, source, settings
        self._rows = np.zeros(len(source), ROW)
        self.n_examples = 0
        self._paths: list[pa.Array] = []  # a million of Python's strings would take 100 MB
        self._pending_paths: list[str | None] = []
        self.skipped: list[dict[str, str]] = []
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._consumed = 0
        self._noted = 0  # entries of `skipped` that the journal has
        end = self._restore(journal.blocks)
        self._writer = BetonWriter(
            journal.payload, image_fields(), len(source), page_size, resume_at=end
        )

    def __enter__(self) -> _Assembly:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    @property
    def rows(self) -> NDArray[Any]:
        """What was taken so far, (n_examples,) of ROW."""
        return self._rows[: self.n_examples]

    def _restore(self, blocks: list[Block]) -> int | None:
        """Take over what the journal lists; gives the end of the payload."""
        import pyarrow as pa

        end = None
        for block in blocks:
            at = self.n_examples
            self.n_examples += len(block.rows)
            self._rows[at : self.n_examples] = block.rows
            self._paths.append(pa.array(block.paths, pa.string()))
            self.skipped += block.skipped
            self._consumed = block.consumed
            if len(block.rows):
                end = int(block.rows["offset"][-1] + block.rows["size"][-1])
        self._noted = len(self.skipped)
        return end

    def add(self, position: int, item: SourceItem, record: Record | ImageError) -> None:
        """Take the next image in source order."""
        self._consumed = position + 1
        name = item.path or f"image {position}"
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
        example_id = position if item.example_id is None else item.example_id
        self._rows[self.n_examples] = (
            example_id,
            item.label,
            0,  # the offset, known when the block is laid out
            len(record.data),
            record.checksum,
            record.width,
            record.height,
            record.mode,
            record.passed_through,
            record.tiled,
        )
        self.n_examples += 1
        self._pending_paths.append(item.path)
        self._pending.append(record.data)
        self._pending_bytes += len(record.data)
        if self._pending_bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write the pending records, then note them in the journal."""
        import pyarrow as pa

        first = self.n_examples - len(self._pending)
        rows = self.rows[first:]
        rows["offset"] = self._writer.place(rows["size"])
        self._writer.write_records(self._pending, rows["offset"])
        self._journal.append(
            Block(self._consumed, rows, self._pending_paths, self.skipped[self._noted :])
        )
        self._paths.append(pa.array(self._pending_paths, pa.string()))
        self._pending, self._pending_paths, self._pending_bytes = [], [], 0
        self._noted = len(self.skipped)

    def finish(self) -> None:
        """Write what is pending, then the tables."""
        import pyarrow as pa

        if self._pending:
            self._flush()
        rows = self.rows
        if not len(rows):
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
            parents=self._source.lineage,
            skipped=tuple(self.skipped),
        )
        metadata = np.zeros(len(rows), self._writer.dtype)
        for name in ("mode", "width", "height"):
            metadata["f0"][name] = rows[name]
        metadata["f1"] = rows["label"]
        extents = np.stack([rows["offset"], rows["size"]], axis=1)[:, None]
        paths = pa.chunked_array(self._paths, pa.string())
        trailer = Trailer(rows["example_id"], paths, rows["checksum"], manifest)
        self._writer.finish(metadata, extents, trailer)

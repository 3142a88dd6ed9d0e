"""Records of a bundle → a new bundle whose JPEGs are cut into restart tiles, without loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.atomic import atomic_path
from tamis.bundles.assembly import Part, metadata_of, paths_of, refuse_inputs, refuse_too_large
from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import JPEG_MODE
from tamis.bundles.pixels import image_error
from tamis.bundles.trailer import Trailer
from tamis.bundles.writer import BetonWriter
from tamis.devices import n_cores
from tamis.errors import WorkFailedError, first_line
from tamis.in_order import map_in_order
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress
from tamis.sources.shared_file import SharedFile
from tamis.tiles.transcoding import thread_tiler

__all__ = ["write_tiled"]

_CHUNK_BYTES, _CHUNK_EXAMPLES = 2 << 20, 256  # one call of a thread, and one write


@dataclass(frozen=True)
class _Chunk:
    """Examples as they are to be written.

    Attributes:
        records: k, each the payloads of an example, end to end as they lie in a page.
        sizes: (k, payload fields) int64 bytes.
        checksums: (k,) uint64.
        n_tiled: Examples whose image was written again.
        n_read: Bytes that they had before.
    """

    records: list[bytes]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    n_tiled: int
    n_read: int


def write_tiled(
    part: Part,
    out: Path,
    manifest: Manifest,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> int:
    """Write examples of a bundle as a new one, with tiles in every JPEG that can have them.

    Everything but the bytes of those JPEGs is kept: fields, labels, ids, paths, pixels. A record is
    compared with its checksum before it gets a new one. Memory: the tables, and O(workers) records.

    Args:
        part: What to write, in order; at least one example.
        out: The bundle to write.
        manifest: Its provenance.
        workers: Threads; None takes all cores.
        overwrite: Replace an existing ``out``.
        progress: Told of every byte read.

    Returns:
        How many images have new bytes.

    Raises:
        BundleError: A record of other bytes than were written, an example that does not fit a page,
            or a parent that changed meanwhile.
        SourceError: The parent cannot be opened again.
        WorkFailedError: The parent cannot be read.
        UsageError: ``out`` is the parent, or cannot be written.
    """
    bundle, positions = part.bundle, part.positions
    refuse_inputs(out, [bundle])
    n = len(positions)
    sizes = np.empty((n, len(bundle.payload_fields)), np.int64)
    starts, checksums = np.empty(n, np.int64), np.empty(n, np.uint64)
    at = n_tiled = 0
    work, n_threads = _Worker(bundle).chunk, workers or n_cores()
    total = int(bundle.extents[positions, :, 1].sum())
    with (
        atomic_path(out, overwrite=overwrite) as partial,
        BetonWriter(partial, bundle.fields, n, bundle.page_size) as writer,
        progress.task(f"tile → {out.name}", total) as advance,
        closing(map_in_order(work, _split(bundle, positions), n_threads, "tamis-tile")) as chunks,
    ):
        for chunk in chunks:
            rows = slice(at, at + len(chunk.records))
            at = rows.stop
            sizes[rows], checksums[rows] = chunk.sizes, chunk.checksums
            lengths = np.array([len(one) for one in chunk.records])
            refuse_too_large(bundle, lengths, writer.page_size)
            starts[rows] = writer.place(lengths)
            writer.write_records(chunk.records, starts[rows])
            n_tiled += chunk.n_tiled
            advance(chunk.n_read)
        room = np.maximum(sizes, 1)
        extents = np.stack([starts[:, None] + np.cumsum(room, axis=1) - room, sizes], axis=2)
        ids = bundle.example_ids[positions]
        trailer = Trailer(ids, paths_of([part]), checksums, manifest)
        writer.finish(metadata_of([part], writer.dtype), extents, trailer)
    return n_tiled


def _split(bundle: Bundle, positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    ends = np.cumsum(bundle.extents[positions, :, 1].sum(axis=1))
    first = 0
    while first < len(positions):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + _CHUNK_BYTES, side="right"))
        last = min(max(last, first + 1), first + _CHUNK_EXAMPLES)
        yield positions[first:last]
        first = last


class _Worker:
    """Makes chunks, on any number of threads."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._file = bundle, SharedFile(bundle.file)
        bundle.check_unchanged(bundle.file.stat())
        self._image = bundle.payload_fields.index(bundle.image_field)
        self._is_jpeg = bundle.metadata[f"f{bundle.image_field}"]["mode"] == JPEG_MODE

    def chunk(self, positions: NDArray[np.int64]) -> _Chunk:
        """Some examples, read, proven and tiled.

        Raises:
            BundleError: A record of other bytes than were written.
            WorkFailedError: The file cannot be read.
        """
        bundle = self._bundle
        records, checksums, n_tiled = [], bundle.checksums[positions], 0
        before = bundle.extents[positions, :, 1]
        sizes = before.copy()
        for row, position in enumerate(positions.tolist()):
            payloads = self._read(position, int(checksums[row]))
            if self._is_jpeg[position] and (tiled := self._tiled(payloads)) is not None:
                payloads[self._image] = tiled
                sizes[row, self._image] = len(tiled)
                checksums[row] = xxhash.xxh3_64_intdigest(b"".join(payloads))
                n_tiled += 1
            # An empty payload takes a byte, see BetonWriter.
            records.append(b"".join(payload or b"\0" for payload in payloads))
        return _Chunk(records, sizes, checksums, n_tiled, int(before.sum()))

    def _read(self, position: int, checksum: int) -> list[bytes]:
        extents = self._bundle.extents[position].tolist()
        try:
            payloads = [self._file.read(*extent) if extent[1] else b"" for extent in extents]
        except OSError as error:
            raise WorkFailedError(
                self._bundle.file,
                expected=f"the readable records of example {self._bundle.example_ids[position]}",
                found=first_line(error),
                do="check the disk, or restore the file",
            ) from error
        if xxhash.xxh3_64_intdigest(b"".join(payloads)) != checksum:
            raise image_error(self._bundle, position, "other bytes than were written")
        return payloads

    def _tiled(self, payloads: list[bytes]) -> bytes | None:
        """The image with tiles; None where it stays as it is, or would outgrow its page."""
        image = payloads[self._image]
        tiled = thread_tiler().tile(np.frombuffer(image, np.uint8))
        grown = sum(max(len(payload), 1) for payload in payloads) - len(image)
        if tiled is None or grown + len(tiled) > self._bundle.page_size:
            return None
        return tiled

"""Records of existing bundles → a new bundle, copied byte for byte.

What cut, merge and shard have in common: which examples, in which order, under which ids, is
theirs; laying out, copying and the tables are here. No image is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tamis.atomic import atomic_path
from tamis.bundles.bundle import Bundle
from tamis.bundles.copying import copy_runs, merge_runs
from tamis.bundles.trailer import Trailer
from tamis.bundles.writer import BetonWriter
from tamis.errors import BundleError, UsageError
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Part", "metadata_of", "paths_of", "refuse_inputs", "refuse_too_large", "write_parts"]


@dataclass(frozen=True)
class Part:
    """Examples of one bundle, in the order that they shall have in the new one.

    Attributes:
        bundle: Where they are.
        positions: (k,) int64 positions in it.
    """

    bundle: Bundle
    positions: NDArray[np.int64]


def write_parts(
    parts: Sequence[Part],
    out: Path,
    manifest: Manifest,
    *,
    example_ids: NDArray[np.int64] | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> None:
    """Write examples of bundles with equal fields as a new bundle.

    Every example keeps its encoded bytes, labels, path and checksum; pages are as large as the
    largest of the parts'. Memory: the tables, and a few MiB.

    Args:
        parts: What to write, in order; at least one example.
        out: The bundle to write.
        manifest: Its provenance.
        example_ids: (n,) int64 new ids; None keeps the examples' own.
        overwrite: Replace an existing ``out``.
        progress: Told of every byte copied.

    Raises:
        BundleError: An example that does not fit a page, or a parent that changed meanwhile.
        UsageError: ``out`` is one of the parts, or cannot be written.
    """
    refuse_inputs(out, [part.bundle for part in parts])
    n_examples = sum(len(part.positions) for part in parts)
    page_size = max(part.bundle.page_size for part in parts)
    fields = parts[0].bundle.fields
    with (
        atomic_path(out, overwrite=overwrite) as partial,
        BetonWriter(partial, fields, n_examples, page_size) as writer,
    ):
        placed = [_place(part, writer) for part in parts]
        total = sum(int(extents[..., 1].sum()) for extents in placed)
        with progress.task(f"copy → {out.name}", total) as advance:
            for part, extents in zip(parts, placed, strict=True):
                runs = merge_runs(part.bundle.extents[part.positions], extents)
                copy_runs(part.bundle, writer.descriptor, runs, advance)
        writer.finish(
            metadata_of(parts, writer.dtype),
            np.concatenate(placed),
            _trailer(parts, manifest, example_ids),
        )


def refuse_inputs(out: Path, bundles: Sequence[Bundle]) -> None:
    """Raise where an output would replace a bundle that it is made from.

    Raises:
        UsageError: ``out`` is one of the files of ``bundles``, by whatever name.
    """
    for file in {file for bundle in bundles for file in (bundle.path, bundle.file)}:
        if out.exists() and out.samefile(file):
            raise UsageError(
                out, expected="another file", found="the bundle itself", do="choose another name"
            )


def refuse_too_large(bundle: Bundle, sizes: NDArray[np.int64], page_size: int) -> None:
    """Raise where an example, of (n,) int64 bytes each, is larger than a page.

    Raises:
        BundleError: One is.
    """
    if sizes.max(initial=0) > page_size:
        raise BundleError(
            bundle.path,
            expected="the records of every example in one page",
            found=f"{sizes.max()} bytes in one example, pages of {page_size}",
            do="write the bundle again with a larger page size",
        )


def _place(part: Part, writer: BetonWriter) -> NDArray[np.int64]:
    """Offsets and sizes of every payload; the payloads of one example lie in one page."""
    sizes = part.bundle.extents[part.positions, :, 1]
    # An empty payload takes one byte: FFCV's own files let it share its neighbour's pointer.
    room = np.maximum(sizes, 1) if sizes.shape[1] else sizes
    totals = room.sum(axis=1)
    refuse_too_large(part.bundle, totals, writer.page_size)
    extents = np.empty((*sizes.shape, 2), np.int64)
    starts = writer.place(totals)
    extents[..., 0] = starts[:, None] + np.cumsum(room, axis=1) - room
    extents[..., 1] = sizes
    return extents


def metadata_of(parts: Sequence[Part], dtype: np.dtype[Any]) -> NDArray[np.void]:
    """The rows of FFCV's metadata table, (n,) of ``dtype``, with the parents' pointers."""
    n_examples = sum(len(part.positions) for part in parts)
    metadata = np.zeros(n_examples, dtype)  # its padding too: equal work, equal bytes
    at = 0
    for part in parts:
        rows = metadata[at : at + len(part.positions)]
        for name in metadata.dtype.names or ():
            rows[name] = part.bundle.metadata[name][part.positions]
        at += len(rows)
    return metadata


def _trailer(
    parts: Sequence[Part], manifest: Manifest, example_ids: NDArray[np.int64] | None
) -> Trailer:
    if example_ids is None:
        example_ids = np.concatenate([part.bundle.example_ids[part.positions] for part in parts])
    checksums = np.concatenate([part.bundle.checksums[part.positions] for part in parts])
    return Trailer(example_ids, paths_of(parts), checksums, manifest)


def paths_of(parts: Sequence[Part]) -> pa.ChunkedArray:
    """The source paths of all examples, nulls where a bundle knows of none."""
    import pyarrow as pa

    chunks: list[pa.Array] = []
    for part in parts:
        if part.bundle.paths is None:
            chunks.append(pa.nulls(len(part.positions), pa.string()))
        else:
            chunks += part.bundle.paths.take(part.positions).chunks
    return pa.chunked_array(chunks, pa.string())

"""Bundle + kept ids → pruned bundle, by copying encoded records byte for byte.

No image is decoded. Neighbouring records are copied in one call inside the kernel where it can
(``copy_file_range``), so the work runs at the disk's speed in constant memory.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.atomic import atomic_path
from tamis.bundles.beton import Bundle, file_identity
from tamis.bundles.trailer import Trailer
from tamis.bundles.writer import BetonWriter
from tamis.errors import BundleError, UsageError
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress

__all__ = ["CutReport", "cut"]

_COPY_BYTES = 64 << 20


@dataclass(frozen=True)
class CutReport:
    """What a cut did; ``keep_fraction`` is relative to the bundle it was cut from."""

    n_examples: int
    keep_fraction: float
    bytes: int
    seconds: float
    bytes_per_second: float
    peak_rss_bytes: int


def cut(
    bundle: Bundle,
    out: Path,
    example_ids: NDArray[np.int64],
    *,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> CutReport:
    """Write the given examples of a bundle as a new bundle.

    Fields, ids, paths, checksums and page size are the parent's; so is the order of the examples,
    whatever the order of ``example_ids``. The manifest records the parent and its ancestors.

    Args:
        bundle: The parent.
        out: The bundle to write.
        example_ids: (k,) int64 ids to keep, distinct, k ≥ 1.
        settings: How they were selected, for the manifest.
        overwrite: Replace an existing ``out``.
        progress: Told of every byte copied.

    Raises:
        BundleError: An id that the bundle does not hold.
        UsageError: No ids, repeated ids, or an output that cannot be written.
    """
    start = time.perf_counter()
    keep = _kept_positions(bundle, example_ids)
    sizes = bundle.extents[keep, :, 1]
    with atomic_path(out, overwrite=overwrite) as partial:
        if out.exists() and out.samefile(bundle.path):
            raise UsageError(
                out, expected="another file", found="the bundle itself", do="choose another name"
            )
        with BetonWriter(partial, bundle.fields, len(keep), bundle.page_size) as writer:
            extents = _place(bundle, writer, sizes)
            with progress.task(f"cut → {out.name}", int(sizes.sum())) as advance:
                for copied in _copy(bundle, writer, _runs(bundle.extents[keep], extents)):
                    advance(copied)
            metadata = np.zeros(len(keep), writer.dtype)  # its padding too: equal work, equal bytes
            for name in metadata.dtype.names or ():
                metadata[name] = bundle.metadata[name][keep]
            writer.finish(metadata, extents, _trailer(bundle, keep, settings or {}))
    seconds = time.perf_counter() - start
    written = out.stat().st_size
    return CutReport(
        n_examples=len(keep),
        keep_fraction=len(keep) / bundle.n_examples,
        bytes=written,
        seconds=seconds,
        bytes_per_second=written / seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _kept_positions(bundle: Bundle, example_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    ids = np.asarray(example_ids, np.int64)
    distinct = len(np.unique(ids))
    if not len(ids) or distinct < len(ids):
        raise UsageError(
            "selection",
            expected=f"distinct example ids, 1 to {bundle.n_examples} of them",
            found=f"{len(ids) - distinct} repeated ones" if len(ids) else "none",
            do="write the selection with: tamis select",
        )
    return np.sort(bundle.positions(ids))


def _place(bundle: Bundle, writer: BetonWriter, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets for every payload: the payloads of one example lie together in one page."""
    # An empty payload takes one byte: FFCV's own files let it share its neighbour's pointer.
    room = np.maximum(sizes, 1) if sizes.shape[1] else sizes
    totals = room.sum(axis=1)
    if totals.max(initial=0) > bundle.page_size:
        raise BundleError(
            bundle.path,
            expected="the records of every example in one page",
            found=f"{totals.max()} bytes in one example, pages of {bundle.page_size}",
            do="write the bundle again with a larger page size",
        )
    extents = np.empty((*sizes.shape, 2), np.int64)
    starts = writer.place(totals)
    extents[..., 0] = starts[:, None] + np.cumsum(room, axis=1) - room
    extents[..., 1] = sizes
    return extents


def _runs(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge payloads that are neighbours both here and there, (runs, 3): from, to, bytes."""
    source, target = sources[..., 0].ravel(), targets[..., 0].ravel()
    size = sources[..., 1].ravel()
    held = size > 0
    source, target, size = source[held], target[held], size[held]
    if not len(size):
        return np.empty((0, 3), np.int64)
    breaks = (source[1:] != source[:-1] + size[:-1]) | (target[1:] != target[:-1] + size[:-1])
    first = np.flatnonzero(np.concatenate([[True], breaks]))
    return np.stack([source[first], target[first], np.add.reduceat(size, first)], axis=1)


def _copy(bundle: Bundle, writer: BetonWriter, runs: NDArray[np.int64]) -> Iterator[int]:
    """Copy runs of bytes from the parent into the child; gives the sizes copied, in order."""
    with bundle.path.open("rb") as parent:
        if file_identity(os.fstat(parent.fileno())) != bundle.identity:
            raise BundleError(
                bundle.path,
                expected="the file that was opened before",
                found="another one in its place",
                do="open the bundle again",
            )
        for source, target, length in runs.tolist():
            end = source + length
            while source < end:
                size = min(end - source, _COPY_BYTES)
                copied = _copy_some(parent.fileno(), writer, source, target, size)
                source, target = source + copied, target + copied
                yield copied


def _copy_some(descriptor: int, writer: BetonWriter, source: int, target: int, length: int) -> int:
    try:
        copied = os.copy_file_range(descriptor, writer.descriptor, length, source, target)
    except OSError as error:
        # Across file systems, or where the file system has no such call.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        data = os.pread(descriptor, length, source)
        writer.write(data, target)
        copied = len(data)
    if copied == 0:
        raise BundleError(
            "the parent bundle",
            expected=f"{length} more bytes at {source}",
            found="its end",
            do="it was truncated while it was read: restore it and cut again",
        )
    return copied


def _trailer(bundle: Bundle, keep: NDArray[np.int64], settings: dict[str, Any]) -> Trailer:
    manifest = Manifest(
        operation="cut",
        settings=settings,
        classes=bundle.classes,
        parents=bundle.lineage,
        skipped=bundle.manifest.skipped if bundle.manifest else (),
    )
    paths = bundle.paths.take(keep) if bundle.paths is not None else [None] * len(keep)
    return Trailer(bundle.example_ids[keep], paths, bundle.checksums[keep], manifest)

"""Random records from a disk that has to be asked."""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tamis.benchmarks.loaders.contenders import Task
from tamis.benchmarks.loaders.worker import take_turns
from tamis.benchmarks.material import repeated
from tamis.benchmarks.measuring import Ceiling, Row, drop_from_cache
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.devices import n_cores
from tamis.errors import WorkFailedError
from tamis.progress import Progress
from tamis.sources.bundle_images import open_bundle_images

__all__ = ["cold_rows"]

_GOAL = 2.0
_SIDE = 64
_READERS = 16
_PEERS = ("ffcv", "plain FFCV")


def cold_rows(
    images: Bundle, work: Path, n_bytes: int, repetitions: int, progress: Progress
) -> Iterator[Row]:
    """Bytes a second of tamis and of FFCV, in random order, nothing of the file in memory.

    The images are stored as pixels of at most 160 × 160, so that the disk, and not decoding,
    decides.

    Raises:
        WorkFailedError: A loader keeps the file in memory.
    """
    raw = work / "raw.beton"
    convert(open_bundle_images(images.path), raw, ConvertSettings(mode="raw", max_side=160))
    size = int(open_bundle(raw).extents[..., 1].mean())
    large = repeated(open_bundle(raw), work / "cold.beton", n_bytes // size)
    ceiling = _reading(large)
    for every, what in ((1, "all"), (3, "a third")):
        task = Task(
            str(large.path), "", "", "train", _SIDE, 256, n_cores(), every=every, unmap=True
        )
        payload = int(large.extents[::every, :, 1].sum())
        seconds = _medians(task, large.path, repetitions, progress)
        ours, theirs = (payload / seconds[name] / 1e6 for name in _PEERS)
        name = f"ffcv: cold, {what} of the records in random order, {size / 1e3:.0f} kB each"
        row = Row(name, ours, "MB/s", "plain FFCV", theirs, ours / theirs, _GOAL)
        yield row.of(ours, 1.0, ceiling)


def _medians(task: Task, path: Path, repetitions: int, progress: Progress) -> dict[str, float]:
    """Seconds of an epoch, the file out of memory before each."""

    def forget(name: str) -> None:
        drop_from_cache(path)
        _refuse_cached(path, name)

    total = len(_PEERS) * (repetitions + 1)
    with progress.task("bench loaders, cold", total) as advance:
        asked = {name: (name, task) for name in _PEERS}
        turns = take_turns(asked, repetitions, advance, before=forget)
    return {
        name: statistics.median(turn.seconds for turn in taken[1:]) for name, taken in turns.items()
    }


def _reading(bundle: Bundle) -> Ceiling:
    """All records in random order by many threads that do nothing else, from the disk."""
    order = np.random.default_rng(0).permutation(bundle.n_examples)
    extents = bundle.extents[order].reshape(-1, 2).tolist()
    drop_from_cache(bundle.path)
    with bundle.path.open("rb") as file, ThreadPoolExecutor(_READERS) as pool:
        descriptor = file.fileno()

        def read(first: int) -> None:
            for offset, size in extents[first::_READERS]:
                os.pread(descriptor, size, offset)

        start = time.perf_counter()
        list(pool.map(read, range(_READERS)))
        seconds = time.perf_counter() - start
    total = int(bundle.extents[..., 1].sum())
    return Ceiling(f"reading them by {_READERS} threads", total / seconds / 1e6, "MB/s")


def _refuse_cached(path: Path, name: str) -> None:
    """A map that some process still holds keeps its pages: then nothing is cold."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        pages = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        buffer = np.frombuffer(view, np.uint8)
        address, length = buffer.ctypes.data, ctypes.c_size_t(len(view))
        ctypes.CDLL(None).mincore(
            ctypes.c_void_p(address), length, ctypes.c_void_p(pages.ctypes.data)
        )
        del buffer
    share = float((pages & 1).mean())
    if share > 0.02:
        raise WorkFailedError(
            path,
            expected=f"none of it in memory before {name} reads it",
            found=f"{share:.0%}",
            do="run without the cold part: --cold-gigabytes 0",
        )

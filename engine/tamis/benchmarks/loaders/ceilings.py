"""What the machine does at most: reading, decoding, copying."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np

from tamis.benchmarks.measuring import Ceiling
from tamis.bundles.bundle import Bundle
from tamis.devices import n_cores
from tamis.loaders.decoding import Decoder
from tamis.loaders.records import RecordReader

__all__ = ["copying", "decoding", "reading"]

_PIECE = 4 << 20
_TURNS = 5


def _seconds(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(_TURNS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def reading(bundle: Bundle) -> Ceiling:
    """The bundle's file from the page cache, on all cores."""
    size = bundle.file.stat().st_size
    buffers = [bytearray(_PIECE) for _ in range(n_cores())]
    with bundle.file.open("rb") as file, ThreadPoolExecutor(n_cores()) as pool:
        descriptor = file.fileno()

        def read(worker: int) -> None:
            for offset in range(worker * _PIECE, size, n_cores() * _PIECE):
                os.preadv(descriptor, [buffers[worker]], offset)

        seconds = _seconds(lambda: list(pool.map(read, range(n_cores()))))
    return Ceiling("reading the file from memory", size / seconds / 1e9, "GB/s")


def copying() -> Ceiling:
    """256 MB from memory to memory, on one core."""
    source = np.ones(256 << 20, np.uint8)
    target = np.empty_like(source)
    return Ceiling(
        "copying memory, one core",
        source.nbytes / _seconds(lambda: np.copyto(target, source)) / 1e9,
        "GB/s",
    )


def decoding(bundle: Bundle) -> Ceiling:
    """libjpeg-turbo in a loop over all JPEGs, on all cores, without cropping and resizing."""
    with closing(RecordReader(bundle)) as reader, ThreadPoolExecutor(n_cores()) as pool:
        parts = []
        for positions in np.array_split(np.arange(bundle.n_examples), n_cores()):
            records, _ = reader.read(positions, np.empty(0, np.int8))
            corner = np.tile([0, 0, 1, 1], (len(positions), 1))  # of one pixel
            out = np.empty((len(positions), 1, 1, 3), np.uint8)
            records = replace(records, proven=False)  # whole, not what the corner needs
            parts.append((Decoder(), records, corner, np.zeros(len(positions), np.bool_), out))
        seconds = _seconds(lambda: list(pool.map(lambda part: part[0].decode(*part[1:]), parts)))
    name = f"libjpeg-turbo alone on {n_cores()} cores"
    return Ceiling(name, bundle.n_examples / seconds, "images/s")

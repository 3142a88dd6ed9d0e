"""Every record of a bundle read once, in file order, on threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import BundleError, first_line
from tamis.in_order import map_in_order

__all__ = ["Span", "map_spans"]

# Larger leaves the cache between being read and being hashed; smaller has threads wait for Python.
_SPAN_BYTES = 4 << 20
_SPAN_EXAMPLES = 1 << 14

_T = TypeVar("_T")


@dataclass(frozen=True)
class Span:
    """Whole examples that lie together in the file.

    Attributes:
        positions: (k,) int64, where they stand in the bundle.
        starts: (k, payload fields) int64, first byte of each payload in ``data``.
        ends: (k, payload fields) int64, the byte after its last one.
        data: (bytes,) uint8; a buffer that the next span overwrites.
    """

    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    data: NDArray[np.uint8]


def map_spans(
    path: Path,
    descriptor: int,
    mapped: NDArray[np.uint8],
    extents: NDArray[np.int64],
    work: Callable[[Span], _T],
    workers: int,
) -> Generator[_T]:
    """Read every example once, in file order, on threads.

    Memory: O(workers) spans of 4 MiB. An example longer than that is not read but seen through
    the map. An exception here or in the caller, Ctrl-C too, ends the threads after their span.

    Args:
        path: The file, for messages.
        descriptor: The open file.
        mapped: (bytes,) uint8, its memory map.
        extents: (n, payload fields, 2) int64 offsets and sizes of the payloads.
        work: Called on a thread with each span.
        workers: Threads; with one, the caller's.

    Yields:
        What ``work`` returned, span by span in file order.

    Raises:
        BundleError: The file cannot be read, or ends early.
    """
    buffers = threading.local()

    def read_and_work(positions: NDArray[np.int64], low: int, high: int) -> _T:
        if high - low > _SPAN_BYTES:
            data = mapped[low:high]
        else:
            if not hasattr(buffers, "buffer"):
                buffers.buffer = np.empty(_SPAN_BYTES, np.uint8)
            data = buffers.buffer[: high - low]
            _read(path, descriptor, data, low)
        offsets, sizes = extents[positions, :, 0], extents[positions, :, 1]
        starts = np.where(sizes > 0, offsets - low, 0)  # empty ones may point anywhere
        return work(Span(positions, starts, starts + sizes, data))

    if workers == 1:
        for span in _spans(extents):
            yield read_and_work(*span)
        return
    yield from map_in_order(
        lambda span: read_and_work(*span), _spans(extents), workers, "tamis-read"
    )


def _spans(extents: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int, int]]:
    """Positions of the examples in each span, its first byte, and the byte after its last one."""
    offsets, sizes = extents[..., 0], extents[..., 1]
    held = sizes > 0
    high = np.where(held, offsets + sizes, 0).max(axis=1, initial=0)
    beyond = np.iinfo(np.int64).max
    low = np.where(held, offsets, beyond).min(axis=1, initial=beyond)
    low = np.minimum(low, high)  # an example without bytes is read at 0
    order = np.argsort(low, kind="stable")
    low, high = low[order], high[order]
    reached = np.maximum.accumulate(high)
    first = 0
    while first < len(order):
        last = int(np.searchsorted(reached, low[first] + _SPAN_BYTES, side="right"))
        last = min(max(last, first + 1), first + _SPAN_EXAMPLES)
        yield order[first:last], int(low[first]), int(high[first:last].max())
        first = last


def _read(path: Path, descriptor: int, buffer: NDArray[np.uint8], offset: int) -> None:
    view = memoryview(buffer.data)
    while len(view):
        try:
            got = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise BundleError(
                path,
                expected=f"{len(view)} readable bytes at {offset}",
                found=first_line(error),
                do="check the disk, or restore the file",
            ) from error
        if not got:
            raise BundleError(
                path,
                expected=f"{len(view)} more bytes at {offset}",
                found="the file's end",
                do="it was truncated while it was read: restore it",
            )
        view, offset = view[got:], offset + got

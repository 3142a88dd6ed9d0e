"""Bytes from one file into another, by the thousands of runs, at the speed of the disk.

Long runs are copied inside the kernel (``copy_file_range``). Short ones, where a call for each
would cost more than its bytes, are written straight from the parent's memory map, a thousand a
call. Measured in ``bench/records/NOTES.md``.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.progress import Advance

__all__ = ["copy_runs", "merge_runs"]

_LONG_RUN = 64 << 10  # mean bytes of a run from which the kernel's copy is the faster one
_COPY_BYTES = 64 << 20  # a group of long runs, and how far the disk is asked to read ahead
_GATHER = 1000  # short runs a call; the system's limit is 1024
_GATHER_BYTES = 8 << 20  # their pages count as the process's memory while they are written
_POPULATE_READ = 22  # MADV_POPULATE_READ, which Python's mmap does not name
_WRITE_OUT_BYTES = 8 << 20
_READ_GAP = 64 << 10  # reading on over so few bytes is cheaper than asking twice
_ELSEWHERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def merge_runs(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge payloads that are neighbours both here and there.

    Args:
        sources: (n, payload fields, 2) int64 offsets and sizes in the parent.
        targets: The same in the child.

    Returns:
        (runs, 3) int64: from, to, bytes.
    """
    source, target = sources[..., 0].ravel(), targets[..., 0].ravel()
    size = sources[..., 1].ravel()
    held = size > 0
    source, target, size = source[held], target[held], size[held]
    if not len(size):
        return np.empty((0, 3), np.int64)
    breaks = (source[1:] != source[:-1] + size[:-1]) | (target[1:] != target[:-1] + size[:-1])
    first = np.flatnonzero(np.concatenate([[True], breaks]))
    return np.stack([source[first], target[first], np.add.reduceat(size, first)], axis=1)


def copy_runs(bundle: Bundle, target: int, runs: NDArray[np.int64], advance: Advance) -> None:
    """Copy runs of bytes from a bundle's file.

    Args:
        bundle: The parent.
        target: Descriptor of the file to write.
        runs: (k, 3) int64: from, to, bytes; ascending in the target.
        advance: Told of every byte.

    Raises:
        BundleError: The parent was replaced or truncated since it was opened.
        OSError: The target cannot be written.
    """
    with bundle.file.open("rb") as parent:
        bundle.check_unchanged(os.fstat(parent.fileno()))
        if len(runs) and not (
            runs[:, 2].mean() >= _LONG_RUN
            and _copy_long(bundle, parent.fileno(), target, runs, advance)
        ):
            _gather(bundle, parent.fileno(), target, runs, advance)
        # Behind the new end of a truncated file a map reads zeros up to the end of the page.
        bundle.check_unchanged(os.fstat(parent.fileno()))


def _copy_long(
    bundle: Bundle, parent: int, target: int, runs: NDArray[np.int64], advance: Advance
) -> bool:
    """Copy inside the kernel; False where the file system cannot, before anything is copied."""
    done = 0
    write_out = _WriteOut(target, int(runs[0, 1]))
    for group in _read_ahead(parent, _groups(runs, len(runs), _COPY_BYTES)):
        for source, place, length in group.tolist():
            while length:
                try:
                    copied = os.copy_file_range(
                        parent, target, min(length, _COPY_BYTES), source, place
                    )
                except OSError as error:
                    if error.errno in _ELSEWHERE and not done:
                        return False
                    raise
                if not copied:
                    raise bundle.changed("one that ends sooner")
                source, place, length = source + copied, place + copied, length - copied
                done += copied
                advance(copied)
            write_out.up_to(place)
    return True


def _gather(
    bundle: Bundle, parent: int, target: int, runs: NDArray[np.int64], advance: Advance
) -> None:
    """Write many runs a call, from the memory map, which is let go of behind the writing."""
    # Not closed by hand: the slices of a failed write, which its traceback holds, would object.
    data = mmap.mmap(parent, bundle.identity[2], prot=mmap.PROT_READ)
    view = memoryview(data)
    write_out = _WriteOut(target, int(runs[0, 1]))
    short = _split(runs, _GATHER_BYTES)
    for group in _read_ahead(parent, _groups(short, _GATHER, _GATHER_BYTES)):
        _map_in(data, group)
        starts, ends = group[:, 0], group[:, 0] + group[:, 2]
        slices = [view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        _write_all(bundle, target, slices, int(group[0, 1]), int(group[:, 2].sum()), advance)
        # Pages of a map count as the process's memory until it says that it is done with them.
        low = int(starts.min()) // mmap.PAGESIZE * mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, low, int(ends.max()) - low)
        write_out.up_to(int(group[-1, 1] + group[-1, 2]))


class _WriteOut:
    """Has the system write to the disk what is copied while the rest is still being copied.

    Otherwise it would begin with the fsync at the end, and the processor would wait for it.
    """

    def __init__(self, target: int, start: int) -> None:
        self._target = target
        self._begun = start

    def up_to(self, end: int) -> None:
        if end - self._begun >= _WRITE_OUT_BYTES:
            # Linux begins to write dirty pages on this advice, and drops only clean ones.
            os.posix_fadvise(self._target, self._begun, end - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = end


def _map_in(data: mmap.mmap, group: NDArray[np.int64]) -> None:
    """Map pages by the stretch instead of a fault for every few: half of the time of small runs."""
    stretches = _stretches(group)
    if 2 * len(stretches) > len(group):
        return  # far apart: as many calls as faults
    # A system older than Linux 5.14 does not know the call, and a file cut short is noticed when
    # the bytes are written.
    with suppress(OSError):
        for start, end in stretches.tolist():
            start -= start % mmap.PAGESIZE
            data.madvise(_POPULATE_READ, start, end - start)


def _split(runs: NDArray[np.int64], n_bytes: int) -> NDArray[np.int64]:
    """Runs of at most so many bytes."""
    n_parts = -(-runs[:, 2] // n_bytes)
    if n_parts.max() == 1:
        return runs
    parts = np.repeat(runs, n_parts, axis=0)
    number = np.arange(len(parts)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    parts[:, :2] += (number * n_bytes)[:, None]
    parts[:, 2] = np.minimum(parts[:, 2] - number * n_bytes, n_bytes)
    return parts


def _groups(runs: NDArray[np.int64], most: int, n_bytes: int) -> Iterator[NDArray[np.int64]]:
    """Runs that lie next to each other in the target, at most so many and about so many bytes."""
    after_gap = np.flatnonzero(runs[1:, 1] != runs[:-1, 1] + runs[:-1, 2]) + 1
    after_bytes = np.flatnonzero(np.diff(np.cumsum(runs[:, 2]) // n_bytes)) + 1
    edges = np.unique(np.concatenate([[0], after_gap, after_bytes, [len(runs)]])).tolist()
    for first, last in pairwise(edges):
        for start in range(first, last, most):
            yield runs[start : min(start + most, last)]


def _read_ahead(parent: int, groups: Iterator[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """The groups, each after the disk was asked for it and for what follows."""
    waiting: deque[NDArray[np.int64]] = deque()
    n_bytes = 0
    for group in groups:
        _ask_for(parent, group)
        waiting.append(group)
        n_bytes += int(group[:, 2].sum())
        while n_bytes > _COPY_BYTES:
            n_bytes -= int(waiting[0][:, 2].sum())
            yield waiting.popleft()
    yield from waiting


def _ask_for(parent: int, group: NDArray[np.int64]) -> None:
    """Ask for all of a group at once where it is not in memory: the disk then reads in parallel."""
    middle = int(group[len(group) // 2, 0])
    try:
        # Fails at once where the page is not in memory.
        os.preadv(parent, [bytearray(1)], middle, os.RWF_NOWAIT)
    except BlockingIOError:
        for start, end in _stretches(group).tolist():
            os.posix_fadvise(parent, start, end - start, os.POSIX_FADV_WILLNEED)
    except OSError:
        return  # a file system that cannot tell


def _stretches(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 2) int64 first bytes and ends: runs that lie close together in the source are one."""
    by_place = group[np.argsort(group[:, 0], kind="stable")]
    ends = np.maximum.accumulate(by_place[:, 0] + by_place[:, 2])
    breaks = np.flatnonzero(by_place[1:, 0] - ends[:-1] > _READ_GAP)
    first = by_place[np.concatenate([[0], breaks + 1]), 0]
    return np.stack([first, ends[np.concatenate([breaks, [len(group) - 1]])]], axis=1)


def _write_all(
    bundle: Bundle,
    target: int,
    slices: list[memoryview],
    place: int,
    n_bytes: int,
    advance: Advance,
) -> None:
    while n_bytes:
        try:
            written = os.pwritev(target, slices, place)
        except OSError as error:
            if error.errno == errno.EFAULT:  # the map reaches beyond the file's new end
                raise bundle.changed("one that ends sooner") from error
            raise
        advance(written)
        place, n_bytes = place + written, n_bytes - written
        if n_bytes:
            slices = _rest(slices, written)


def _rest(slices: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the slices after a write that stopped short."""
    n_whole = 0
    while written >= len(slices[n_whole]):
        written -= len(slices[n_whole])
        n_whole += 1
    return [slices[n_whole][written:], *slices[n_whole + 1 :]]

"""Nearest prototypes by products in int8, bfloat16 or float32, certified, decided in float64.

For each chunk of rows: round the rows, multiply them with the table, collect the prototypes that
the bound of :mod:`tamis_kernels.cpu.prototype_table` cannot exclude, and compute the distances to
those few from the vectors as they were given. The work of O(n · k · d) runs in the fewest bits that
serve; the answer is float64's.

A thread takes whole chunks through all steps on one core. Libraries' own threads, which have to
meet after every product, were twice as slow (bench/records/NOTES.md).
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tamis_kernels.cpu.product_decision import decide
from tamis_kernels.cpu.product_rows import round_rows
from tamis_kernels.cpu.prototype_table import Precision, Table, precisions, prepare

__all__ = ["ProductSearch"]

_CHUNK_BYTES = 32 << 20  # of rounded rows and scores, of all threads together
_MOST_ROWS = 1024
# Scores of so many bytes stay in a second-level cache until they are looked through. Float32's
# products lose more by small chunks than that gains.
_SCORE_BYTES, _LEAST_ROWS = 1 << 20, 256
# Where the bound leaves more prototypes of a row than this, or this share of them, deciding between
# them costs more than products of the next finer precision.
_COARSE_LEAST, _COARSE_SHARE = 24, 0.025


class ProductSearch:
    """Finds the nearest two prototypes of rows.

    Args:
        prototypes: (k, d) float32 or float64, finite; none all zero where ``unit``.
        unit: Cosine: all vectors are divided by their norms.
        workers: Threads.
        finest: Nothing coarser is tried; None for what suits the CPU.
    """

    def __init__(
        self,
        prototypes: NDArray[Any],
        *,
        unit: bool,
        workers: int,
        finest: Precision | None = None,
    ) -> None:
        self._prototypes, self._unit, self._workers = prototypes, unit, max(workers, 1)
        choices = precisions(prototypes.shape[1])
        self._choices = choices[choices.index(finest) if finest in choices else 0 :]
        self.table = prepare(prototypes, unit=unit, precision=self._choices[0])

    def search(
        self,
        x: NDArray[Any],
        kind: int,
        rows: NDArray[np.int64],
        index: NDArray[np.int64],
        distance: NDArray[np.float64],
        second: NDArray[np.float64],
    ) -> int:
        """Fill index, distance and second distance of the rows.

        Args:
            x: (n, d) float32 or float64, or uint16 bits of float16 (kind 1) or bfloat16 (kind 2).
            kind: 0 for floats.
            rows: Which rows of ``x``; outputs are filled at their places.
            index: (n,) the nearest.
            distance: (n,) to it: Euclidean, or 1 − cos.
            second: (n,) to the second nearest; infinite with one prototype.

        Returns:
            How many rows had no direction (cosine: all zero, or not finite); theirs are NaN.
        """
        n_chunk = max(min(self._most_rows(), -(-len(rows) // self._workers)), 1)
        outputs = (index, distance, second)
        first, n_unusable = 0, 0
        while len(self._choices) > 1 and first + n_chunk < len(rows):
            with _one_thread_each(self.table.precision):
                survivors, some = _search_chunks(
                    self.table, x, kind, rows, iter((first,)), n_chunk, outputs
                )
            first, n_unusable = first + n_chunk, n_unusable + some
            if survivors <= n_chunk * max(_COARSE_LEAST, _COARSE_SHARE * len(self._prototypes)):
                break
            self._choices = self._choices[1:]
            self.table = prepare(self._prototypes, unit=self._unit, precision=self._choices[0])
        starts = iter(range(first, len(rows), n_chunk))  # its next() is atomic
        with _one_thread_each(self.table.precision), ThreadPoolExecutor(self._workers) as pool:
            futures = [
                pool.submit(_search_chunks, self.table, x, kind, rows, starts, n_chunk, outputs)
                for _ in range(self._workers)
            ]
            try:
                return n_unusable + sum(future.result()[1] for future in futures)
            except BaseException:
                collections.deque(starts, maxlen=0)  # nothing is left for the workers to begin
                raise

    def _most_rows(self) -> int:
        """Of a chunk: what all threads need together stays within the budget."""
        n_dimensions, padded = self.table.operand.shape
        bytes_a_row = 4 * n_dimensions + 4 * padded + 32
        most = _MOST_ROWS
        if self.table.precision != "float32":
            most = int(np.clip(_SCORE_BYTES // (4 * padded), _LEAST_ROWS, _MOST_ROWS))
        return int(np.clip(_CHUNK_BYTES // (self._workers * bytes_a_row), 1, most))


class _OneThread:
    """Products run on the calling thread alone while anybody is inside; then all is as before.

    The libraries' settings belong to the process, so the first to come saves them and the last to
    go restores them. Where a thread has a setting of its own, each restores it as it goes.

    Args:
        limit: Gives what restores the setting.
        of_threads: Whether threads have settings of their own.
    """

    def __init__(self, limit: Callable[[], Callable[[], object]], *, of_threads: bool) -> None:
        self._limit, self._lock, self._n_inside = limit, threading.Lock(), 0
        self._of_threads = of_threads
        self._restore: Callable[[], object] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._restore = self._limit()
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._of_threads or not self._n_inside:
                self._restore()


def _limit_blas() -> Callable[[], object]:
    limits = threadpool_limits(1, "blas")
    restore: Callable[[], object] = limits.restore_original_limits
    return restore


def _limit_torch() -> Callable[[], object]:
    import torch

    before = torch.get_num_threads()
    # Workers set theirs, and so does a caller for its first chunk; that is then also the setting of
    # threads not yet born.
    return lambda: torch.set_num_threads(before)


_BLAS = _OneThread(_limit_blas, of_threads=False)
_TORCH = _OneThread(_limit_torch, of_threads=True)


def _one_thread_each(precision: Precision) -> _OneThread:
    return _BLAS if precision == "float32" else _TORCH


def _search_chunks(
    table: Table,
    x: NDArray[Any],
    kind: int,
    rows: NDArray[np.int64],
    starts: Iterator[int],
    n_chunk: int,
    outputs: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]],
) -> tuple[int, int]:
    """Search chunks until ``starts`` ends; gives survivors of the bound and unusable rows."""
    multiply, operand, scores = _product(table, n_chunk)
    sizes, factors = np.empty((n_chunk, 3), np.float32), np.empty(n_chunk)
    counts = np.zeros(2, np.int64)
    for start in starts:
        some = rows[start : start + n_chunk]
        n = len(some)
        round_rows(
            x,
            kind,
            some,
            table.unit,
            table.centre,
            table.inverse_size,
            _work_row(x),
            operand,
            sizes,
            factors,
        )
        multiply(n)
        decide(
            x,
            kind,
            some,
            scores[:n],
            sizes,
            factors,
            table.scale,
            table.half_norms,
            table.errors,
            table.largest,
            table.exact,
            table.inverse_norms,
            table.unit,
            _work_row(x),
            outputs,
            counts,
        )
    return int(counts[0]), int(counts[1])


def _work_row(x: NDArray[Any]) -> NDArray[Any]:
    """Room for one row as the numbers it was given as: float64, or float32, which holds halves."""
    return np.empty(x.shape[1], np.float64 if x.dtype == np.float64 else np.float32)


def _product(
    table: Table, n_chunk: int
) -> tuple[Callable[[int], object], NDArray[Any], NDArray[Any]]:
    """A function that multiplies the first n rows of the operand into the scores; and both."""
    n_dimensions, padded = table.operand.shape
    if table.precision == "float32":
        rows = np.empty((n_chunk, n_dimensions), np.float32)
        scores = np.empty((n_chunk, padded), np.float32)
        return lambda n: np.dot(rows[:n], table.operand, out=scores[:n]), rows, scores
    import torch

    torch.set_num_threads(1)
    weights = torch.from_numpy(table.operand)
    if table.precision == "bfloat16":
        halves = torch.empty((n_chunk, n_dimensions), dtype=torch.bfloat16)
        products = torch.empty((n_chunk, padded), dtype=torch.bfloat16)
        weights = weights.view(torch.bfloat16)
        views = (halves.view(torch.uint16).numpy(), products.view(torch.uint16).numpy())
        return lambda n: torch.mm(halves[:n], weights, out=products[:n]), *views
    codes = torch.empty((n_chunk, n_dimensions), dtype=torch.int8)
    sums = torch.empty((n_chunk, padded), dtype=torch.int32)
    multiply = torch._int_mm
    return lambda n: multiply(codes[:n], weights, out=sums[:n]), codes.numpy(), sums.numpy()

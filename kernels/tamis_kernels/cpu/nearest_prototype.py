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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.cpu.product_decision import decide
from tamis_kernels.cpu.product_rows import round_rows
from tamis_kernels.cpu.products import Precision, Product, precisions
from tamis_kernels.cpu.prototype_table import prepare

__all__ = ["ProductSearch"]

_CHUNK_BYTES = 32 << 20  # of rounded rows and scores, of all threads together
_MOST_ROWS = 1024
# Scores of so many bytes stay in a second-level cache until they are looked through. A product that
# orders the matrix first, every time, wants more rows for that.
_SCORE_BYTES, _LEAST_ROWS = 1 << 20, 256
_SCORE_BYTES_UNPACKED, _LEAST_ROWS_UNPACKED = 1 << 21, 512
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
        self._prepare()

    def _prepare(self) -> None:
        self.table = prepare(self._prototypes, unit=self._unit, precision=self._choices[0])
        self._product = Product(self.table.operand)

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
            with self._product.one_thread_each:
                survivors, some = self._search_chunks(
                    x, kind, rows, iter((first,)), n_chunk, outputs
                )
            first, n_unusable = first + n_chunk, n_unusable + some
            if survivors <= n_chunk * max(_COARSE_LEAST, _COARSE_SHARE * len(self._prototypes)):
                break
            self._choices = self._choices[1:]
            self._prepare()
        starts = iter(range(first, len(rows), n_chunk))  # its next() is atomic
        with self._product.one_thread_each, ThreadPoolExecutor(self._workers) as pool:
            futures = [
                pool.submit(self._search_chunks, x, kind, rows, starts, n_chunk, outputs)
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
        at_once, least = _SCORE_BYTES, _LEAST_ROWS
        if self._product.packs_every_time:
            at_once, least = _SCORE_BYTES_UNPACKED, _LEAST_ROWS_UNPACKED
        most = int(np.clip(at_once // (4 * padded), least, _MOST_ROWS))
        return int(np.clip(_CHUNK_BYTES // (self._workers * bytes_a_row), 1, most))

    def _search_chunks(
        self,
        x: NDArray[Any],
        kind: int,
        rows: NDArray[np.int64],
        starts: Iterator[int],
        n_chunk: int,
        outputs: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]],
    ) -> tuple[int, int]:
        """Search chunks until ``starts`` ends; gives survivors of the bound and unusable rows."""
        table = self.table
        operand, multiply = self._product.room(n_chunk)
        sizes, factors = np.empty((n_chunk, 3), np.float32), np.empty(n_chunk)
        counts = np.zeros(2, np.int64)
        for start in starts:
            some = rows[start : start + n_chunk]
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
            decide(
                x,
                kind,
                some,
                multiply(len(some)),
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

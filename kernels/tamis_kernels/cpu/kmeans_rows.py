"""The rows of a k-means on the CPU, with what is kept of each between iterations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tamis_kernels.arrays import check_norms
from tamis_kernels.cpu.kmeans import move_bounds, row_norms, sum_by_label
from tamis_kernels.cpu.nearest_prototype import ProductSearch
from tamis_kernels.cpu.products import Precision

__all__ = ["CpuRows"]

_Blocks = Callable[[], Iterable[tuple[NDArray[Any], int]]]


class CpuRows:
    """n rows in blocks, and 48 bytes of state a row.

    Args:
        blocks: Gives the blocks anew for every pass, the same each time: (array, kind) with kind 0
            for float32 and float64, 1 and 2 for uint16 bits of float16 and bfloat16.
        unit: Rows are divided by their norms.
        weights: (n,) float64, or None for ones.

    Raises:
        ValueError: A row that is not finite, or with ``unit`` is all zero; no rows; another number
            of weights than of rows.
    """

    def __init__(self, blocks: _Blocks, *, unit: bool, weights: NDArray[np.float64] | None) -> None:
        self._blocks, self._unit = blocks, unit
        norms = []
        for x, kind in blocks():
            norms.append(np.empty(len(x)))
            row_norms(x, kind, norms[-1])
        of_row = np.concatenate(norms) if norms else np.empty(0)
        check_norms("x", of_row, directed=unit)
        self.n_rows = len(of_row)
        if weights is not None and len(weights) != self.n_rows:
            raise ValueError(f"weights: expected {self.n_rows} of them, found {len(weights)}")
        self._weights = np.ones(self.n_rows) if weights is None else weights
        self._factors = 1 / of_row if unit else np.ones(self.n_rows)
        self._multipliers = self._weights * self._factors
        self.total_weight = float(self._weights.sum())
        self.total_squares = float((self._weights * (of_row * self._factors) ** 2).sum())
        self.labels = np.full(self.n_rows, -1, np.int64)
        self._near, self._far = np.zeros(self.n_rows), np.zeros(self.n_rows)
        self._active = np.ones(self.n_rows, bool)
        self._finest: Precision | None = None

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows, ascending, as float32 and divided by their norms where that is asked for."""
        taken = []
        for part, x, kind in self._passes():
            some = rows[(rows >= part.start) & (rows < part.stop)]
            picked = _as_float64(x[some - part.start], kind) * self._factors[some, None]
            taken.append(picked.astype(np.float32))
        return np.concatenate(taken)

    def assign(
        self, centres: NDArray[np.float32], exact: NDArray[np.float64], drift: NDArray[Any] | None
    ) -> int:
        """Give every row the label of its nearest centre; returns how many changed.

        Args:
            centres: (k, d) float32.
            exact: The same in float64, divided by their norms where rows are.
            drift: (k,) how far each has moved since the last call; None at the first.
        """
        # Means of many rows lie close together: what was fine enough before may not be now.
        search = ProductSearch(
            centres, unit=self._unit, workers=numba.get_num_threads(), finest=self._finest
        )
        n_changed = 0
        for part, x, kind in self._passes():
            labels, near, far = self.labels[part], self._near[part], self._far[part]
            active = self._active[part]
            if drift is not None:
                factors = self._factors[part]
                move_bounds(x, kind, factors, exact, drift, labels, near, far, active)
            rows = np.flatnonzero(active)
            before = labels[rows]
            search.search(x, kind, rows, labels, near, far)
            if self._unit:  # 1 − cos is half the squared distance of unit vectors
                near[rows], far[rows] = np.sqrt(2 * near[rows]), np.sqrt(2 * far[rows])
            n_changed += int((labels[rows] != before).sum())
        self._finest = search.table.precision
        return n_changed

    def sums(self, n_centres: int, n_dimensions: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Σ w·x of each label (k, d) and Σ w (k,), float64, in the order of the rows."""
        sums = np.zeros((n_centres, n_dimensions))
        n_parts = min(numba.get_num_threads(), -(-n_dimensions // 64))
        for part, x, kind in self._passes():
            sum_by_label(x, kind, self._multipliers[part], self.labels[part], n_parts, sums)
        return sums, np.bincount(self.labels, self._weights, n_centres)

    def _passes(self) -> Iterator[tuple[slice, NDArray[Any], int]]:
        start = 0
        for x, kind in self._blocks():
            yield slice(start, start + len(x)), x, kind
            start += len(x)
        if start != self.n_rows:
            raise ValueError(f"x: expected {self.n_rows} rows in every pass, found {start}")


def _as_float64(rows: NDArray[Any], kind: int) -> NDArray[np.float64]:
    if kind == 1:
        return rows.view(np.float16).astype(np.float64)
    if kind == 2:
        return (rows.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return rows.astype(np.float64)

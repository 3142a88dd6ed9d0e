"""Runs that differ in their size and seed only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.points import Point

__all__ = ["Curve", "CurveKey", "make_curves"]

_Array = NDArray[np.float64]

_SAME_SIZE = 1.01  # runs whose numbers of examples differ by less stand in one cell


@dataclass(frozen=True, order=True)
class CurveKey:
    """What the runs of a curve have in common."""

    recipe: str
    budget: str
    metric: str
    side: str
    keep: float

    @property
    def name(self) -> str:
        """For people, without recipe and budget."""
        if self.metric == "full":
            return "all"
        side = "" if self.side == "random" else f", {self.side}"
        return f"{self.metric}{side}, keep {self.keep:g}"


@dataclass(frozen=True)
class Curve:
    """Errors by seed and size.

    Attributes:
        key: What the runs share.
        n_kept: (k,) examples trained on, ascending.
        n_total: (k,) examples that they were chosen from.
        seeds: (m,) int64, ascending.
        errors: (m, k) shares; NaN for a run that there is not.
    """

    key: CurveKey
    n_kept: _Array
    n_total: _Array
    seeds: NDArray[np.int64]
    errors: _Array

    @property
    def n_runs(self) -> NDArray[np.int64]:
        """(k,) runs of each size."""
        return np.asarray(np.isfinite(self.errors).sum(0), np.int64)

    @property
    def means(self) -> _Array:
        """(k,) mean errors."""
        return np.asarray(np.nanmean(self.errors, axis=0), np.float64)

    @property
    def deviations(self) -> _Array:
        """(m, k) relative deviations from the mean: those of log error, to first order."""
        return np.asarray(self.errors / self.means - 1, np.float64)

    def part(self, chosen: NDArray[np.bool_]) -> Curve:
        """Some of the sizes."""
        return Curve(
            self.key, self.n_kept[chosen], self.n_total[chosen], self.seeds, self.errors[:, chosen]
        )


def make_curves(points: Iterable[Point]) -> dict[CurveKey, Curve]:
    """Sort runs into curves, by key.

    Sizes at which no run errs are left out: their logarithm is none. Of runs with the same cell
    and seed the mean is taken.
    """
    grouped: dict[CurveKey, list[Point]] = defaultdict(list)
    for p in points:
        grouped[CurveKey(p.recipe, p.budget, p.metric, p.side, p.keep)].append(p)
    return {key: _curve(key, grouped[key]) for key in sorted(grouped)}


def _curve(key: CurveKey, points: list[Point]) -> Curve:
    points = sorted(points, key=lambda p: p.n_kept)
    kept = np.array([p.n_kept for p in points], np.float64)
    cell = np.concatenate([[0], np.cumsum(kept[1:] > _SAME_SIZE * kept[:-1])])
    seeds, row = np.unique([p.seed for p in points], return_inverse=True)
    shape = (len(seeds), cell[-1] + 1)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (row, cell), [p.error for p in points])
    np.add.at(count, (row, cell), 1)
    errors = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    per_cell = np.bincount(cell)
    stock = np.array([p.n_total for p in points], np.float64)
    curve = Curve(
        key,
        np.bincount(cell, kept) / per_cell,
        np.bincount(cell, stock) / per_cell,
        seeds.astype(np.int64),
        errors,
    )
    return curve.part(total.sum(0) > 0)

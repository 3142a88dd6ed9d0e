"""The best keep fraction for each number of kept examples: the Pareto envelope.

At every number of kept examples that was measured, the keep fractions compete whose curves reach
that far; between its sizes a curve is a straight line in log–log axes, beyond them it is not there.
(Fitted laws would not do: the theory's curves have knees that none of the laws has.) A point stands
where the winner was itself measured.

The least of several noisy errors is too low. So each seed's error is that of the fraction which the
*other* seeds call the best: the choice and the error then share no noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.curves import Curve, CurveKey
from tamis.scaling.noise import Noise

__all__ = ["Envelope", "make_envelope"]

_Array = NDArray[np.float64]

_SAME_SIZE = 1.01
_EXHAUSTED = 0.10  # how near to the least error of all counts as the least


@dataclass(frozen=True)
class Envelope:
    """The best of several keep fractions.

    Attributes:
        frontier: Errors of the winners, of each seed; ascending sizes, falling errors. Its key has
            keep 0.
        keep: (k,) the winners' keep fractions.
        n_total: The largest stock that was allowed.
        exhausted: (k,) bool: whether more kept examples gain less than 10 %, or than one standard
            error: the stock, not the number kept, limits the error. The first such point is not
            counted among them.
    """

    frontier: Curve
    keep: _Array
    n_total: float
    exhausted: NDArray[np.bool_]

    def judged(self, least: float) -> Curve:
        """The part that says how errors scale: from ``least`` kept on, until the stock is spent."""
        curve = self.frontier
        return curve.part(~self.exhausted & (curve.n_kept * _SAME_SIZE >= least))


def make_envelope(
    curves: Iterable[Curve], noise: Noise, n_total: float | None = None
) -> Envelope | None:
    """The envelope of the curves of one metric and side; keep 1 may be among them.

    Args:
        curves: At most one for each keep fraction.
        noise: Of their runs.
        n_total: The largest stock; None: the largest that was measured.

    Returns:
        None where no run has so small a stock.
    """
    curves = list(curves)
    largest = max(c.n_total.max() for c in curves) if n_total is None else n_total
    within = [c.part(c.n_total <= largest * _SAME_SIZE) for c in curves]
    within = [c for c in within if len(c.n_kept)]
    if not within:
        return None
    grid = _grid(within)
    seeds = np.unique(np.concatenate([c.seeds for c in within]))
    errors = np.stack([_along(c, grid, seeds) for c in within])  # (curves, seeds, sizes)
    there = np.isfinite(errors).any(1)
    means = np.where(there, _mean(errors, 1), np.inf)
    winner = means.argmin(0)
    columns = np.arange(len(grid))
    measured = np.array([_measured(within[w], size) for w, size in zip(winner, grid, strict=True)])
    honest = _by_other_seeds(errors, winner)
    value = _mean(honest, 0)
    least = np.minimum.accumulate(np.where(np.isfinite(value), value, np.inf))
    used = measured & (value < np.concatenate([[np.inf], least[:-1]]))
    stock = np.array([_stock(within[w], size) for w, size in zip(winner, grid, strict=True)])
    first = within[0].key
    named = next((c.key for c in within if c.key.metric != "full"), first)
    key = CurveKey(first.recipe, first.budget, named.metric, named.side, 0.0)
    frontier = Curve(key, grid[used], stock[used], seeds, honest[:, used])
    keep = np.array([within[w].key.keep for w in winner[columns[used]]])
    return Envelope(frontier, keep, float(largest), _exhausted(frontier, noise))


def _grid(curves: list[Curve]) -> _Array:
    """All sizes; of nearly equal ones the first."""
    sizes = np.sort(np.concatenate([c.n_kept for c in curves]))
    kept = [sizes[0]]
    for size in sizes[1:]:
        if size > _SAME_SIZE * kept[-1]:
            kept.append(size)
    return np.array(kept)


def _along(curve: Curve, grid: _Array, seeds: NDArray[np.int64]) -> _Array:
    """(seeds, sizes) errors by straight lines; NaN beyond the curve and for seeds without runs."""
    at = np.log(grid)
    known = np.log(curve.n_kept)
    low, high = known[0] - np.log(_SAME_SIZE), known[-1] + np.log(_SAME_SIZE)
    inside = (at >= low) & (at <= high)
    mean = np.exp(np.interp(at, known, np.log(curve.means)))
    errors = np.full((len(seeds), len(grid)), np.nan)
    rows = np.searchsorted(seeds, curve.seeds)
    for row, deviation in zip(rows, curve.deviations, strict=True):
        errors[row, inside] = (mean * (1 + np.interp(at, known, deviation)))[inside]
    # What was measured stands, also beside sizes at which a seed has no run.
    node = np.abs(at[:, None] - known).argmin(1)
    there = np.flatnonzero(np.abs(at - known[node]) < 1e-9)
    errors[rows[:, None], there] = curve.errors[:, node[there]]
    return errors


def _measured(curve: Curve, size: float) -> bool:
    ratio = curve.n_kept / size
    return bool(((ratio < _SAME_SIZE) & (ratio > 1 / _SAME_SIZE)).any())


def _stock(curve: Curve, size: float) -> float:
    return float(np.exp(np.interp(np.log(size), np.log(curve.n_kept), np.log(curve.n_total))))


def _by_other_seeds(errors: _Array, winner: NDArray[np.int64]) -> _Array:
    """(seeds, sizes) each seed's error where the other seeds have theirs least."""
    n_seeds, columns = errors.shape[1], np.arange(errors.shape[2])
    if n_seeds == 1:
        return np.asarray(errors[winner, 0, columns], np.float64)[None]
    rows = []
    for seed in range(n_seeds):
        others = np.delete(errors, seed, axis=1)
        means = np.where(np.isfinite(others).any(1), _mean(others, 1), np.inf)
        # A fraction that only this seed has is not chosen by others.
        rows.append(errors[means.argmin(0), seed, columns])
    return np.stack(rows)


def _mean(values: _Array, axis: int) -> _Array:
    """Over what there is; NaN where there is nothing."""
    count = np.isfinite(values).sum(axis)
    total = np.nansum(values, axis=axis)
    out = np.full(total.shape, np.nan)
    return np.asarray(np.divide(total, count, out=out, where=count > 0), np.float64)


def _exhausted(frontier: Curve, noise: Noise) -> NDArray[np.bool_]:
    if not len(frontier.n_kept):
        return np.zeros(0, np.bool_)
    means = frontier.means
    spread = np.sqrt(noise.variance(means[-1:]) / frontier.n_runs[-1:]) if noise.freedom else 0.0
    near = means <= means[-1] * (1 + np.maximum(_EXHAUSTED, spread))
    return np.asarray(near & (np.arange(len(near)) > near.argmax()), np.bool_)

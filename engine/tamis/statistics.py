"""Means with honest intervals, and paired differences, of a few seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Interval",
    "holm",
    "mean_interval",
    "paired_difference",
    "paired_p_value",
    "rank_correlation",
]


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % interval (Student's t); NaN width for one value."""

    mean: float
    half_width: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return bool(abs(self.mean) > self.half_width)


def mean_interval(values: NDArray[np.floating] | list[float]) -> Interval:
    """The mean of independent runs with its 95 % interval."""
    from scipy import stats

    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"), len(x))
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(float(x.mean()), half, len(x))


def paired_difference(a: dict[int, float], b: dict[int, float]) -> Interval | None:
    """Mean of a − b over the seeds that both have; None where there is none."""
    seeds = sorted(a.keys() & b.keys())
    return mean_interval([a[seed] - b[seed] for seed in seeds]) if seeds else None


def paired_p_value(a: dict[int, float], b: dict[int, float]) -> float:
    """Two-sided p-value of the paired t-test over the seeds that both have.

    NaN for fewer than two, and where all differences are the same, as happens with accuracies of a
    small test set: a spread of zero is no evidence.
    """
    from scipy import stats

    x = np.array([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
    if len(x) < 2 or np.ptp(x) <= 1e-12:
        return float("nan")
    t = x.mean() / (x.std(ddof=1) / np.sqrt(len(x)))
    return float(2 * stats.t.sf(abs(t), len(x) - 1))


def holm(p_values: NDArray[np.floating] | list[float]) -> NDArray[np.float64]:
    """p-values corrected for their number (Holm 1979): one below 5 % keeps the chance of any false
    one below 5 %, however they depend on each other.

    Args:
        p_values: (m,) without NaN.

    Returns:
        (m,) float64, in their order.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    factors = np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


def rank_correlation(columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spearman's correlation between columns.

    Args:
        columns: (m, n): m metrics of n examples.

    Returns:
        (m, m) float64; NaN for a constant column.
    """
    from scipy import stats

    ranks = np.stack([stats.rankdata(column) for column in columns])
    with np.errstate(invalid="ignore"):
        return np.atleast_2d(np.corrcoef(ranks))

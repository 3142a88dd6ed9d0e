"""Error against the number of kept examples, and the best that a stock of examples allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import UsageError
from tamis.theory.domain import ALPHA_PRUNE, KEEP, Side, as_points, check_range
from tamis.theory.solver import solve_points

__all__ = ["Best", "best_keep", "default_sizes", "error_curves"]

_Array = NDArray[np.float64]

_GRID = 17  # fractions in each round of the search for the best one
_ROUNDS = 3


@dataclass(frozen=True)
class Best:
    """The keep fraction with the least error, for each number of kept examples.

    Attributes:
        alpha_prune: (n,) kept examples per dimension.
        keep: (n,) the best fraction f_opt.
        error: (n,) the error there: the Pareto envelope.
        at_limit: (n,) bool, whether a smaller fraction, had it been allowed, might do better yet.
    """

    alpha_prune: _Array
    keep: _Array
    error: _Array
    at_limit: NDArray[np.bool_]


def default_sizes(n: int = 25, low: float = 0.5, high: float = 20.0) -> _Array:
    """``n`` numbers of kept examples per dimension, evenly spaced in their logarithm."""
    return np.geomspace(low, high, n)


def error_curves(
    alpha_prune: ArrayLike, keep: ArrayLike, theta: float = 0.0, side: Side = "hard"
) -> _Array:
    """Test error for each keep fraction and number of kept examples.

    Args:
        alpha_prune: (n,) kept examples per dimension, 0.05 to 200.
        keep: (m,) shares, 0.01 to 1.
        theta: Angle of the probe in degrees.
        side: Which examples are kept.

    Returns:
        (m, n) float64.

    Raises:
        UsageError: A value outside.
    """
    sizes, shares = np.atleast_1d(alpha_prune), np.atleast_1d(keep)[:, None]
    check_range("alpha_prune", sizes, ALPHA_PRUNE)
    check_range("keep", shares, KEEP)
    return solve_points(as_points(sizes / shares, shares, theta, side)).error


def best_keep(
    alpha_prune: ArrayLike,
    theta: float = 0.0,
    side: Side = "hard",
    *,
    largest_alpha_tot: float | None = None,
) -> Best:
    """The best keep fraction for a given number of kept examples.

    How many examples there are before pruning is free, up to ``largest_alpha_tot``: this is the
    choice of whoever pays for training, and can have as many candidates as he likes. With a perfect
    metric and alpha_prune ≥ 2 ever smaller fractions do ever better, so that the limit decides.

    Args:
        alpha_prune: (n,) kept examples per dimension.
        theta: Angle of the probe in degrees.
        side: Which examples are kept.
        largest_alpha_tot: Candidates per dimension; None for as many as keep ≥ 0.01 asks for.

    Raises:
        UsageError: A value outside, or fewer candidates than examples to keep.
    """
    sizes = np.atleast_1d(np.asarray(alpha_prune, np.float64))
    check_range("alpha_prune", sizes, ALPHA_PRUNE)
    least = np.full(sizes.shape, KEEP[0])
    if largest_alpha_tot is not None:
        if not largest_alpha_tot >= sizes.max():
            raise UsageError(
                "largest_alpha_tot",
                expected=f"at least the {sizes.max():g} that are kept",
                found=f"{largest_alpha_tot:g}",
                do="raise it, or keep fewer",
            )
        least = np.maximum(least, sizes / largest_alpha_tot)
    low, high = np.log(least), np.zeros_like(least)
    rows = np.arange(len(sizes))
    for _ in range(_ROUNDS):
        logs = np.linspace(low, high, _GRID, axis=1)
        shares = np.clip(np.exp(logs), least[:, None], 1.0)
        errors = solve_points(as_points(sizes[:, None] / shares, shares, theta, side)).error
        place = errors.argmin(1)
        low = logs[rows, np.maximum(place - 1, 0)]
        high = logs[rows, np.minimum(place + 1, _GRID - 1)]
    found, error = shares[rows, place], errors[rows, place]
    return Best(sizes, found, error, (found <= least * (1 + 1e-6)) & (least < 1))

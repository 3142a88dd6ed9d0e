"""Least squares of the laws, for many data sets side by side.

Every resample of a bootstrap is fitted anew, from several starts: a sweep asks for a hundred
thousand fits. All of a law on one curve are done at once, as arrays, by Levenberg's and Marquardt's
method with bounds. ``tests/engine/test_scaling_fitting.py`` compares it with scipy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.laws import Law, bend_of_axis, gradient, log_error

__all__ = ["Fitted", "fit_law"]

_Array = NDArray[np.float64]

_LARGEST_BETA = 3.0
_STARTS_BETA = (0.05, 0.5, 1.0, 2.0)
_STARTS_FLOOR = (0.0, 0.4, 0.8, 0.97)  # of the least error
_STEPS = 80
_CONVERGED = 1e-8  # relative change of the sum of squares


@dataclass(frozen=True)
class Fitted:
    """The best parameters of a law for each of m data sets.

    Attributes:
        theta: (m, 4) A, s, beta, c of :mod:`tamis.scaling.laws`.
        squares: (m,) the weighted sum of squares there.
    """

    theta: _Array
    squares: _Array


def fit_law(law: Law, x: _Array, y: _Array, weight: _Array) -> Fitted:
    """Minimise Σ weight (y − log error)².

    The slope s of laws with a fitted beta or floor is at least 0, beta at most 3: others would
    imitate each other. The two laws of straight lines are unbounded.

    Args:
        law: Which one.
        x: (n,) log(n / n0) of the sizes.
        y: (m, n) logarithms of errors.
        weight: (m, n) or (n,); 0 leaves a point out.
    """
    weight = np.broadcast_to(weight, y.shape)
    betas = _STARTS_BETA if law.beta is None else (law.beta,)
    floors = _STARTS_FLOOR if law.floor else (0.0,)
    least = np.where(weight > 0, y, np.inf).min(1)
    starts = [_start(x, y, weight, b, f * np.exp(least)) for b, f in product(betas, floors)]
    free = np.array([True, True, law.beta is None, law.floor])
    if law.beta is not None and not law.floor:
        theta = starts[0]
        squares = (weight * (y - log_error(theta, x)) ** 2).sum(1)
        return Fitted(theta, squares)
    n = len(starts)
    theta, squares = _descend(
        np.concatenate(starts), free, x, np.tile(y, (n, 1)), np.tile(weight, (n, 1))
    )
    squares = squares.reshape(n, len(y))
    best = squares.argmin(0)
    rows = np.arange(len(y))
    return Fitted(theta.reshape(n, len(y), 4)[best, rows], squares[best, rows])


def _start(x: _Array, y: _Array, weight: _Array, beta: float, floor: _Array) -> _Array:
    """The straight line through log(error − floor); exact for laws without a floor."""
    error = np.exp(y) - floor[:, None]
    z = np.log(np.where(weight > 0, error, 1.0)) if floor.any() else y
    if floor.any():  # of the logarithm of a difference, the error is larger
        weight = weight * (error / np.exp(y)) ** 2
    g = bend_of_axis(x, beta)
    total = weight.sum(1, keepdims=True)
    mean_g = (weight * g).sum(1, keepdims=True) / total
    mean_z = (weight * z).sum(1, keepdims=True) / total
    across = (weight * (g - mean_g) ** 2).sum(1, keepdims=True)
    slope = -(weight * (g - mean_g) * (z - mean_z)).sum(1, keepdims=True) / across
    level = mean_z + slope * mean_g
    return np.concatenate([level, slope, np.full_like(level, beta), floor[:, None]], axis=1)


def _descend(
    theta: _Array, free: NDArray[np.bool_], x: _Array, y: _Array, weight: _Array
) -> tuple[_Array, _Array]:
    """Parameters and sums of squares, each row on its own; rows that are done are not touched."""
    low = np.array([-np.inf, 0.0, 0.0, 0.0])
    high = np.array([np.inf, np.inf, _LARGEST_BETA, np.inf])
    theta = np.where(free, np.clip(theta, low, high), theta)
    residual = y - log_error(theta, x)
    squares = (weight * residual**2).sum(1)
    damping = np.full(len(theta), 1e-3)
    rows = np.arange(len(theta))
    for _ in range(_STEPS):
        if not len(rows):
            break
        now, w, target = theta[rows], weight[rows], y[rows]
        value = log_error(now, x)
        slopes = gradient(now, x, value)
        weighted = slopes * w[:, :, None]
        pull = (weighted * (target - value)[:, :, None]).sum(1)
        normal = np.einsum("rni,rnj->rij", weighted, slopes)
        held = ~free | ((now <= low) & (pull < 0)) | ((now >= high) & (pull > 0))
        step = _solve(normal, pull, held, damping[rows])
        tried = np.clip(now + step, low, high)
        tried[:, ~free] = now[:, ~free]
        found = (w * (target - log_error(tried, x)) ** 2).sum(1)
        before = squares[rows]
        better = found <= before
        theta[rows[better]], squares[rows[better]] = tried[better], found[better]
        damping[rows] = np.where(better, damping[rows] / 8, damping[rows] * 6)
        still = ~better & (damping[rows] < 1e9)
        still |= better & (before - found > _CONVERGED * before)
        rows = rows[still]
    return theta, squares


def _solve(normal: _Array, pull: _Array, held: NDArray[np.bool_], damping: _Array) -> _Array:
    """The damped Newton step; parameters that are held do not move."""
    moving = ~held
    system = normal * (moving[:, :, None] & moving[:, None, :])
    diagonal = np.einsum("rii->ri", system)
    scale = np.where(diagonal > 0, diagonal, 1.0)
    # Scaled by the diagonal, so that units do not matter.
    root = np.sqrt(scale)
    system = system / (root[:, :, None] * root[:, None, :])
    ridge = np.where(held | (diagonal <= 0), 1.0, damping[:, None] + 1e-12)
    system = system + ridge[:, :, None] * np.eye(4)
    return np.asarray(
        np.linalg.solve(system, (pull * moving / root)[:, :, None])[:, :, 0] / root, np.float64
    )

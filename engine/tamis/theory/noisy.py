"""Wrong labels and an imperfect scorer: least squares instead of a margin.

With wrong labels no student separates the kept examples, and the max-margin student ceases to
exist. Here the student is ridge regression on the labels, the setting of Dohmatob et al., *Why less
is more (sometimes): a theory of data curation* (2025); the formulas are derived anew in
``docs/theory.md`` and checked against :mod:`tamis.theory.noisy_simulation`. Pruning changes the law
of two coordinates only: with the second moments of these, everything is in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import UsageError
from tamis.theory.domain import Points, as_points, check_range
from tamis.theory.noisy_law import second_moments

__all__ = ["NOISE", "RIDGE", "Labels", "NoisySolution", "best_ridge", "solve_noisy"]

_Array = NDArray[np.float64]

NOISE = (0.0, 0.45)
"""Share of labels that are flipped, least and most."""
RIDGE = (0.0, 1e4)
"""Penalty on the squared length of the student, against the mean squared residual."""

_RIDGES = np.append(0.0, np.geomspace(1e-4, 1e3, 29))


@dataclass(frozen=True)
class Labels:
    """What the labels of a ridge student are like.

    Attributes:
        noise: Share that is flipped at random, 0 to 0.45.
        checked: As of :func:`solve_noisy`.
    """

    noise: float = 0.0
    checked: bool = False


@dataclass(frozen=True)
class NoisySolution:
    """The ridge student at each point; all arrays float64 of the broadcast shape.

    Attributes:
        points: What was asked, but for noise and ridge.
        error: Test error on right labels, arccos(R) / pi.
        R: Overlap of student and teacher.
        rho: Overlap of student and probe.
        ridge: The penalty.
    """

    points: Points
    error: _Array
    R: _Array
    rho: _Array
    ridge: _Array


def solve_noisy(
    alpha_tot: ArrayLike,
    keep: ArrayLike = 1.0,
    theta: ArrayLike = 0.0,
    side: ArrayLike = "hard",
    *,
    noise: ArrayLike = 0.0,
    ridge: ArrayLike = 0.0,
    checked: bool = False,
) -> NoisySolution:
    """The student that minimises mean (y − student·x)² + ridge \\|student\\|², in high dimensions.

    Args:
        alpha_tot, keep, theta, side: As of :func:`tamis.theory.solver.solve`.
        noise: Share of labels that are flipped at random, 0 to 0.45; the scorer sees none of them.
        ridge: 0 to 10⁴; 0 is the shortest of the least-squares students, which at alpha_prune = 1
            knows nothing (double descent).
        checked: Whether examples whose label the scorer contradicts are dropped before the others
            are ranked; ``keep`` is a share of all examples all the same.

    All broadcast.

    Raises:
        UsageError: A value outside, or more to keep than the check leaves.
    """
    check_range("noise", noise, NOISE, "give the share of wrong labels")
    check_range("ridge", ridge, RIDGE)
    flips, penalty = np.asarray(noise, np.float64), np.asarray(ridge, np.float64)
    asked = (alpha_tot, keep, theta, side, flips)
    try:
        shape = np.broadcast_shapes(*(np.shape(value) for value in asked))
        np.broadcast_shapes(shape, penalty.shape)
    except ValueError:
        raise UsageError(
            "the points",
            expected="arrays whose shapes fit each other",
            found=", ".join(str(np.shape(value)) for value in (*asked, penalty)),
            do="give numbers, or arrays of one shape",
        ) from None
    points = as_points(np.broadcast_to(np.asarray(alpha_tot, float), shape), keep, theta, side)
    m = second_moments(points, np.broadcast_to(flips, shape), checked=checked)
    # Few examples of many dimensions act as a larger ridge would on many examples.
    alpha = points.alpha_prune
    deficit = 1 / alpha - 1 + penalty
    effective = 0.5 * (deficit + np.sqrt(deficit * deficit + 4 * penalty))
    zz, ww = m.zz + effective, m.ww + effective
    det = zz * ww - m.zw * m.zw
    along, aside = (ww * m.yz - m.zw * m.yw) / det, (zz * m.yw - m.zw * m.yz) / det
    fit = m.zz * along * along + 2 * m.zw * along * aside + m.ww * aside * aside
    left = 1 - 2 * (along * m.yz + aside * m.yw) + fit
    # The part of the student across probe and teacher, which only fits accidents.
    share = 1 / ((1 + effective) ** 2 * alpha)
    across2 = left * share
    rest = np.maximum(1 - share, 0.0)
    angle = np.radians(points.theta)
    toward = along * np.cos(angle) + aside * np.sin(angle)
    off2 = (along * np.sin(angle) - aside * np.cos(angle)) ** 2
    error = np.arctan2(np.sqrt(off2 * rest + across2), toward * np.sqrt(rest)) / np.pi
    length = np.sqrt((along * along + aside * aside) * rest + across2)
    return NoisySolution(
        points,
        error=error,
        R=toward * np.sqrt(rest) / length,
        rho=along * np.sqrt(rest) / length,
        ridge=np.broadcast_to(penalty, error.shape).copy(),
    )


def best_ridge(
    alpha_tot: ArrayLike,
    keep: ArrayLike = 1.0,
    theta: ArrayLike = 0.0,
    side: ArrayLike = "hard",
    *,
    noise: ArrayLike = 0.0,
    checked: bool = False,
) -> NoisySolution:
    """:func:`solve_noisy` with the best of 30 ridges, 0 and 10⁻⁴ to 10³, for each point its own.

    Raises:
        UsageError: A value outside.
    """
    asked = [np.asarray(value)[..., None] for value in (alpha_tot, keep, theta, side, noise)]
    total, share, angle, which, flips = asked
    every = solve_noisy(total, share, angle, which, noise=flips, ridge=_RIDGES, checked=checked)
    place = every.error.argmin(-1)[..., None]

    def best(values: _Array) -> _Array:
        return np.take_along_axis(values, place, -1)[..., 0]

    p = every.points
    points = Points(p.alpha_prune[..., 0], p.keep[..., 0], p.theta[..., 0], p.side[..., 0])
    return NoisySolution(
        points, best(every.error), best(every.R), best(every.rho), best(every.ridge)
    )

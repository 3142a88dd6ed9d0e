"""What pruning leaves of the law of inputs and labels, where labels may be wrong.

A student that learns by least squares sees of it only second moments of (z, w, y): z the score of
the probe, w the part of the teacher that the probe misses. By symmetry z > 0 may be assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis.theory.domain import Points, threshold
from tamis.theory.gaussian import FAR, normal_density

__all__ = ["SecondMoments", "agreeing_share", "second_moments"]

_Array = NDArray[np.float64]

_SHARPEST = 1e-12
_AT, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_BISECTIONS = 60


@dataclass(frozen=True)
class SecondMoments:
    """Of the kept law; float64 arrays of the points' shape."""

    yz: _Array
    yw: _Array
    zz: _Array
    zw: _Array
    ww: _Array


def agreeing_share(theta: _Array, noise: _Array) -> _Array:
    """Share of examples whose label has the sign of the probe's score.

    Args:
        theta: Angle of the probe in degrees.
        noise: Share of wrong labels.
    """
    return noise + (1 - 2 * noise) * (1 - theta / 180)


def second_moments(points: Points, noise: _Array, *, checked: bool) -> SecondMoments:
    """Moments of the kept examples.

    Args:
        points: Which are kept.
        noise: Share of wrong labels, of the points' shape.
        checked: Whether examples whose label contradicts the probe are dropped first; ``keep`` is a
            share of all examples all the same.

    Raises:
        UsageError: More are to be kept than the check leaves.
    """
    low, high = _bounds(points, noise, checked)
    angle = np.radians(points.theta)
    tan = np.maximum(np.tan(angle), _SHARPEST)
    z, weight = _nodes(low, high, tan)
    right = (1 - 2 * noise)[..., None]
    edge = z / tan[..., None]
    density = 2 * normal_density(z) * weight
    at_edge, share = right * normal_density(edge), _share(edge, right)
    if not checked:
        mass = density.sum(-1)
        yz, yw = density * z * (2 * share - 1), density * 2 * at_edge
        zz, zw, ww = density * z * z, np.zeros_like(z), density
    else:
        mass = (density * share).sum(-1)
        yz, yw, zz = density * z * share, density * at_edge, density * z * z * share
        zw, ww = density * z * at_edge, density * (share - edge * at_edge)
    return SecondMoments(*(term.sum(-1) / mass for term in (yz, yw, zz, zw, ww)))


def _share(edge: _Array, right: Any) -> _Array:
    """P(label = +1 | z) of z = tan × edge, with wrong labels."""
    from scipy.special import ndtr

    return np.asarray(0.5 * (1 - right) + right * ndtr(edge), np.float64)


def _bounds(points: Points, noise: _Array, checked: bool) -> tuple[_Array, _Array]:
    """Kept are low ≤ \\|z\\| ≤ high."""
    easy, far = points.side == "easy", np.full(points.keep.shape, FAR)
    if not checked:
        gamma = np.minimum(np.where(points.blind, FAR, threshold(points.keep, points.side)), FAR)
        easy = easy & ~points.blind
        return np.where(easy, gamma, 0.0), np.where(easy, FAR, gamma)
    agreeing = agreeing_share(points.theta, noise)
    _refuse_too_many(points.keep, agreeing)
    # The mass below gamma grows with it; of easy ones the rest is kept.
    wanted = np.where(easy, np.maximum(agreeing - points.keep, 0), points.keep)
    tan = np.maximum(np.tan(np.radians(points.theta)), _SHARPEST)
    below, above = np.zeros_like(far), far
    for _ in range(_BISECTIONS):
        gamma = 0.5 * (below + above)
        z, weight = _nodes(np.zeros_like(far), gamma, tan)
        share = _share(z / tan[..., None], (1 - 2 * noise)[..., None])
        less = (2 * normal_density(z) * share * weight).sum(-1) < wanted
        below, above = np.where(less, gamma, below), np.where(less, above, gamma)
    gamma = np.where(points.side == "random", np.where(easy, 0.0, FAR), gamma)
    return np.where(easy, gamma, 0.0), np.where(easy, FAR, gamma)


def _refuse_too_many(keep: _Array, agreeing: _Array) -> None:
    over = keep > agreeing * (1 + 1e-9)
    if over.any():
        raise UsageError(
            "keep",
            expected=f"at most {agreeing[over].min():.3f}, the share that the scorer agrees with",
            found=f"{keep[over].max():g}",
            do="keep fewer, or do not check the labels",
        )


def _nodes(low: _Array, high: _Array, tan: _Array) -> tuple[_Array, _Array]:
    """Nodes and weights between low and high, denser where the teacher's boundary is."""
    scale = tan[..., None] * np.array([1.0, 3.0, 9.0])
    even = np.broadcast_to(np.array([2.0, 5.0]), (*low.shape, 2))
    breaks = np.concatenate([low[..., None], scale, even, high[..., None]], axis=-1)
    breaks = np.sort(np.clip(breaks, low[..., None], high[..., None]), axis=-1)
    half = 0.5 * np.diff(breaks, axis=-1)[..., None]
    z = breaks[..., :-1, None] + half * (1 + _AT)
    flat = (*low.shape, -1)
    return z.reshape(flat), (half * _WEIGHTS).reshape(flat)

"""Averages over what is kept: the wedge's moments, integrated over the probe score z.

The integrand is smooth but has features at very different scales: the teacher's boundary (tan theta
wide), the student's (as wide as the student errs), and where they meet. Each is where some linear
function of z crosses zero, so that its place and its width are known, and the nodes are put there:
Gauss–Legendre panels between break points at fixed multiples of each width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tamis.theory.domain import Points, threshold
from tamis.theory.gaussian import FAR, normal_density
from tamis.theory.plane_moments import wedge_moments

__all__ = ["KeptLaw", "Shortfall", "kept_law", "shortfall"]

_Array = NDArray[np.float64]

_NODES = 12
_OFFSETS = np.array([-8.0, -5.0, -2.5, 0.0, 2.5, 5.0, 8.0])
_GAUSSIAN = np.array([-FAR, -6.3, -3.2, 0.0, 3.2, 6.3, FAR])
_SHARPEST = 1e-12  # of tan theta: a perfect probe


@dataclass(frozen=True)
class KeptLaw:
    """The kept law of (z, label) for n points.

    Attributes:
        low, high: (n,) kept are low ≤ \\|z\\| ≤ high.
        keep: (n,) share of the whole law.
        sin, cos, tan: (n,) of the probe's angle.
    """

    low: _Array
    high: _Array
    keep: _Array
    sin: _Array
    cos: _Array
    tan: _Array

    def __getitem__(self, rows: NDArray[np.bool_] | slice) -> KeptLaw:
        """The law of some of the points."""
        return KeptLaw(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def kept_law(points: Points) -> KeptLaw:
    """Of points of shape (n,). Where all are kept, that of a perfect probe, which is the same."""
    blind, easy = points.blind, points.side == "easy"
    gamma = np.minimum(np.where(blind, np.inf, threshold(points.keep, points.side)), FAR)
    angle = np.where(blind, 0.0, np.radians(points.theta))
    return KeptLaw(
        low=np.where(easy & ~blind, gamma, 0.0),
        high=np.where(easy & ~blind, FAR, gamma),
        keep=np.where(blind, 1.0, points.keep),
        sin=np.sin(angle),
        cos=np.cos(angle),
        tan=np.maximum(np.tan(angle), _SHARPEST),
    )


@dataclass(frozen=True)
class Shortfall:
    """Moments of (1 − m)₊, m the margin of a student v, over the kept law.

    Attributes:
        p: (n,) share of examples with m < 1.
        square: (n,) E (1 − m)₊².
        pull: (n, 2) what E (1 − m)₊ y x is more than −p v in the directions z and w, by Stein's
            rule: integrals over the edges of the kept wedge. Across, the two are equal.
        gradient: (n, 3) E (1 − m)₊ y x, in the directions z, w and xi.
        hessian: (n, 3, 3) E [m < 1] x xᵀ.
    """

    p: _Array
    square: _Array
    pull: _Array
    gradient: _Array
    hessian: _Array

    def __getitem__(self, rows: NDArray[np.bool_]) -> Shortfall:
        """The moments of some of the points."""
        return Shortfall(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def put(self, rows: NDArray[np.intp], part: Shortfall) -> None:
        """Replace those of some points."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(part, name)


def shortfall(law: KeptLaw, v: _Array) -> Shortfall:
    """By a quadrature over z whose nodes follow the student.

    Args:
        law: Of n points.
        v: (n, 3) the student's components along the probe (z), along the part of the teacher that
            the probe misses (w), and across both (positive).
    """
    z, weight = _nodes(law, v)
    along, r, q = (v[:, [i]] for i in range(3))
    # The other label's half of the plane is this one's mirror image: twice the density.
    weight = weight * _density(z, law)
    m = wedge_moments(-z / law.tan[:, None], 1 - along * z, r, q)

    def mean(values: _Array) -> _Array:
        return np.asarray(np.einsum("ij,ij->i", weight, values), np.float64)

    p, edge = mean(m.p), mean(m.edge)
    pull = np.stack([edge / law.tan + _at_threshold(law, v), edge], axis=1)
    toward = np.concatenate([pull, np.zeros((len(v), 1))], axis=1)
    gradient = toward - p[:, None] * v
    zz, zw, zxi = mean(m.p * z * z), mean(m.w * z), mean(m.xi * z)
    ww, wxi, xixi = mean(m.ww), mean(m.wxi), mean(m.xixi)
    hessian = np.stack([zz, zw, zxi, zw, ww, wxi, zxi, wxi, xixi], axis=1).reshape(-1, 3, 3)
    return Shortfall(p, mean(m.ss), pull, gradient, hessian)


def _at_threshold(law: KeptLaw, v: _Array) -> _Array:
    """The part of the pull along z that comes from the jumps of the kept density at ±gamma."""
    inner = law.low > 0
    gamma = np.where(inner, law.low, law.high)
    z = np.stack([gamma, -gamma], axis=1)
    along, r, q = (v[:, [i]] for i in range(3))
    s = wedge_moments(-z / law.tan[:, None], 1 - along * z, r, q).s * _density(z, law)
    return np.asarray(np.where(inner, 1.0, -1.0) * (s[:, 0] - s[:, 1]), np.float64)


def _density(z: _Array, law: KeptLaw) -> _Array:
    return np.asarray(2 * normal_density(z) / law.keep[:, None], np.float64)


def _nodes(law: KeptLaw, v: _Array) -> tuple[_Array, _Array]:
    """Nodes and weights, (n, panels × 12), panels as many as the point with most of them has."""
    breaks = _breaks(law, v)
    left, width = breaks[:, :-1], np.diff(breaks, axis=1)
    middle = left + 0.5 * width
    kept = (np.abs(middle) > law.low[:, None]) & (width > 0)
    # Panels within the kept law first; of a point with fewer, others fill up and weigh nothing.
    first = np.argsort(~kept, axis=1, kind="stable")[:, : int(kept.sum(1).max())]
    width = np.take_along_axis(np.where(kept, width, 0.0), first, 1)[:, :, None]
    left = np.take_along_axis(left, first, 1)[:, :, None]
    at, share = _gauss_legendre()
    n = len(v)
    return (left + width * at).reshape(n, -1), (width * share).reshape(n, -1)


def _breaks(law: KeptLaw, v: _Array) -> _Array:
    """Sorted ends of the panels, (n, panels + 1), within ±``high``."""
    along, r, q = v.T
    sigma2 = r * r + q * q
    sigma = np.sqrt(sigma2)
    tan = law.tan
    # Linear functions of z, value + slope z, each with the scale on which its sign matters:
    # w0; the depth; eta and tau of the wedge.
    value = np.stack([np.zeros_like(r), 1 / sigma, 1 / q, -r / (sigma * q)], axis=1)
    slope = np.stack(
        [
            -1 / tan,
            -along / sigma,
            (r / tan - along) / q,
            (r * along / sigma2 - 1 / tan) * sigma / q,
        ],
        axis=1,
    )
    slope = np.where(np.abs(slope) < 1e-30, 1e-30, slope)
    features = (-value / slope)[:, :, None] + _OFFSETS / np.abs(slope)[:, :, None]
    edges = np.stack([-law.high, -law.low, law.low, law.high], axis=1)
    fixed = np.broadcast_to(_GAUSSIAN, (len(v), len(_GAUSSIAN)))
    every = np.concatenate([features.reshape(len(v), -1), edges, fixed], axis=1)
    return np.sort(np.clip(every, -law.high[:, None], law.high[:, None]), axis=1)


@cache
def _gauss_legendre() -> tuple[_Array, _Array]:
    """Nodes and weights on [0, 1]."""
    at, weights = np.polynomial.legendre.leggauss(_NODES)
    return 0.5 * (at + 1), 0.5 * weights

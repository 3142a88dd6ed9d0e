"""Gaussian moments of a wedge of the plane, in closed form.

w and xi are independent unit Gaussians, and the wedge is w > w0, r w + q xi < A: of the inputs with
one probe score those whose label is +1, and whose margin is too small. Two rules give everything.
Stein's, E[x F(x)] = E[grad F(x)], turns moments into integrals over the wedge's two edges, where
they are one-dimensional and elementary. What is left is the probability of the wedge itself, by
Owen's T (Owen 1956, Ann. Math. Stat. 27).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.theory.gaussian import normal_density

__all__ = ["Wedge", "bivariate_cdf", "wedge_moments"]

_Array = NDArray[np.float64]

_FAR = 8.5


@dataclass(frozen=True)
class Wedge:
    """Moments over the wedge D; s = A − r w − q xi is its depth, positive inside.

    Attributes:
        p: P(D).
        s, ss: E[s; D], E[s²; D].
        edge: The integral of s along the edge w = w0, with which E[s w; D] = edge − r P(D), while
            E[s xi; D] = −q P(D).
        w, xi, ww, wxi, xixi: E[w; D] and so on.
    """

    p: _Array
    s: _Array
    ss: _Array
    edge: _Array
    w: _Array
    xi: _Array
    ww: _Array
    wxi: _Array
    xixi: _Array


def wedge_moments(w0: _Array, depth: _Array, r: _Array, q: _Array) -> Wedge:
    """Moments of w > w0, r w + q xi < depth.

    Args:
        w0: Where the first edge crosses w; ±1e12 stands for no edge.
        depth: A.
        r: Slope; any sign.
        q: Positive.

    All four broadcast. Rounding leaves an absolute error of about 1e-16 (1 + A² + r²).
    """
    from scipy.special import ndtr

    sigma = np.hypot(r, q)
    along, across = r / sigma, q / sigma  # the second edge's outward normal, in (w, xi)
    beta = depth / sigma  # its distance from the origin
    eta = (depth - r * w0) / q  # xi where the edges meet
    tau = (w0 - along * beta) / across  # the same point, as a place on the second edge
    p = bivariate_cdf(beta, -w0, -along, across)
    p = np.where((beta > -_FAR) & (w0 < _FAR), p, 0.0)  # below what rounding leaves of it
    at_w0, at_eta, cdf_eta = normal_density(w0), normal_density(eta), ndtr(eta)
    first = at_w0 * cdf_eta  # weight of the first edge
    at_beta = normal_density(beta)
    beyond, at_tau = ndtr(-tau), normal_density(tau)
    second = at_beta * beyond  # weight of the second edge
    second_w = at_beta * (along * beta * beyond + across * at_tau)
    second_xi = at_beta * (across * beta * beyond - along * at_tau)
    s = depth * p - r * first + sigma * second
    edge = at_w0 * q * (eta * cdf_eta + at_eta)
    return Wedge(
        p=p,
        s=s,
        ss=depth * s - r * edge + sigma * sigma * p,
        edge=edge,
        w=first - along * second,
        xi=-across * second,
        ww=p + w0 * first - along * second_w,
        wxi=-across * second_w,
        xixi=p - across * second_xi,
    )


def bivariate_cdf(h: _Array, k: _Array, correlation: _Array, root: _Array) -> _Array:
    """P(a < h, b < k) of two correlated unit Gaussians.

    Args:
        h, k: Bounds.
        correlation: Between −1 and 1, exclusive.
        root: √(1 − correlation²), which the caller may know more exactly than it can be computed.
    """
    from scipy.special import ndtr, owens_t

    h, k = _off_zero(h), _off_zero(k)
    opposite = (h < 0) != (k < 0)
    halves = 0.5 * (ndtr(h) + ndtr(k)) - 0.5 * opposite
    of_h = owens_t(h, (k / h - correlation) / root)
    of_k = owens_t(k, (h / k - correlation) / root)
    return np.asarray(np.maximum(halves - of_h - of_k, 0.0), np.float64)


def _off_zero(x: _Array) -> _Array:
    """Owen's formula divides by its bounds; it is continuous, so any tiny one does."""
    return np.where(np.abs(x) < 1e-100, 1e-100, x)

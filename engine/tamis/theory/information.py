"""What one more kept example tells about the teacher, in nats, with a perfect metric.

The students that agree with all kept examples fill a volume; its logarithm per dimension is S, and
the information per example is −dS/d alpha_prune. Two answers are given, and kept apart:

- :func:`paper_information` is the formula of Sorscher et al. It takes the overlap of two such
  students, q, for their overlap with the teacher, R. That is exact where all examples are kept.
- :func:`gibbs_information` keeps q and R apart and solves for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import WorkFailedError
from tamis.theory.domain import ALPHA_PRUNE, KEEP, check_range, threshold
from tamis.theory.gaussian import FAR, normal_density

__all__ = ["GibbsStudent", "gibbs_information", "paper_information"]

_Array = NDArray[np.float64]

_MULTIPLES = np.array([-9.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 9.0])
_LOG_ROOT = 0.5 * np.log(2 * np.pi)
_AT, _WEIGHTS = np.polynomial.legendre.leggauss(20)


@dataclass(frozen=True)
class GibbsStudent:
    """A student drawn evenly from all that agree with the kept examples; arrays of one shape.

    Attributes:
        information: Nats per example.
        q: Overlap of two such students.
        R: Overlap of one with the teacher.
    """

    information: _Array
    q: _Array
    R: _Array


def paper_information(R: ArrayLike, keep: ArrayLike = 1.0) -> _Array:
    """Information per example as the paper's formula has it.

    −(2/f) ∫Dt [H(√(R/(1−R)) t) − H((gamma + √R t)/√(1−R))] log H(√(R/(1−R)) t).

    Args:
        R: Overlap of student and teacher, 0 to 1, exclusive.
        keep: Share of the hardest that is kept, 0.01 to 1.

    Returns:
        float64 of the broadcast shape, in nats: log 2 for R → 0, whatever is kept.

    Raises:
        UsageError: A value outside.
    """
    overlaps, shares = np.broadcast_arrays(np.asarray(R, float), np.asarray(keep, float))
    check_range("R", overlaps, (1e-12, 1 - 1e-8), "give an overlap above 0 and below 1")
    check_range("keep", shares, KEEP)
    values = [
        _information(one, one, share)
        for one, share in zip(overlaps.ravel(), shares.ravel(), strict=True)
    ]
    return np.array(values).reshape(overlaps.shape)


def gibbs_information(alpha_prune: ArrayLike, keep: ArrayLike = 1.0) -> GibbsStudent:
    """Information per example with both overlaps, from the saddle point of the entropy.

    S(q, R) = log(1 − q)/2 + (q − R²)/(2(1 − q)) − alpha_prune I(q, R).

    Args:
        alpha_prune: Kept examples per dimension, 0.05 to 200.
        keep: Share of the hardest that is kept, 0.01 to 1.

    Raises:
        UsageError: A value outside.
        WorkFailedError: The saddle point was not found.
    """
    alphas, shares = np.broadcast_arrays(np.asarray(alpha_prune, float), np.asarray(keep, float))
    check_range("alpha_prune", alphas, ALPHA_PRUNE)
    check_range("keep", shares, KEEP)
    found = np.empty((alphas.size, 3))
    for keep in sorted({float(share) for share in shares.ravel()}):
        rows = np.flatnonzero(shares.ravel() == keep)
        rows = rows[np.argsort(alphas.ravel()[rows])]
        found[rows] = _saddles(alphas.ravel()[rows], keep)
    return GibbsStudent(*(column.reshape(alphas.shape) for column in found.T))


def _saddles(alphas: _Array, keep: float) -> _Array:
    """(n, 3): information, q and R for ascending alphas, each found from the one before."""
    from scipy.optimize import root
    from scipy.special import expit, logit

    at = ALPHA_PRUNE[0]
    place = np.array([logit(0.6 * at), logit(0.6 * at)])
    found = []
    for alpha in alphas:
        for step in np.geomspace(at, alpha, 2 + int(8 * np.log(max(alpha / at, 1))))[1:]:
            place = root(_stationarity, place, args=(step, keep), tol=1e-11).x
        at = alpha
        q = float(expit(place[0]))
        R = float(np.sqrt(q * expit(place[1])))
        if np.abs(_stationarity(place, alpha, keep)).max() > 1e-8:
            raise WorkFailedError(
                f"information at alpha_prune {alpha:g}, keep {keep:g}",
                expected="a saddle point",
                found=f"none near q = {q:g}, R = {R:g}",
                do="report this point",
            )
        found.append((_information(q, R, keep), q, R))
    return np.array(found)


def _stationarity(place: _Array, alpha: float, keep: float) -> _Array:
    """dS/dR and dS/dq, as the logarithms of the ratios of their two terms.

    ``place`` holds logit(q) and logit(R²/q). By Gauss's rules of differentiation
    dI/dR = −(2/f)(phi(0) E[L'|u=0] − phi(gamma) E[L'|u=gamma]) and dI/dq = E[L'²]/2, with u the
    teacher's field, tau the students' common one and L(tau) = log Phi(tau/√(1−q)).
    """
    from scipy.special import expit

    q, ratio = expit(place[0]), expit(place[1])
    rest, R, free = expit(-place[0]), np.sqrt(q * ratio), q * expit(-place[1])
    gamma = min(float(threshold(keep, "hard")), 4 * FAR)
    t, weight = _gauss(np.array([[0.0, np.sqrt(rest / free)], [-R * gamma / np.sqrt(free), 0.5]]))
    at_zero = weight @ _mills(np.sqrt(free / rest) * t)
    at_gamma = normal_density(gamma) * (
        weight @ _mills((R * gamma + np.sqrt(free) * t) / np.sqrt(rest))
    )
    pull = 2 / keep * (normal_density(0.0) * at_zero - at_gamma) / np.sqrt(rest)
    t, weight = _kept_weight(q, R, free, keep)
    square = weight @ np.square(_mills(np.sqrt(q / rest) * t)) / rest
    return np.array(
        [np.log(alpha * rest * max(pull, 1e-300) / R), np.log(alpha * rest**2 * square / free)]
    )


def _information(q: float, R: float, keep: float) -> float:
    from scipy.special import log_ndtr

    free = q - R * R
    t, weight = _kept_weight(q, R, free, keep)
    return float(-weight @ log_ndtr(np.sqrt(q / (1 - q)) * t))


def _kept_weight(q: float, R: float, free: float, keep: float) -> tuple[_Array, _Array]:
    """Nodes t of the common field √q t, and weights with the share that is kept there."""
    from scipy.special import ndtr

    gamma = min(float(threshold(keep, "hard")), 4 * FAR)
    width, root = np.sqrt(free) / R, np.sqrt(q)
    features = [[0.0, np.sqrt((1 - q) / q)], [0.0, width], [gamma * root / R, width]]
    t, weight = _gauss(np.array(features))
    kept = ndtr(t / width) - ndtr((t - gamma * root / R) / width)
    return t, weight * kept * 2 / keep


def _gauss(features: _Array) -> tuple[_Array, _Array]:
    """Nodes and weights of the Gaussian measure, denser around each (centre, width)."""
    even = np.linspace(-FAR, FAR, 7)
    breaks = np.concatenate([(features[:, :1] + features[:, 1:] * _MULTIPLES).ravel(), even])
    breaks = np.unique(np.clip(breaks, -FAR, FAR))
    half = 0.5 * np.diff(breaks)[:, None]
    t = (breaks[:-1, None] + half * (1 + _AT)).ravel()
    return t, (half * _WEIGHTS).ravel() * normal_density(t)


def _mills(x: _Array) -> _Array:
    """phi(x) / Phi(x)."""
    from scipy.special import log_ndtr

    return np.asarray(np.exp(-0.5 * x * x - log_ndtr(x) - _LOG_ROOT), np.float64)

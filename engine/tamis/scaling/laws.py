"""Five laws of error against the number of examples, as members of one family.

With x = log(n / n0), n0 the geometric mean of the sizes, all are

    log error = log(exp(A − s g(x)) + c),      g(x) = (exp(beta x) − 1) / beta,

where A is the logarithm of what can be learned at n0, s its local slope there, beta says how the
slope goes with n (as n**beta) and c is the error that stays. beta = 0 is a power law, beta = 1 an
exponential, all between stretched exponentials. These parameters stay finite where the usual ones
do not: as beta goes to 0, the a and b of a exp(−(b n)**beta) go to infinity, A and s to those of
the power law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LAWS",
    "POWER",
    "Law",
    "bend_of_axis",
    "gradient",
    "local_slope",
    "log_error",
    "size_of_error",
]

_Array = NDArray[np.float64]

_FLAT = 1e-8  # beta below which the power law is meant


@dataclass(frozen=True)
class Law:
    """A law.

    Attributes:
        name: For people and files.
        short: For tables.
        formula: Of the error.
        beta: Its value; None where it is fitted.
        floor: Whether the error that stays, c, is fitted.
        natural: Turns (…, 4) parameters A, s, beta, c and n0 into those of the formula.
    """

    name: str
    short: str
    formula: str
    beta: float | None
    floor: bool
    natural: Callable[[_Array, float], dict[str, _Array]]

    @property
    def n_parameters(self) -> int:
        """How many are fitted."""
        return 2 + (self.beta is None) + self.floor

    @property
    def is_power(self) -> bool:
        """Whether it is a power law, saturating or not."""
        return self.beta == 0


def log_error(theta: _Array, x: _Array) -> _Array:
    """Logarithm of the error.

    Args:
        theta: (m, 4) A, s, beta, c.
        x: (n,) or (m, n) log(n / n0).

    Returns:
        (m, n) float64.
    """
    level, slope, beta, floor = _columns(theta)
    learned = level - slope * bend_of_axis(x, beta)
    with np.errstate(divide="ignore"):
        return np.logaddexp(learned, np.log(floor))


def gradient(theta: _Array, x: _Array, value: _Array) -> _Array:
    """Derivatives of :func:`log_error`, whose result is ``value``, by A, s, beta and c.

    Returns:
        (m, n, 4) float64.
    """
    level, slope, beta, _ = _columns(theta)
    g = bend_of_axis(x, beta)
    share = np.exp(np.minimum(level - slope * g - value, 0.0))
    safe = np.where(np.abs(beta) > _FLAT, beta, 1.0)
    by_beta = np.where(np.abs(beta) > _FLAT, (x * np.exp(beta * x) - g) / safe, 0.5 * x * x)
    return np.stack([share, -share * g, -share * slope * by_beta, np.exp(-value)], axis=-1)


def local_slope(theta: _Array, x: _Array) -> _Array:
    """−d log error / d log n.

    Returns:
        (m, n) float64.
    """
    level, slope, beta, _ = _columns(theta)
    share = np.exp(np.minimum(level - slope * bend_of_axis(x, beta) - log_error(theta, x), 0.0))
    return np.asarray(share * slope * np.exp(beta * x), np.float64)


def size_of_error(theta: _Array, error: float) -> _Array:
    """log(n / n0) at which each law reaches an error; NaN where none does.

    Returns:
        (m,) float64.
    """
    level, slope, beta, floor = theta.T
    with np.errstate(divide="ignore", invalid="ignore"):
        g = (level - np.log(error - floor)) / slope
        safe = np.where(np.abs(beta) > _FLAT, beta, 1.0)
        x = np.where(np.abs(beta) > _FLAT, np.log1p(safe * g) / safe, g)
    reached = (error > floor) & (slope > 0)
    return np.asarray(np.where(reached, x, np.nan), np.float64)


def bend_of_axis(x: _Array, beta: _Array | float) -> _Array:
    """g: the axis on which the law without its floor is a straight line."""
    beta = np.asarray(beta, np.float64)
    safe = np.where(np.abs(beta) > _FLAT, beta, 1.0)
    return np.asarray(np.where(np.abs(beta) > _FLAT, np.expm1(safe * x) / safe, x), np.float64)


def _columns(theta: _Array) -> tuple[_Array, ...]:
    return tuple(theta[:, [i]] for i in range(4))


def _power(theta: _Array, centre: float) -> dict[str, _Array]:
    level, slope = theta[..., 0], theta[..., 1]
    with np.errstate(over="ignore"):
        return {"a": np.exp(level + slope * np.log(centre)), "nu": slope}


def _saturating(theta: _Array, centre: float) -> dict[str, _Array]:
    return _power(theta, centre) | {"c": theta[..., 3]}


def _exponential(theta: _Array, centre: float) -> dict[str, _Array]:
    level, slope = theta[..., 0], theta[..., 1]
    with np.errstate(over="ignore"):
        return {"a": np.exp(level + slope), "b": slope / centre}


def _exponential_floor(theta: _Array, centre: float) -> dict[str, _Array]:
    return _exponential(theta, centre) | {"c": theta[..., 3]}


def _stretched(theta: _Array, centre: float) -> dict[str, _Array]:
    level, slope, beta = theta[..., 0], theta[..., 1], theta[..., 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rate = slope / beta
        return {
            "a": np.exp(level + rate),
            "b": np.exp(np.log(rate) / beta) / centre,
            "beta": beta,
        }


POWER = Law("power", "power", "a n^-nu", 0.0, False, _power)
"""The law that others are compared with."""
LAWS = (
    POWER,
    Law("saturating power", "power + c", "a n^-nu + c", 0.0, True, _saturating),
    Law("exponential", "exp", "a exp(-b n)", 1.0, False, _exponential),
    Law("exponential with floor", "exp + c", "a exp(-b n) + c", 1.0, True, _exponential_floor),
    Law("stretched exponential", "stretched", "a exp(-(b n)^beta)", None, False, _stretched),
)
"""All of them; of two that are as good, the earlier one is chosen."""

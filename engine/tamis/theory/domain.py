"""What may be asked of the theory, and which examples a pruner keeps.

Inputs are unit Gaussians x of N dimensions with labels y = sign(T·x). A probe at angle theta to
the teacher T scores them: z = probe·x, and an example is the harder the smaller |z|. ``hard`` keeps
|z| < gamma, ``easy`` |z| > gamma, ``random`` looks at nothing; gamma is such that the share
``keep`` is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import UsageError

__all__ = [
    "ALPHA_PRUNE",
    "KEEP",
    "THETA",
    "Points",
    "Side",
    "as_points",
    "check_range",
    "threshold",
]

Side = Literal["hard", "easy", "random"]

ALPHA_PRUNE = (0.05, 200.0)
"""Kept examples per dimension, least and most."""
KEEP = (0.01, 1.0)
"""Share that is kept, least and most."""
THETA = (0.0, 60.0)
"""Angle between probe and teacher in degrees, least and most."""

_SLACK = 1e-9  # of products such as 0.1 × 0.5, which round


@dataclass(frozen=True)
class Points:
    """Points of the domain, as arrays of one shape.

    Attributes:
        alpha_prune: Kept examples per dimension, ``keep`` × alpha_tot; float64.
        keep: Share that is kept; float64.
        theta: Angle between probe and teacher in degrees; float64.
        side: ``hard``, ``easy`` or ``random``; str.
    """

    alpha_prune: NDArray[np.float64]
    keep: NDArray[np.float64]
    theta: NDArray[np.float64]
    side: NDArray[np.str_]

    @property
    def alpha_tot(self) -> NDArray[np.float64]:
        """Examples per dimension before pruning."""
        return self.alpha_prune / self.keep

    @property
    def blind(self) -> NDArray[np.bool_]:
        """Where the kept examples are distributed as all are, whatever the probe."""
        return np.asarray((self.side == "random") | (self.keep == 1.0), np.bool_)


def as_points(
    alpha_tot: ArrayLike,
    keep: ArrayLike = 1.0,
    theta: ArrayLike = 0.0,
    side: ArrayLike = "hard",
) -> Points:
    """Broadcast and check.

    Args:
        alpha_tot: Examples per dimension before pruning; ``keep`` × ``alpha_tot`` from 0.05 to 200.
        keep: Share to keep, 0.01 to 1.
        theta: Angle of the probe in degrees, 0 to 60.
        side: ``hard``, ``easy`` or ``random``.

    Raises:
        UsageError: A value outside, or shapes that do not fit each other.
    """
    numbers = [np.asarray(value, np.float64) for value in (alpha_tot, keep, theta)]
    try:
        total, share, angle, names = np.broadcast_arrays(*numbers, np.asarray(side, np.str_))
    except ValueError:
        raise UsageError(
            "alpha_tot, keep, theta, side",
            expected="arrays whose shapes fit each other",
            found=", ".join(str(np.shape(v)) for v in (alpha_tot, keep, theta, side)),
            do="give numbers, or arrays of one shape",
        ) from None
    check_range("keep", share, KEEP, "keep a share in this range")
    check_range("theta", angle, THETA, "give the angle in degrees")
    kept = total * share
    check_range("keep × alpha_tot", kept, ALPHA_PRUNE, "change alpha_tot or keep")
    for name in np.unique(names):
        if name not in get_args(Side):
            raise UsageError(
                "side", expected="hard, easy or random", found=str(name), do="name one of these"
            )
    # Rounding may have carried them over an end.
    share, angle = np.asarray(np.clip(share, *KEEP)), np.asarray(np.clip(angle, *THETA))
    return Points(np.asarray(kept), share, angle, names.copy())


def check_range(
    name: str, values: ArrayLike, limits: tuple[float, float], do: str = "change it"
) -> None:
    """Refuse what lies outside, NaN included.

    Raises:
        UsageError: The first value outside of ``limits``, which are inclusive.
    """
    flat = np.ravel(np.asarray(values, np.float64))
    low, high = limits
    inside = (flat >= low * (1 - _SLACK)) & (flat <= high * (1 + _SLACK))
    if not inside.all():
        raise UsageError(
            name, expected=f"{low:g} to {high:g}", found=f"{flat[~inside][0]:g}", do=do
        )


def threshold(keep: ArrayLike, side: ArrayLike) -> NDArray[np.float64]:
    """gamma: ``hard`` keeps |z| below it, ``easy`` above; infinity where all may be kept."""
    from scipy.special import ndtri

    share = np.asarray(keep, np.float64)
    names = np.asarray(side, np.str_)
    # H(gamma) = tail, with H the upper tail of the Gaussian.
    tail = np.where(names == "easy", share / 2, (1 - share) / 2)
    gamma = -ndtri(tail)
    return np.asarray(np.where(names == "random", np.inf, np.abs(gamma)), np.float64)

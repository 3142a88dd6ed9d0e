"""Where keeping the hardest wins, and where the easiest.

Each question can be asked of both students: the max-margin one (``labels=None``), and, where a
share of the labels may be wrong, ridge regression with its best penalty.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.theory.domain import ALPHA_PRUNE, KEEP, THETA, check_range
from tamis.theory.noisy import Labels, best_ridge
from tamis.theory.solver import solve

__all__ = ["crossover", "phase_map", "student_error"]

_Array = NDArray[np.float64]

_GRID = 33


def student_error(
    alpha_tot: ArrayLike,
    keep: ArrayLike,
    theta: ArrayLike,
    side: ArrayLike,
    labels: Labels | None = None,
) -> _Array:
    """Test error of the max-margin student, or with ``labels`` of the best ridge student.

    Raises:
        UsageError: A value outside.
    """
    if labels is None:
        return solve(alpha_tot, keep, theta, side).error
    return best_ridge(
        alpha_tot, keep, theta, side, noise=labels.noise, checked=labels.checked
    ).error


def phase_map(
    alpha_tot: ArrayLike, keep: ArrayLike, theta: float = 0.0, labels: Labels | None = None
) -> _Array:
    """Error of the hardest minus error of the easiest; negative where the hardest win.

    Args:
        alpha_tot: (n,) examples per dimension before pruning.
        keep: (m,) shares, 0.01 to 1.
        theta: Angle of the probe in degrees.
        labels: Those of the ridge student; None for the max-margin student.

    Returns:
        (m, n) float64; NaN where ``keep`` × ``alpha_tot`` leaves the domain.

    Raises:
        UsageError: A share or an angle outside.
    """
    totals, shares = np.broadcast_arrays(
        np.atleast_1d(np.asarray(alpha_tot, np.float64)),
        np.atleast_1d(np.asarray(keep, np.float64))[:, None],
    )
    kept = totals * shares
    inside = (kept >= ALPHA_PRUNE[0]) & (kept <= ALPHA_PRUNE[1])
    found = np.full(totals.shape, np.nan)
    found[inside] = _lead(totals[inside], shares[inside], theta, "easy", labels)
    return found


def crossover(
    keep: ArrayLike,
    theta: ArrayLike = 0.0,
    against: Literal["easy", "random"] = "easy",
    labels: Labels | None = None,
) -> _Array:
    """alpha_tot from which on keeping the hardest is better; just below, the rival is.

    Args:
        keep: Shares, 0.01 to 1, exclusive: with all kept, the sides are the same.
        theta: Angles of the probe in degrees.
        against: The rival; ``random`` examples are as many as the kept ones.
        labels: Those of the ridge student; None for the max-margin student.

    Returns:
        float64 of the broadcast shape, to nine digits; NaN where one side wins for every
        alpha_prune from 0.05 to 200.

    Raises:
        UsageError: A value outside.
    """
    from scipy.optimize.elementwise import find_root

    shares, angles = np.broadcast_arrays(np.asarray(keep, float), np.asarray(theta, float))
    check_range("keep", shares, (KEEP[0], 0.999), "keep a share below 1")
    check_range("theta", angles, THETA, "give the angle in degrees")
    flat, tilt = shares.ravel(), angles.ravel()
    grid = np.geomspace(*ALPHA_PRUNE, _GRID)
    wins = _lead(grid / flat[:, None], flat[:, None], tilt[:, None], against, labels) < 0
    # The last size at which the rival wins, and the next.
    place = _GRID - 1 - (~wins)[:, ::-1].argmax(1)
    some = ~wins.all(1) & (place < _GRID - 1)

    def lead(size: _Array, share: _Array, angle: _Array) -> _Array:
        return _lead(np.exp(size) / share, share, angle, against, labels)

    found = np.full(flat.shape, np.nan)
    if some.any():
        ends = np.log(grid[place[some]]), np.log(grid[place[some] + 1])
        roots = find_root(lead, ends, args=(flat[some], tilt[some]))
        found[some] = np.exp(roots.x) / flat[some]
    return found.reshape(shares.shape)


def _lead(
    total: _Array, share: _Array, angle: ArrayLike, against: str, labels: Labels | None
) -> _Array:
    return student_error(total, share, angle, "hard", labels) - student_error(
        total, share, angle, against, labels
    )

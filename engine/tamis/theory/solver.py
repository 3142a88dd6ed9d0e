"""Error, overlaps and margin of the max-margin student of many dimensions.

A student of N dimensions is, up to rotation, three numbers: its components along the probe (z),
along the part of the teacher that the probe misses (w), and across both (xi). Gordon's comparison
theorem turns max-margin learning into a convex programme of these three,

    minimise |v|² / 2   where   √(alpha_prune E (1 − m)₊²) ≤ v_xi,
                                m = y (v_z z + v_w w) + v_xi xi,

whose solution is v = student / kappa. It has the same stationary point as the replica calculation
of Sorscher et al. (their equations hold at it: see the tests), needs no replicas, and its solution
is unique. Solved by sequential quadratic programming, for many points at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import WorkFailedError
from tamis.theory.domain import Points, as_points
from tamis.theory.kept_law import KeptLaw, kept_law, shortfall

__all__ = ["Solution", "solve", "solve_points"]

_Array = NDArray[np.float64]

_WANTED = 1e-10  # the residual at which the search stops
_ALLOWED = 1e-8  # the largest that is handed out
_STEPS = 200
_CHUNK = 128  # points at once: about 40 MB of temporaries


@dataclass(frozen=True)
class Solution:
    """The student at each point; all arrays float64 of the points' shape.

    Attributes:
        points: What was asked.
        error: Test error, arccos(R) / pi.
        R: Overlap of student and teacher.
        rho: Overlap of student and probe.
        kappa: Margin of the student of length 1 (inputs have length √N).
        residual: The largest relative error of the three stationarity equations; at most 1e-8.
    """

    points: Points
    error: _Array
    R: _Array
    rho: _Array
    kappa: _Array
    residual: _Array


def solve(
    alpha_tot: ArrayLike, keep: ArrayLike = 1.0, theta: ArrayLike = 0.0, side: ArrayLike = "hard"
) -> Solution:
    """Solve at one point or at many.

    Args:
        alpha_tot: Examples per dimension before pruning; ``keep`` × ``alpha_tot`` from 0.05 to 200.
        keep: Share to keep, 0.01 to 1.
        theta: Angle between probe and teacher in degrees, 0 to 60; 0 is a perfect metric.
        side: ``hard``, ``easy`` or ``random``.

    All four broadcast. A point takes 3 ms of one core alone, 0.8 ms among thousands (measured on an
    Intel Xeon, 2.8 and 0.80 ms; at most 21 ms of 1,000 random points).

    Raises:
        UsageError: A point outside.
        WorkFailedError: A residual above 1e-8, which has not been seen in the domain.
    """
    return solve_points(as_points(alpha_tot, keep, theta, side))


def solve_points(points: Points) -> Solution:
    """:func:`solve` for checked points."""
    shape = points.keep.shape
    flat = Points(
        points.alpha_prune.ravel(), points.keep.ravel(), points.theta.ravel(), points.side.ravel()
    )
    law = kept_law(flat)
    v, residual = np.empty((flat.keep.size, 3)), np.empty(flat.keep.size)
    for start in range(0, len(v), _CHUNK):
        part = slice(start, start + _CHUNK)
        v[part], residual[part] = _minimise(law[part], flat.alpha_prune[part])
    if (residual > _ALLOWED).any():
        worst = int(residual.argmax())
        raise WorkFailedError(
            f"alpha_tot {flat.alpha_tot[worst]:g}, keep {flat.keep[worst]:g},"
            f" theta {flat.theta[worst]:g}, {flat.side[worst]}",
            expected=f"a solution with a residual of at most {_ALLOWED:g}",
            found=f"{residual[worst]:.1e}",
            do="report this point",
        )
    length = np.sqrt((v * v).sum(1))
    toward = law.cos * v[:, 0] + law.sin * v[:, 1]
    aside = np.hypot(law.sin * v[:, 0] - law.cos * v[:, 1], v[:, 2])
    # Where all are kept, the law is that of a perfect probe, and the probe is the teacher's shadow.
    seen = np.where(flat.blind, np.cos(np.radians(flat.theta)), 1.0)
    return Solution(
        points,
        error=(np.arctan2(aside, toward) / np.pi).reshape(shape),
        R=(toward / length).reshape(shape),
        rho=(seen * v[:, 0] / length).reshape(shape),
        kappa=(1 / length).reshape(shape),
        residual=residual.reshape(shape),
    )


def _minimise(law: KeptLaw, alpha: _Array) -> tuple[_Array, _Array]:
    """(n, 3) students and (n,) residuals."""
    state = _State(law, alpha, _start(law, alpha))
    while (deep := state.deep).any():
        longer = state[deep]
        state.put(np.flatnonzero(deep), _State(longer.law, longer.alpha, 0.6 * longer.v))
    multiplier = state.first_multiplier()
    penalty = np.zeros(len(alpha))
    best, best_residual = state.v.copy(), np.full(len(alpha), np.inf)
    rows = np.arange(len(alpha))
    for _ in range(_STEPS):
        residual = state.residual()
        better = residual < best_residual[rows]
        best[rows[better]], best_residual[rows[better]] = state.v[better], residual[better]
        open_ = residual > _WANTED
        if not open_.any():
            break
        rows, state = rows[open_], state[open_]
        multiplier, penalty = multiplier[open_], penalty[open_]
        step, multiplier = state.step(multiplier)
        penalty = np.maximum(penalty, 1.5 * multiplier)
        state, moved = _search(state, step, penalty)
        if not moved.any():
            break  # rounding decides from here on
        rows, state = rows[moved], state[moved]
        multiplier, penalty = multiplier[moved], penalty[moved]
    return best, best_residual


def _start(law: KeptLaw, alpha: _Array) -> _Array:
    """A student near the teacher, roughly as good and as long as the solution."""
    useful = alpha * np.where(law.low > 0, 0.2, 1 / np.maximum(law.keep, np.maximum(law.sin, 0.01)))
    wrong = np.pi / (2 + 2 * useful)  # the angle to the teacher
    length = np.sqrt(1 / alpha) + useful / 2
    toward, across = length * np.cos(wrong), length * np.sin(wrong)
    return np.stack([toward * law.cos, toward * law.sin, across], axis=1)


_ARRAYS = ("alpha", "v", "norm", "c", "slope")


class _State:
    """Students with their constraint c(v) = √(alpha E (1 − m)₊²) − v_xi and its derivatives."""

    def __init__(self, law: KeptLaw, alpha: _Array, v: _Array) -> None:
        self.law, self.alpha, self.v = law, alpha, v
        self.moments = shortfall(law, v)
        self.norm = np.sqrt(alpha * np.maximum(self.moments.square, 1e-300))
        self.c = self.norm - v[:, 2]
        self.slope = -(alpha / self.norm)[:, None] * self.moments.gradient
        self.slope[:, 2] -= 1

    def __getitem__(self, rows: NDArray[np.bool_]) -> _State:
        part = object.__new__(_State)
        part.law, part.moments = self.law[rows], self.moments[rows]
        for name in _ARRAYS:
            setattr(part, name, getattr(self, name)[rows])
        return part

    def put(self, rows: NDArray[np.intp], part: _State) -> None:
        """Replace the students of some rows."""
        self.moments.put(rows, part.moments)
        for name in _ARRAYS:
            getattr(self, name)[rows] = getattr(part, name)

    @property
    def deep(self) -> NDArray[np.bool_]:
        """Longer than it need be by so much that the norm and its derivatives say little."""
        return np.asarray(self.norm < 0.03 * self.v[:, 2], np.bool_)

    def first_multiplier(self) -> _Array:
        """The one that makes the derivative along v itself vanish."""
        outward = -(self.v * self.slope).sum(1)
        length2 = (self.v * self.v).sum(1)
        return np.where(outward > 0, length2 / np.maximum(outward, 1e-30), self.norm)

    def residual(self) -> _Array:
        """Of v = alpha pull (z and w) and v_xi² = alpha E (1 − m)₊², relative to their size.

        The across component's equation is what the multiplier is: norm / (1 − alpha P(m < 1)).
        """
        pull = self.alpha[:, None] * self.moments.pull
        misfit = np.abs(self.v[:, :2] - pull).max(1) / np.abs(self.v[:, :2]).max(1)
        short = np.abs((self.norm / self.v[:, 2]) ** 2 - 1)
        return np.asarray(np.maximum(misfit, short), np.float64)

    def step(self, multiplier: _Array) -> tuple[_Array, _Array]:
        """The quadratic programme's step, (n, 3), and its multiplier, (n,)."""
        shape = self.slope.copy()
        shape[:, 2] += 1  # of the norm alone
        curvature = self.alpha[:, None, None] * self.moments.hessian
        curvature = curvature - shape[:, :, None] * shape[:, None, :]
        hessian = np.eye(3) + (multiplier / self.norm)[:, None, None] * curvature
        both = np.stack([self.v, self.slope], axis=2)
        of_v, of_slope = np.moveaxis(np.linalg.solve(hessian, both), 2, 0)
        new = (self.c - (self.slope * of_v).sum(1)) / (self.slope * of_slope).sum(1)
        new = np.maximum(new, 0)
        return -(of_v + new[:, None] * of_slope), np.maximum(new, 1e-3 * multiplier)


def _search(state: _State, step: _Array, penalty: _Array) -> tuple[_State, NDArray[np.bool_]]:
    """Halve the steps until each lowers the merit or the residual; which of them did."""
    merit, residual = _merit(state, penalty), state.residual()
    back = -step[:, 2] / state.v[:, 2]
    length = np.minimum(1.0, 0.9 / np.maximum(back, 0.9))  # the across component stays positive
    moved = np.zeros(len(length), bool)
    new = state[~moved]
    for _ in range(30):
        rows = ~moved
        start, by = state[rows], length[rows, None] * step[rows]
        trial = _State(start.law, start.alpha, start.v + by)
        lower = _merit(trial, penalty[rows]) < merit[rows] * (1 - 1e-12)
        better = (lower | (trial.residual() < 0.9 * residual[rows])) & ~trial.deep
        new.put(np.flatnonzero(rows)[better], trial[better])
        moved[rows] = better
        if moved.all():
            break
        length *= 0.5
    return new, moved


def _merit(state: _State, penalty: _Array) -> _Array:
    length2 = np.einsum("ij,ij->i", state.v, state.v)
    return np.asarray(0.5 * length2 + penalty * np.maximum(state.c, 0), np.float64)

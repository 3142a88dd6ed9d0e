"""Which side to keep, and how much, of a stock of examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tamis.theory.domain import ALPHA_PRUNE, KEEP, THETA, Side, as_points, check_range
from tamis.theory.noisy import Labels
from tamis.theory.noisy_law import agreeing_share
from tamis.theory.phases import student_error

__all__ = ["Choice", "Plan", "make_plan"]

_SIDES: tuple[Side, ...] = ("hard", "easy", "random")
_GRID = 97


@dataclass(frozen=True)
class Choice:
    """A way to prune, and the test error that it leads to."""

    side: Side
    keep: float
    error: float


@dataclass(frozen=True)
class Plan:
    """What the theory recommends.

    Attributes:
        alpha_tot, theta, labels: What was asked.
        tolerance: How much more error, relative, a smaller set may cost; None where the share was
            given.
        full: All examples.
        chosen: The recommended pruning; ``full`` where no other meets the tolerance.
        rivals: The other sides with as many examples; empty where all are kept.
        best: The least error of all sides and fractions.
    """

    alpha_tot: float
    theta: float
    labels: Labels | None
    tolerance: float | None
    full: Choice
    chosen: Choice
    rivals: tuple[Choice, ...]
    best: Choice

    @property
    def words(self) -> str:
        """The recommendation as sentences."""
        return " ".join([self._situation(), *self._advice()])

    def _situation(self) -> str:
        scorer = "a perfect scorer" if self.theta == 0 else f"a scorer {self.theta:g}° off"
        how = ""
        if self.labels is not None:
            check = ", those the scorer contradicts dropped" if self.labels.checked else ""
            how = f", least squares, {100 * self.labels.noise:g} % wrong labels{check}"
        return f"With {self.alpha_tot:g} examples per dimension, {scorer}{how}:"

    def _advice(self) -> list[str]:
        full, chosen, best = self.full, self.chosen, self.best
        if chosen.keep == 1:
            near = "" if self.tolerance is None else f"; no smaller set comes {self._near()}"
            said = [f"keep everything, error {full.error:.4f}{near}."]
        else:
            aim = "" if self.tolerance is None else f", the least that comes {self._near()}"
            others = " and ".join(f"{c.error:.4f} with {_name(c)}" for c in self.rivals)
            said = [
                f"keep {_name(chosen)} ({chosen.keep * self.alpha_tot:.3g} per dimension){aim}:",
                f"error {chosen.error:.4f} against {full.error:.4f} with everything, {others}.",
            ]
        if best.error < 0.98 * min(full.error, chosen.error):
            said.append(f"The least error, {best.error:.4f}, is that of {_name(best)}.")
        return said

    def _near(self) -> str:
        return f"within {100 * (self.tolerance or 0):g} % of everything's error"


def make_plan(
    alpha_tot: float,
    theta: float = 0.0,
    *,
    keep: float | None = None,
    tolerance: float = 0.05,
    labels: Labels | None = None,
) -> Plan:
    """Recommend a side and a keep fraction.

    Args:
        alpha_tot: Examples per dimension, 0.05 to 200.
        theta: Angle between scorer and teacher in degrees, 0 to 60.
        keep: A share that is given: then only the side is chosen. None: the smallest share whose
            error, and that of all larger ones, is within the tolerance of all examples' error.
        tolerance: Relative, 0 to 1.
        labels: Those of the ridge student; None for the max-margin student. Where they are checked,
            ``full`` is everything without a check.

    Raises:
        UsageError: A value outside.
    """
    check_range("alpha_tot", alpha_tot, ALPHA_PRUNE)
    check_range("theta", theta, THETA, "give the angle in degrees")
    check_range("tolerance", tolerance, (0.0, 1.0))
    unchecked = None if labels is None else replace(labels, checked=False)
    full = Choice("random", 1.0, float(student_error(alpha_tot, 1.0, theta, "random", unchecked)))
    least = max(KEEP[0], ALPHA_PRUNE[0] / alpha_tot)
    most = 1.0
    if labels is not None and labels.checked:
        most = float(agreeing_share(np.array(theta), np.array(labels.noise)))
    shares = np.geomspace(least, most, _GRID)
    errors = {side: student_error(alpha_tot, shares, theta, side, labels) for side in _SIDES}
    best = min(
        (Choice(side, float(shares[e.argmin()]), float(e.min())) for side, e in errors.items()),
        key=lambda choice: choice.error,
    )
    if full.error <= best.error:
        best = full
    limit = full.error * (1 + tolerance)
    if keep is None:
        share = min(_smallest(shares, e, limit) for e in errors.values())
    else:
        share = float(as_points(alpha_tot, keep).keep)
    chosen, *rivals = [full] if share == 1 else _choices(alpha_tot, share, theta, labels)
    within = tolerance if keep is None else None
    return Plan(alpha_tot, theta, labels, within, full, chosen, tuple(rivals), best)


def _choices(alpha_tot: float, keep: float, theta: float, labels: Labels | None) -> list[Choice]:
    """The sides at one fraction, best first."""
    errors = student_error(alpha_tot, keep, theta, _SIDES, labels)
    choices = [Choice(side, keep, float(e)) for side, e in zip(_SIDES, errors, strict=True)]
    return sorted(choices, key=lambda choice: choice.error)


def _smallest(shares: NDArray[np.float64], errors: NDArray[np.float64], limit: float) -> float:
    """The share from which on all are good enough, between two of the grid by interpolation."""
    bad = np.flatnonzero(errors > limit)
    if not len(bad):
        return float(shares[0])
    last = int(bad[-1])
    if last >= len(shares) - 2:
        return 1.0
    part = (errors[last] - limit) / (errors[last] - errors[last + 1])
    logs = np.log(shares[last : last + 2])
    return float(np.exp(logs[0] + part * (logs[1] - logs[0])))


def _name(choice: Choice) -> str:
    share = f"{100 * choice.keep:.3g} %"
    if choice.side == "random":
        return f"a random {share}" if choice.keep < 1 else "everything"
    return f"the {'hardest' if choice.side == 'hard' else 'easiest'} {share}"

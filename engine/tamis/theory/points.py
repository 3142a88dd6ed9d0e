"""One point for whoever asks: with or without wrong labels, solved or simulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tamis.errors import UsageError
from tamis.progress import QUIET, Progress
from tamis.theory.domain import Side
from tamis.theory.noisy import Labels, NoisySolution, best_ridge, solve_noisy
from tamis.theory.noisy_simulation import simulate_noisy
from tamis.theory.simulation import Setting, Simulation
from tamis.theory.simulation import simulate as simulate_max_margin
from tamis.theory.solver import Solution
from tamis.theory.solver import solve as solve_max_margin

__all__ = ["Answer", "simulate_point", "solve_point"]


@dataclass(frozen=True)
class Answer:
    """One point and its student.

    Attributes:
        error, R, rho, kappa, residual: As of :class:`tamis.theory.solver.Solution`; kappa and
            residual are NaN for the ridge student.
        alpha_tot, alpha_prune, keep, theta, side: The point.
        noise, checked, ridge: Of the ridge student; None for the max-margin student.
    """

    error: float
    R: float
    rho: float
    alpha_tot: float
    alpha_prune: float
    keep: float
    theta: float
    side: Side
    kappa: float = float("nan")
    residual: float = float("nan")
    noise: float | None = None
    checked: bool | None = None
    ridge: float | None = None


def solve_point(
    alpha_tot: float,
    keep: float = 1.0,
    theta: float = 0.0,
    side: Side = "hard",
    *,
    labels: Labels | None = None,
    ridge: float | None = None,
) -> Answer:
    """Solve for the max-margin student, or with ``labels`` for the ridge student.

    Args:
        alpha_tot, keep, theta, side: As of :func:`tamis.theory.solver.solve`.
        labels: Those of the ridge student; None for the max-margin student.
        ridge: The penalty; None for the best one.

    Raises:
        UsageError: A value outside, or a ridge without labels.
    """
    point: dict[str, Any] = {
        "alpha_tot": alpha_tot, "alpha_prune": keep * alpha_tot, "keep": keep, "theta": theta,
        "side": side,
    }  # fmt: skip
    if labels is None:
        if ridge is not None:
            raise UsageError(
                "--ridge",
                expected="--label-noise with it, which may be 0",
                found=f"{ridge:g} alone",
                do="add --label-noise, or leave --ridge out",
            )
        one = solve_max_margin(alpha_tot, keep, theta, side)
        return _answer(one, point, kappa=float(one.kappa), residual=float(one.residual))
    how: dict[str, Any] = {"noise": labels.noise, "checked": labels.checked}
    if ridge is None:
        found = best_ridge(alpha_tot, keep, theta, side, **how)
    else:
        found = solve_noisy(alpha_tot, keep, theta, side, **how, ridge=ridge)
    return _answer(found, point, **how, ridge=float(found.ridge))


def _answer(found: Solution | NoisySolution, point: dict[str, Any], **more: Any) -> Answer:
    student: dict[str, Any] = {name: float(getattr(found, name)) for name in ("error", "R", "rho")}
    return Answer(**student, **point, **more)


def simulate_point(
    at: Answer, setting: Setting | None = None, *, progress: Progress = QUIET
) -> Simulation:
    """Simulate what was solved, with the same penalty.

    Args:
        at: From :func:`solve_point`.
        setting: See :class:`tamis.theory.simulation.Setting`.
        progress: Told of every trial.

    Raises:
        UsageError: A set too large to hold.
    """
    point = (at.alpha_tot, at.keep, at.theta, at.side, setting)
    if at.noise is None:
        return simulate_max_margin(*point, progress=progress)
    return simulate_noisy(
        *point,
        noise=at.noise,
        ridge=at.ridge or 0.0,
        checked=at.checked or False,
        progress=progress,
    )

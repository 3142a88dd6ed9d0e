"""Ridge students trained on pruned sets with wrong labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.progress import QUIET, Progress
from tamis.theory.domain import Side, as_points, check_range
from tamis.theory.noisy import NOISE, RIDGE
from tamis.theory.simulation import (
    Draw,
    Setting,
    Simulation,
    Trial,
    counts,
    draw_kept,
    run_trials,
)

__all__ = ["ridge_student", "simulate_noisy"]

_Array = NDArray[np.float64]


def simulate_noisy(
    alpha_tot: float,
    keep: float = 1.0,
    theta: float = 0.0,
    side: Side = "hard",
    setting: Setting | None = None,
    *,
    noise: float = 0.0,
    ridge: float = 0.0,
    checked: bool = False,
    progress: Progress = QUIET,
) -> Simulation:
    """Train ridge students on pruned sets with wrong labels; ``kappa`` is NaN.

    Args:
        alpha_tot, keep, theta, side, noise, ridge, checked: One point, as of
            :func:`tamis.theory.noisy.solve_noisy`.
        setting: See :class:`tamis.theory.simulation.Setting`.
        progress: Told of every trial.

    Raises:
        UsageError: A value outside, or a set too large to hold.
    """
    check_range("noise", noise, NOISE, "give the share of wrong labels")
    check_range("ridge", ridge, RIDGE)
    point, how = as_points(alpha_tot, keep, theta, side), setting or Setting()

    def train(trial: int) -> Trial:
        if checked:
            draw = _draw_checked(alpha_tot, keep, theta, side, how, trial, noise)
        else:
            draw = draw_kept(alpha_tot, keep, theta, side, how, trial)
            draw = Draw(draw.inputs, _flip(draw.labels, noise, draw.rng), draw.teacher, draw.rng)
        return draw.judge(ridge_student(draw.inputs, draw.labels, ridge))

    return run_trials(point, how, train, progress=progress)


def ridge_student(inputs: _Array, labels: _Array, ridge: float) -> _Array:
    """The minimum of mean (labels − inputs·w)² + ridge \\|w\\|², with ridge 0 the shortest one.

    Args:
        inputs: (n, n_dims) float64.
        labels: (n,) float64.
        ridge: At least 0.

    Returns:
        (n_dims,) float64.
    """
    n, n_dims = inputs.shape
    if ridge == 0:
        return np.asarray(np.linalg.lstsq(inputs, labels)[0], np.float64)
    gram = inputs.T @ inputs / n + ridge * np.eye(n_dims)
    return np.asarray(np.linalg.solve(gram, inputs.T @ labels / n), np.float64)


def _draw_checked(
    alpha_tot: float,
    keep: float,
    theta: float,
    side: str,
    setting: Setting,
    trial: int,
    noise: float,
) -> Draw:
    """As :func:`draw_kept`, of the examples whose label has the sign of their score."""
    rng = np.random.default_rng([setting.seed, trial])
    n_total, n_kept = counts(alpha_tot, keep, setting)
    plane = rng.standard_normal((n_total, 2))
    toward = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    labels = _flip(np.where(plane @ toward > 0, 1.0, -1.0), noise, rng)
    agree = np.flatnonzero(labels * plane[:, 0] > 0)
    if side != "random":
        order = np.argsort(np.abs(plane[agree, 0]))
        agree = agree[order if side == "hard" else order[::-1]]
    chosen = agree[:n_kept]
    inputs = np.empty((len(chosen), setting.n_dims))
    inputs[:, :2] = plane[chosen]
    inputs[:, 2:] = rng.standard_normal((len(chosen), setting.n_dims - 2))
    teacher = np.zeros(setting.n_dims)
    teacher[:2] = toward
    return Draw(inputs, labels[chosen], teacher, rng)


def _flip(labels: _Array, noise: float, rng: np.random.Generator) -> _Array:
    return np.where(rng.random(len(labels)) < noise, -labels, labels)

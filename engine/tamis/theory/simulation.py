"""The perceptron itself: draw examples, prune, train exactly, and see.

Trials run in parallel threads and draw from generators of their own (seed, trial), so that the
numbers do not depend on how many run at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.devices import n_cores
from tamis.errors import UsageError
from tamis.progress import QUIET, Progress
from tamis.theory.domain import Points, Side, as_points
from tamis.theory.margin import max_margin

__all__ = [
    "Draw",
    "Setting",
    "Simulation",
    "Trial",
    "counts",
    "draw_kept",
    "run_trials",
    "simulate",
]

_Array = NDArray[np.float64]

_MOST_NUMBERS = 2**28  # of one trial's inputs: 2 GiB


@dataclass(frozen=True)
class Setting:
    """How to simulate.

    Attributes:
        n_dims: N; the paper uses 200.
        trials: Independent training sets, at least 2.
        seed: At least 0; makes the numbers repeatable.
        workers: Threads, None for one a core; the numbers do not depend on it.

    Raises:
        UsageError: A value out of range.
    """

    n_dims: int = 200
    trials: int = 40
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        workers = 1 if self.workers is None else self.workers
        for name, value, least in (
            ("dim", self.n_dims, 2),
            ("trials", self.trials, 2),
            ("seed", self.seed, 0),
            ("workers", workers, 1),
        ):
            if value < least:
                raise UsageError(
                    name, expected=f"at least {least}", found=str(value), do="raise it"
                )


@dataclass(frozen=True)
class Trial:
    """What one trained student is like; kappa is NaN for students without a margin."""

    error: float
    R: float
    rho: float
    kappa: float


@dataclass(frozen=True)
class Simulation:
    """Means over the trials, with the standard errors of the means.

    Attributes:
        error, R, rho, kappa: As of :class:`tamis.theory.solver.Solution`.
        n_total, n_kept: Examples before and after pruning.
    """

    error: float
    error_se: float
    R: float
    R_se: float
    rho: float
    rho_se: float
    kappa: float
    kappa_se: float
    n_total: int
    n_kept: int
    trials: int


@dataclass(frozen=True)
class Draw:
    """A pruned training set, in coordinates whose first axis is the probe's.

    Attributes:
        inputs: (n_kept, n_dims) float64; the teacher lies in the plane of the first two axes.
        labels: (n_kept,) float64, ±1.
        teacher: (n_dims,) float64 of length 1.
        rng: The trial's generator, for what else is random.
    """

    inputs: _Array
    labels: _Array
    teacher: _Array
    rng: np.random.Generator

    def judge(self, weights: _Array, kappa: float = np.nan) -> Trial:
        """Test error and overlaps of a student of any length, in closed form."""
        unit = weights / np.linalg.norm(weights)
        overlap = float(unit @ self.teacher)
        error = float(np.arccos(np.clip(overlap, -1, 1)) / np.pi)
        return Trial(error, overlap, float(unit[0]), kappa)


def draw_kept(
    alpha_tot: float, keep: float, theta: float, side: str, setting: Setting, trial: int
) -> Draw:
    """Draw a training set and prune it, without noise.

    Only the probe's scores are drawn for all round(alpha_tot N) examples; the other components, on
    which pruning does not depend, for the kept ones. That is the same law.
    """
    rng = np.random.default_rng([setting.seed, trial])
    n_total, n_kept = counts(alpha_tot, keep, setting)
    z = rng.standard_normal(n_total)
    if side == "random":
        z = z[:n_kept]
    elif n_kept < n_total:
        order = np.argpartition(np.abs(z), n_kept if side == "hard" else n_total - n_kept)
        z = z[order[:n_kept] if side == "hard" else order[n_total - n_kept :]]
    inputs = np.empty((n_kept, setting.n_dims))
    inputs[:, 0] = z
    inputs[:, 1:] = rng.standard_normal((n_kept, setting.n_dims - 1))
    teacher = np.zeros(setting.n_dims)
    teacher[:2] = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    labels = np.where(inputs @ teacher > 0, 1.0, -1.0)
    return Draw(inputs, labels, teacher, rng)


def simulate(
    alpha_tot: float,
    keep: float = 1.0,
    theta: float = 0.0,
    side: Side = "hard",
    setting: Setting | None = None,
    *,
    progress: Progress = QUIET,
) -> Simulation:
    """Train max-margin students exactly on pruned sets.

    Args:
        alpha_tot, keep, theta, side: One point, as of :func:`tamis.theory.solver.solve`.
        setting: See :class:`Setting`.
        progress: Told of every trial.

    Raises:
        UsageError: A point outside of the domain, or a set too large to hold.
    """

    point, how = as_points(alpha_tot, keep, theta, side), setting or Setting()

    def train(trial: int) -> Trial:
        draw = draw_kept(alpha_tot, keep, theta, side, how, trial)
        student = max_margin(draw.inputs * draw.labels[:, None])
        return draw.judge(student.weights, student.kappa)

    return run_trials(point, how, train, progress=progress)


def run_trials(
    point: Points, setting: Setting, train: Callable[[int], Trial], *, progress: Progress = QUIET
) -> Simulation:
    """Draw, train and judge ``setting.trials`` times, in threads with one BLAS thread each.

    Args:
        point: A single one.
        setting: See :class:`Setting`.
        train: Makes the trial of a number.
        progress: Told of every trial.

    Raises:
        UsageError: A set too large to hold, or with nothing to keep.
    """
    from threadpoolctl import threadpool_limits

    n_total, n_kept = counts(float(point.alpha_tot), float(point.keep), setting)
    if n_kept * setting.n_dims > _MOST_NUMBERS:
        raise UsageError(
            "the training set",
            expected=f"at most {_MOST_NUMBERS:,} numbers a trial",
            found=f"{n_kept:,} examples of {setting.n_dims:,} dimensions",
            do="lower dim",
        )
    if n_kept < 1:
        raise UsageError(
            "the training set", expected="examples to keep", found="none", do="raise dim"
        )

    def run(trial: int) -> Trial:
        done = train(trial)
        advance()
        return done

    # With one BLAS thread in each, sums do not depend on how many work at once.
    with (
        progress.task("simulate", setting.trials) as advance,
        threadpool_limits(1),
        ThreadPoolExecutor(setting.workers or n_cores()) as pool,
    ):
        trials = list(pool.map(run, range(setting.trials)))
    values = {name: np.array([getattr(t, name) for t in trials]) for name in Trial.__annotations__}
    means = {name: float(of.mean()) for name, of in values.items()}
    errors = {f"{name}_se": float(of.std(ddof=1) / np.sqrt(len(of))) for name, of in values.items()}
    return Simulation(**means, **errors, n_total=n_total, n_kept=n_kept, trials=setting.trials)


def counts(alpha_tot: float, keep: float, setting: Setting) -> tuple[int, int]:
    """Examples before and after pruning."""
    n_total = round(alpha_tot * setting.n_dims)
    return n_total, round(keep * n_total)

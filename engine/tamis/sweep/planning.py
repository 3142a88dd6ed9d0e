"""What a sweep would do, before it does it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tamis.loaders.opening import choose_backend
from tamis.metrics.speed import measure_speed
from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, read_records
from tamis.sweep.scoring import open_sweep, plan_scoring
from tamis.sweep.spec import SweepSpec
from tamis.sweep.stopping import STOPPED, given_up_by, read_stopped
from tamis.training.loop import n_steps
from tamis.training.recipes import Recipe

__all__ = ["SweepPlan", "plan_sweep"]


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do.

    Attributes:
        n_trials: Of the grid.
        n_done: Of them, finished or given up by earlier calls.
        n_missing: Of them, to be run.
        n_sets: Different parts of the training bundle that those are trained on. None is written:
            trials take their examples out of what is decoded once.
        steps: Optimizer steps still to take, if no trial is given up.
        images: Images that those steps show.
        seconds: Estimate of training and testing, one trial after the other on this device; None
            where nothing was measured.
        scoring_seconds: Of computing scores that are not there; None as ``seconds``.
        memory_bytes: Of decoded images, in each process that runs trials; streamed sets take none.
    """

    n_trials: int
    n_done: int
    n_missing: int
    n_sets: int
    steps: int
    images: int
    seconds: float | None
    scoring_seconds: float | None
    memory_bytes: int


def plan_sweep(spec: SweepSpec, out: Path, device: torch.device | None) -> SweepPlan:
    """Check a sweep against its files, count what is missing and estimate it; writes nothing.

    Args:
        spec: The sweep.
        out: Its folder, which need not be there.
        device: Takes some steps of each recipe, a few seconds of each and what compiling takes;
            None estimates nothing.

    Raises:
        TamisError: As :class:`Sweep`.
    """
    sweep = open_sweep(spec, out)
    known = set(read_records(out / "records.jsonl"))
    trials = sweep.trials
    known |= given_up_by(spec.early_stop, read_stopped(out / STOPPED)).keys()
    # What has no scores yet has not been trained on.
    missing = [t for t in trials if not _has_scores(sweep, t) or sweep.key(t) not in known]
    full = sweep.train.n_examples
    work = {t: n_steps(sweep.n_kept(t), full, sweep.recipes[t.recipe], t.budget) for t in missing}
    seconds = scoring = None
    if device is not None:
        seconds = _training_seconds(sweep, work, device)
        scoring = 0.0 if sweep.is_scored else plan_scoring(sweep, out, device)
    shown = {
        t: n * min(sweep.recipes[t.recipe].batch_size, sweep.n_kept(t)) for t, n in work.items()
    }
    return SweepPlan(
        n_trials=len(trials),
        n_done=len(trials) - len(missing),
        n_missing=len(missing),
        n_sets=len({_part_of(trial) for trial in missing}),
        steps=sum(work.values()),
        images=sum(shown.values()),
        seconds=seconds,
        scoring_seconds=scoring,
        memory_bytes=_memory(sweep, device),
    )


def _has_scores(sweep: Sweep, trial: Trial) -> bool:
    scored = trial.side not in ("random", "full")
    return not scored or trial.metric in sweep.table(trial.size).columns


def _part_of(trial: Trial) -> tuple[object, ...]:
    # Seeds draw; where scores decide, they only break ties.
    draws = trial.side == "random"
    return trial.size, trial.metric, trial.side, trial.keep, trial.seed if draws else None


def _training_seconds(sweep: Sweep, work: dict[Trial, int], device: torch.device) -> float:
    seconds = 0.0
    for name in dict.fromkeys(trial.recipe for trial in work):
        recipe = sweep.recipes[name]
        speed = measure_speed(sweep.train, _plain(recipe), device, in_memory=True)
        own = {trial: steps for trial, steps in work.items() if trial.recipe == name}
        seconds += speed.compiling + sum(own.values()) * speed.step
        n_tests = len(own) * (1 if sweep.spec.early_stop is None else 2)
        seconds += n_tests * sweep.test.n_examples * speed.image
    return seconds


def _plain(recipe: Recipe) -> Recipe:
    """The recipe as far as its speed goes: images of one size, whole."""
    side = recipe.resolution
    return replace(recipe, random_crop=False, start_resolution=0, test_resolution=side)


def _memory(sweep: Sweep, device: torch.device | None) -> int:
    total, n = 0, (sweep.train.n_examples, sweep.test.n_examples)
    for recipe in sweep.recipes.values():
        sides = (recipe.resolution, recipe.test_side)
        streams = bool(recipe.start_resolution) or recipe.random_crop
        where = device or torch.device("cpu")
        if not streams and choose_backend(sum(n), max(sides), where, recipe.resample) == "memory":
            total += sum(3 * side**2 * count for side, count in zip(sides, n, strict=True))
    return total

"""One trial after the other, in one process: what every executor calls."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tamis.devices import resolve_device
from tamis.errors import WorkFailedError, first_line
from tamis.selection.selecting import select
from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord
from tamis.sweep.spec import SweepSpec
from tamis.sweep.stopping import StoppedTrial
from tamis.training.early_stop import HopelessError
from tamis.training.many import Trainer, TrainSpec
from tamis.training.runs import RunOptions

__all__ = ["Job", "Result", "Runner"]

Result = TrialRecord | StoppedTrial | str
"""Of a trial: its record, that it was given up, or one line on what failed."""


@dataclass(frozen=True)
class Job:
    """What a process needs to know to run trials of a sweep.

    Attributes:
        spec: The sweep.
        tables: Size → score table, of scores that the sweep computed.
        device: As in :func:`tamis.devices.resolve_device`.
    """

    spec: SweepSpec
    tables: dict[float, Path]
    device: str = "auto"


class Runner:
    """Decodes both sets once, compiles networks once, and runs trials on parts of the first.

    Args:
        job: The sweep.
        threads: That decode and augment; None takes all cores.

    Raises:
        TamisError: As :class:`Sweep`.
    """

    def __init__(self, job: Job, threads: int | None = None) -> None:
        self._sweep = Sweep(job.spec, job.tables)
        where = resolve_device(job.device)
        self._trainer = Trainer(self._sweep.train, self._sweep.test, where, workers=threads)

    def run(self, trial: Trial) -> Result:
        """Train and test."""
        try:
            return self._run(trial)
        except (WorkFailedError, RuntimeError) as error:  # RuntimeError: torch, out of memory too
            return f"{trial}: {first_line(error)}"

    def _run(self, trial: Trial) -> TrialRecord | StoppedTrial:
        sweep, began = self._sweep, time.perf_counter()
        table = sweep.table(trial.size)
        kept = select(table, sweep.selection(trial))
        rule = sweep.spec.early_stop
        options = RunOptions(trial.budget, sweep.train.n_examples, trial.seed, early_stop=rule)
        recipe = sweep.recipes[trial.recipe]
        try:
            _, record = self._trainer.run(TrainSpec(recipe, kept.example_ids, options))
        except HopelessError as stop:
            assert rule is not None
            facts = (rule.after, rule.below, stop.accuracy, stop.epochs)
            return StoppedTrial(sweep.key(trial), trial, *facts, time.perf_counter() - began)
        fraction = len(kept.example_ids) / len(table.example_ids)
        per_class = {str(label): count for label, count in kept.per_class.items()}
        return TrialRecord(sweep.key(trial), trial, fraction, per_class, asdict(record))

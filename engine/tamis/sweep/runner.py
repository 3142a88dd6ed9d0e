"""One trial after the other, in one process: what every executor calls."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from tamis.devices import resolve_device
from tamis.errors import WorkFailedError, first_line
from tamis.selection.selecting import select
from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord
from tamis.sweep.spec import SweepSpec
from tamis.training.many import Trainer, TrainSpec
from tamis.training.runs import RunOptions

__all__ = ["Job", "Runner"]


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

    def run(self, trial: Trial) -> TrialRecord | str:
        """The trial's record, or one line on why there is none."""
        try:
            return self._run(trial)
        except (WorkFailedError, RuntimeError) as error:  # RuntimeError: torch, out of memory too
            return f"{trial}: {first_line(error)}"

    def _run(self, trial: Trial) -> TrialRecord:
        sweep = self._sweep
        table = sweep.table(trial.size)
        kept = select(table, sweep.selection(trial))
        options = RunOptions(trial.budget, sweep.train.n_examples, trial.seed)
        recipe = sweep.recipes[trial.recipe]
        _, record = self._trainer.run(TrainSpec(recipe, kept.example_ids, options))
        fraction = len(kept.example_ids) / len(table.example_ids)
        per_class = {str(label): count for label, count in kept.per_class.items()}
        return TrialRecord(sweep.key(trial), trial, fraction, per_class, asdict(record))

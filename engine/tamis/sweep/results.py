"""What a sweep's folder holds: the sweep, and the trials that are its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord, read_records
from tamis.sweep.scoring import open_sweep
from tamis.sweep.spec import SweepSpec
from tamis.sweep.stopping import (
    STOPPED,
    StoppedTrial,
    given_up_by,
    read_stopped,
    without_survivors,
)

__all__ = ["GivenUpCell", "SweepResults", "next_step", "read_results"]


@dataclass(frozen=True)
class GivenUpCell:
    """A cell of which trials were given up; ``str`` names it for people.

    Attributes:
        cell: The trial of seed 0.
        n_stopped: Seeds that were given up.
        n_finished: Seeds that were trained to their end.
        n_seeds: Of the sweep.
    """

    cell: Trial
    n_stopped: int
    n_finished: int
    n_seeds: int

    def __str__(self) -> str:
        return f"{self.cell.cell_name} ({self.n_stopped} of {self.n_seeds} seeds)"


@dataclass(frozen=True)
class SweepResults:
    """What came of a sweep so far.

    Attributes:
        sweep: As ``sweep.json`` describes it.
        records: Of finished trials, in the grid's order; none of a cell that lost a seed.
        stopped: The trials that were given up, by whatever rule, and not trained to their end
            since; in the grid's order.
        left_out: Records of the other seeds of their cells.
    """

    sweep: Sweep
    records: list[TrialRecord]
    stopped: list[StoppedTrial]
    left_out: list[TrialRecord]

    @property
    def given_up(self) -> list[GivenUpCell]:
        """The cells that lost a seed."""
        n_finished = Counter(record.trial.cell for record in self.left_out)
        n_stopped = Counter(one.trial.cell for one in self.stopped)
        n_seeds = self.sweep.spec.seeds
        return [GivenUpCell(cell, n, n_finished[cell], n_seeds) for cell, n in n_stopped.items()]

    @property
    def seconds(self) -> float:
        """Of all trials, given up or not, as far as their records tell."""
        finished = sum(record.run["train_seconds"] for record in (*self.records, *self.left_out))
        return float(finished + sum(one.seconds for one in self.stopped))


def next_step(folder: Path, *, given_up: bool) -> str:
    """What to do about a folder that has no trials to show.

    Args:
        folder: The sweep's.
        given_up: Whether trials were given up there.
    """
    if given_up:
        return "change or leave out stop_early in its file, and sweep again"
    return f"run first: tamis sweep SWEEP.yaml --out {folder}"


def read_results(folder: Path) -> SweepResults:
    """The sweep that ``sweep.json`` describes, and its trials; those of earlier settings stay out.

    Raises:
        OSError: No ``sweep.json`` there.
        ValueError: It is no sweep.
        TamisError: Records that are damaged, or as :func:`tamis.sweep.scoring.open_sweep`.
    """
    text = (folder / "sweep.json").read_text(encoding="utf-8")
    sweep = open_sweep(SweepSpec.model_validate_json(text), folder)
    known = read_records(folder / "records.jsonl")
    lines = read_stopped(folder / STOPPED)
    latest = {one.key: one for one in lines} | given_up_by(sweep.spec.early_stop, lines)
    keys = [sweep.key(trial) for trial in sweep.trials]
    stopped = [latest[key] for key in keys if key in latest and key not in known]
    finished = [known[key] for key in keys if key in known]
    records, left_out = without_survivors(finished, stopped, known.keys())
    return SweepResults(sweep, records, stopped, left_out)

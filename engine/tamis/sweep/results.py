"""What a sweep's folder holds: the sweep, and the records that are its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord, read_records
from tamis.sweep.scoring import open_sweep
from tamis.sweep.spec import SweepSpec
from tamis.sweep.stopping import STOPPED, StoppedTrial, read_stopped

__all__ = ["SweepResults", "read_results"]


@dataclass(frozen=True)
class SweepResults:
    """What came of a sweep so far.

    Attributes:
        sweep: As ``sweep.json`` describes it.
        records: Of finished trials, in the grid's order; none of a cell of which any seed was given
            up, because a mean over the others would be one of survivors.
        stopped: The trials that were given up, in the grid's order.
        n_left_out: Finished trials of such cells.
    """

    sweep: Sweep
    records: list[TrialRecord]
    stopped: list[StoppedTrial]
    n_left_out: int

    def given_up_cells(self) -> list[str]:
        """For people: each cell with the number of its seeds that were given up."""
        counts = Counter(_cell(one.trial) for one in self.stopped)
        n_seeds = self.sweep.spec.seeds
        return [f"{cell.cell_name} ({n} of {n_seeds} seeds)" for cell, n in counts.items()]


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
    keys = [sweep.key(trial) for trial in sweep.trials]
    stopped = read_stopped(
        folder / STOPPED, sweep.spec.stop_early, (key for key in keys if key not in known)
    )
    hopeless = {_cell(one.trial) for one in stopped.values()}
    finished = [known[key] for key in keys if key in known]
    records = [record for record in finished if _cell(record.trial) not in hopeless]
    given_up = [stopped[key] for key in keys if key in stopped]
    return SweepResults(sweep, records, given_up, len(finished) - len(records))


def _cell(trial: Trial) -> Trial:
    """The trial of whatever seed."""
    return replace(trial, seed=0)

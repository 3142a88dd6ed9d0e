"""What a sweep's folder holds: the sweep, and the records that are its own."""

from __future__ import annotations

from pathlib import Path

from tamis.sweep.grid import Sweep
from tamis.sweep.records import TrialRecord, read_records
from tamis.sweep.scoring import open_sweep
from tamis.sweep.spec import SweepSpec

__all__ = ["read_results"]


def read_results(folder: Path) -> tuple[Sweep, list[TrialRecord]]:
    """The sweep that ``sweep.json`` describes, and its finished trials in the grid's order.

    Records of earlier settings stay out.

    Raises:
        OSError: No ``sweep.json`` there.
        ValueError: It is no sweep.
        TamisError: Records that are damaged, or as :func:`tamis.sweep.scoring.open_sweep`.
    """
    text = (folder / "sweep.json").read_text(encoding="utf-8")
    sweep = open_sweep(SweepSpec.model_validate_json(text), folder)
    known = read_records(folder / "records.jsonl")
    keys = [sweep.key(trial) for trial in sweep.trials]
    return sweep, [known[key] for key in keys if key in known]

"""Trials that a sweep gave up: ``stopped.jsonl``, one line for each, only ever appended."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.sweep.lines import read_lines
from tamis.sweep.records import Trial, TrialRecord
from tamis.training.early_stop import EarlyStop

__all__ = [
    "STOPPED",
    "StoppedTrial",
    "given_up_by",
    "read_stopped",
    "without_survivors",
]

STOPPED = "stopped.jsonl"
"""Its name, beside the records of a sweep."""


@dataclass(frozen=True)
class StoppedTrial:
    """A trial that was given up.

    Attributes:
        key: Hash of everything that would have decided its result.
        trial: The cell.
        after: The rule's.
        below: The rule's.
        accuracy: Share of the test set at that point.
        epochs: That it had had by then.
        seconds: That it had taken.
    """

    key: str
    trial: Trial
    after: float
    below: float
    accuracy: float
    epochs: int
    seconds: float


def read_stopped(path: Path) -> list[StoppedTrial]:
    """All of a ``stopped.jsonl``, by whatever rule; none where there is no file.

    Raises:
        UsageError: As :func:`tamis.sweep.lines.read_lines`.
    """
    return read_lines(path, _stopped, expected="a record of a trial that was given up")


def _stopped(raw: dict[str, Any]) -> StoppedTrial:
    return StoppedTrial(**{**raw, "trial": Trial(**raw["trial"])})


def given_up_by(rule: EarlyStop | None, stopped: Iterable[StoppedTrial]) -> dict[str, StoppedTrial]:
    """Key → trial that a rule gives up, by what is known of it from this or another rule."""
    if rule is None:
        return {}
    return {
        one.key: replace(one, below=rule.below)
        for one in stopped
        if one.after == rule.after and one.accuracy < rule.below
    }


def without_survivors(
    records: Iterable[TrialRecord], stopped: Iterable[StoppedTrial], finished: Container[str]
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Records without and of the cells that lost a seed: a mean of these would be of survivors.

    Args:
        records: Of finished trials.
        stopped: Trials that were given up.
        finished: Keys of all trials that were trained to their end, by a later call too.
    """
    lost = {one.trial.cell for one in stopped if one.key not in finished}
    every = list(records)
    kept = [record for record in every if record.trial.cell not in lost]
    return kept, [record for record in every if record.trial.cell in lost]

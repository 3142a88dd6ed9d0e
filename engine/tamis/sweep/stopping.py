"""Trials that a sweep gave up: ``stopped.jsonl``, one line for each, only ever appended."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tamis.errors import UsageError
from tamis.sweep.records import Trial, TrialRecord
from tamis.training.early_stop import EarlyStop

__all__ = [
    "STOPPED",
    "StoppedTrial",
    "append_stopped",
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


def append_stopped(path: Path, stopped: StoppedTrial) -> None:
    """Keep one line, and wait until it is on the disk; for whoever holds the sweep's records."""
    with path.open("ab+") as sink:
        sink.truncate(_whole(path.read_bytes()))  # without a last line cut off by a crash
        sink.write(json.dumps(asdict(stopped)).encode() + b"\n")
        sink.flush()
        os.fsync(sink.fileno())


def read_stopped(path: Path) -> list[StoppedTrial]:
    """All lines, by whatever rule; none where there is no file. A last one cut off is left out.

    Raises:
        UsageError: Another line that is no such trial.
    """
    if not path.exists():
        return []
    found, raw = [], path.read_bytes()
    for number, line in enumerate(raw[: _whole(raw)].splitlines(), start=1):
        try:
            values = json.loads(line)
            found.append(StoppedTrial(**{**values, "trial": Trial(**values["trial"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path}, line {number}",
                expected="a record of a trial that was given up",
                found=repr(line[:60].decode(errors="replace")),
                do="remove that line; its trial runs again",
            ) from error
    return found


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


def _whole(raw: bytes) -> int:
    """Bytes of all lines that end."""
    return raw.rfind(b"\n") + 1

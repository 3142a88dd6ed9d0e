"""Trials and their records: ``records.jsonl``, one line per finished trial, only ever appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from tamis.errors import UsageError
from tamis.locking import locked_file
from tamis.training.loop import Budget

__all__ = ["Append", "Trial", "TrialRecord", "append_records", "read_records"]


@dataclass(frozen=True)
class Trial:
    """One cell of the grid.

    Attributes:
        metric: A column of the score table; "random", or "full" for a set that is not pruned.
        side: Which examples are kept.
        keep: Share kept of the initial set.
        seed: Of ties, initialisation, order and augmentation.
        budget: The compute protocol.
        size: Share of the training bundle that is the initial set.
        recipe: Its name.
    """

    metric: str
    side: Literal["hard", "easy", "stratified", "moderate", "random", "full"]
    keep: float
    seed: int
    budget: Budget
    size: float = 1.0
    recipe: str = ""

    def __str__(self) -> str:
        return f"{self.cell_name}, seed {self.seed}"

    @property
    def cell(self) -> Trial:
        """The trial of seed 0, which stands for all seeds."""
        return replace(self, seed=0)

    @property
    def cell_name(self) -> str:
        """For people: everything but the seed."""
        how = [self.metric] if self.side in ("random", "full") else [self.metric, self.side]
        how += [f"keep {self.keep:g}"] if self.side != "full" else []
        how += [f"of {self.size:g} of the set"] if self.size < 1 else []
        return ", ".join((*how, self.recipe, f"same {self.budget}"))


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        key: Hash of everything that decides the result.
        trial: The cell.
        keep_fraction: The exact share kept, of the initial set.
        per_class_kept: Label → examples kept.
        run: See :class:`tamis.training.records.RunRecord`.
    """

    key: str
    trial: Trial
    keep_fraction: float
    per_class_kept: dict[str, int]
    run: dict[str, Any]


class Append(Protocol):
    """Keeps one record."""

    def __call__(self, record: TrialRecord, /) -> None:
        """Write the record and wait until it is on the disk."""


def read_records(path: Path) -> dict[str, TrialRecord]:
    """Key → record of a ``records.jsonl``; a last line cut off by a crash is left out.

    Raises:
        UsageError: Another line that is not a record.
    """
    records: dict[str, TrialRecord] = {}
    if not path.exists():
        return records
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            raw = json.loads(line)
            # Records of before there were several recipes say it with the run only.
            named = {"recipe": raw["run"]["recipe"]["name"], **raw["trial"]}
            record = TrialRecord(**{**raw, "trial": Trial(**named)})
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path}, line {number}",
                expected="a trial record",
                found=repr(line[:60]),
                do="remove that line; its trial runs again",
            ) from error
        records.setdefault(record.key, record)
    return records


@contextmanager
def append_records(path: Path) -> Iterator[Append]:
    """Open a records file for appending, after dropping a last line cut off by a crash.

    Raises:
        UsageError: Another process appends to it.
    """
    descriptor = locked_file(path, path, work="another sweep", flags=os.O_APPEND)
    with os.fdopen(descriptor, "a", encoding="utf-8") as sink:
        os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)

        def append(record: TrialRecord, /) -> None:
            sink.write(json.dumps(asdict(record)) + "\n")
            sink.flush()
            os.fsync(descriptor)

        yield append

"""Trials and their records: ``records.jsonl``, one line per finished trial, only ever appended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tamis.sweep.lines import read_lines
from tamis.training.loop import Budget

__all__ = ["Trial", "TrialRecord", "read_records"]


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


def read_records(path: Path) -> dict[str, TrialRecord]:
    """Key → record of a ``records.jsonl``; of two with a key the first counts.

    Raises:
        UsageError: As :func:`tamis.sweep.lines.read_lines`.
    """
    records: dict[str, TrialRecord] = {}
    for record in read_lines(path, _record, expected="a trial record"):
        records.setdefault(record.key, record)
    return records


def _record(raw: dict[str, Any]) -> TrialRecord:
    # Records of before there were several recipes say it with the run only.
    named = {"recipe": raw["run"]["recipe"]["name"], **raw["trial"]}
    return TrialRecord(**{**raw, "trial": Trial(**named)})

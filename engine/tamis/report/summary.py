"""What the records of a sweep say, as tables of means with intervals and paired tests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tamis.statistics import Interval, holm, mean_interval, paired_difference, paired_p_value
from tamis.sweep.records import TrialRecord
from tamis.training.loop import Budget

__all__ = ["AccuracyTable", "Cell", "Difference", "Row", "WorstClass", "summarise"]

_ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """What a cell has over random, over the seeds that both have.

    Attributes:
        interval: Mean of the paired differences of accuracy, with its 95 % interval.
        p: Of the paired t-test, two-sided; NaN where seeds do not differ, or there is one.
        p_holm: The same after Holm's correction over the comparisons of the table.
    """

    interval: Interval
    p: float
    p_holm: float

    @property
    def is_decided(self) -> bool:
        """Whether p is below 5 %: the interval excludes zero."""
        return self.p < _ALPHA

    @property
    def stays_decided(self) -> bool:
        """Whether that is so after the correction, too."""
        return self.p_holm < _ALPHA


@dataclass(frozen=True)
class WorstClass:
    """The class with the lowest test accuracy.

    Attributes:
        accuracy: Mean over the seeds of the lowest accuracy of any class.
        label: The class that had it most often; of several the first.
        n_seeds: In how many seeds.
    """

    accuracy: float
    label: int
    n_seeds: int


@dataclass(frozen=True)
class Cell:
    """One metric, side and keep fraction over its seeds.

    Attributes:
        accuracy: Share of the test set, with its 95 % interval.
        minus_random: None for random and full, and where no seed is shared with random.
        worst: Its worst class; None where no class has test examples.
        n_kept: Examples trained on, mean over the seeds.
        train_seconds: The training loop, mean over the seeds.
    """

    accuracy: Interval
    minus_random: Difference | None
    worst: WorstClass | None
    n_kept: float
    train_seconds: float


@dataclass(frozen=True)
class Row:
    """One metric and side; keep fraction → cell."""

    metric: str
    side: str
    cells: dict[float, Cell]

    @property
    def name(self) -> str:
        """For people."""
        return self.metric if self.side in ("random", "full") else f"{self.metric}, {self.side}"


@dataclass(frozen=True)
class AccuracyTable:
    """All rows of one recipe, compute budget and size of the initial set.

    Attributes:
        recipe: Its name.
        budget: "steps" or "epochs".
        size: Share of the training bundle that is the initial set.
        keeps: Keep fractions below 1, descending.
        rows: Random, then the metrics by name and side.
        full: The set that is not pruned, or None where it was not run.
        n_compared: Comparisons with random, over which Holm's correction goes.
    """

    recipe: str
    budget: Budget
    size: float
    keeps: tuple[float, ...]
    rows: tuple[Row, ...]
    full: Cell | None
    n_compared: int

    @property
    def cells(self) -> list[tuple[Row, float, Cell]]:
        """Row, keep fraction and cell of everything: random first, full last."""
        full = [] if self.full is None else [Row("full", "full", {1.0: self.full})]
        return [
            (row, keep, row.cells[keep])
            for row in (*self.rows, *full)
            for keep in sorted(row.cells, reverse=True)
        ]


_Seeds = dict[int, TrialRecord]
_Rows = dict[tuple[str, str], dict[float, _Seeds]]


def summarise(records: Iterable[TrialRecord]) -> list[AccuracyTable]:
    """Average the records over their seeds.

    Returns:
        One table for each recipe, budget and size, in the order in which recipe and budget appear
        first; of sizes the largest first.
    """
    parts: dict[tuple[str, Budget], dict[float, _Rows]] = {}
    for record in records:
        trial = record.trial
        sizes = parts.setdefault((trial.recipe, trial.budget), {})
        rows = sizes.setdefault(trial.size, defaultdict(lambda: defaultdict(dict)))
        rows[trial.metric, trial.side][trial.keep][trial.seed] = record
    return [
        _table(recipe, budget, size, sizes[size])
        for (recipe, budget), sizes in parts.items()
        for size in sorted(sizes, reverse=True)
    ]


def _table(recipe: str, budget: Budget, size: float, parts: _Rows) -> AccuracyTable:
    random = parts.get(("random", "random"), {})
    cells: dict[tuple[str, str, float], Cell] = {}
    for (metric, side), by_keep in parts.items():
        for keep, seeds in by_keep.items():
            is_compared = metric not in ("random", "full") and keep in random
            cells[metric, side, keep] = _cell(seeds, random[keep] if is_compared else {})
    cells, n_compared = _corrected(cells)
    names = sorted(parts.keys() - {("full", "full")}, key=lambda name: (name[0] != "random", *name))
    rows = tuple(Row(*name, {keep: cells[*name, keep] for keep in parts[name]}) for name in names)
    keeps = sorted({keep for row in rows for keep in row.cells}, reverse=True)
    full = cells.get(("full", "full", 1.0))
    return AccuracyTable(recipe, budget, size, tuple(keeps), rows, full, n_compared)


def _cell(seeds: _Seeds, random: _Seeds) -> Cell:
    values, baseline = _accuracies(seeds), _accuracies(random)
    interval = paired_difference(values, baseline)
    difference = None
    if interval is not None:
        difference = Difference(interval, paired_p_value(values, baseline), float("nan"))
    runs = [record.run for record in seeds.values()]
    return Cell(
        mean_interval(list(values.values())),
        difference,
        _worst_class([run["per_class_accuracy"] for run in runs]),
        float(np.mean([run["n_examples"] for run in runs])),
        float(np.mean([run["train_seconds"] for run in runs])),
    )


def _accuracies(seeds: _Seeds) -> dict[int, float]:
    return {seed: record.run["test_accuracy"] for seed, record in seeds.items()}


def _worst_class(per_class: list[list[float | None]]) -> WorstClass | None:
    lowest = [
        min((accuracy, label) for label, accuracy in enumerate(one) if accuracy is not None)
        for one in per_class
        if any(accuracy is not None for accuracy in one)
    ]
    if not lowest:
        return None
    counts = Counter(label for _, label in lowest)
    label = min(counts, key=lambda label: (-counts[label], label))
    return WorstClass(float(np.mean([low for low, _ in lowest])), label, counts[label])


def _corrected(
    cells: Mapping[tuple[str, str, float], Cell],
) -> tuple[dict[tuple[str, str, float], Cell], int]:
    """The cells with corrected p-values, and the number of comparisons that have one."""
    compared = {
        name: cell.minus_random
        for name, cell in cells.items()
        if cell.minus_random is not None and not np.isnan(cell.minus_random.p)
    }
    corrected = holm([difference.p for difference in compared.values()])
    new = {
        name: replace(difference, p_holm=float(p))
        for (name, difference), p in zip(compared.items(), corrected, strict=True)
    }
    return {
        name: replace(cell, minus_random=new.get(name, cell.minus_random))
        for name, cell in cells.items()
    }, len(compared)

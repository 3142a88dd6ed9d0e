"""What the records of a sweep say, as tables of means with intervals."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tamis.atomic import atomic_path
from tamis.statistics import Interval, mean_interval, paired_difference
from tamis.sweep.records import TrialRecord

__all__ = ["AccuracyTable", "Cell", "Row", "summarise", "verdict", "write_csv"]


@dataclass(frozen=True)
class Cell:
    """Accuracy of one metric, side and keep fraction over its seeds.

    Attributes:
        accuracy: Share, with its 95 % interval.
        minus_random: Paired difference from random at the same keep fraction, over the seeds
            that both have; None for random and full.
    """

    accuracy: Interval
    minus_random: Interval | None


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
    """All rows of one compute budget: random first, full last.

    Attributes:
        budget: "steps" or "epochs".
        keeps: Keep fractions below 1, descending.
        rows: Random, then the metrics by name and side.
        full: The unpruned set, or None where it was not run.
    """

    budget: str
    keeps: tuple[float, ...]
    rows: tuple[Row, ...]
    full: Interval | None


def summarise(records: Iterable[TrialRecord]) -> list[AccuracyTable]:
    """Average the records, one table per budget."""
    values: dict[str, dict[tuple[str, str], dict[float, dict[int, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for record in records:
        trial = record.trial
        cell = values[trial.budget][trial.metric, trial.side][trial.keep]
        cell[trial.seed] = record.run["test_accuracy"]
    return [_table(budget, rows) for budget, rows in sorted(values.items())]


def _table(
    budget: str, values: dict[tuple[str, str], dict[float, dict[int, float]]]
) -> AccuracyTable:
    full = values.get(("full", "full"), {}).get(1.0)
    random = values.get(("random", "random"), {})
    rows = []
    for metric, side in sorted(values, key=lambda name: (name[0] != "random", *name)):
        if metric == "full":
            continue
        cells = {}
        for keep, by_seed in values[metric, side].items():
            compared = metric != "random" and keep in random
            difference = paired_difference(by_seed, random[keep]) if compared else None
            cells[keep] = Cell(mean_interval(list(by_seed.values())), difference)
        rows.append(Row(metric, side, cells))
    keeps = sorted({keep for row in rows for keep in row.cells}, reverse=True)
    whole = mean_interval(list(full.values())) if full else None
    return AccuracyTable(budget, tuple(keeps), tuple(rows), whole)


def verdict(table: AccuracyTable) -> list[str]:
    """What the table shows about keeping the hardest, in plain sentences.

    A difference counts where its paired 95 % interval excludes zero; the number of comparisons is
    stated because one in twenty does so by chance.
    """
    compared = [
        (row, keep, cell.minus_random)
        for row in table.rows
        for keep, cell in row.cells.items()
        if row.side == "hard" and cell.minus_random is not None
    ]
    if not compared:
        return ["Nothing was compared with random on the hard side."]
    if all(d.n < 2 for _, _, d in compared):
        return ["One seed says nothing about chance: run at least two to compare with random."]
    decided = [(row, keep, d) for row, keep, d in compared if d.excludes_zero]
    better = [entry for entry in decided if entry[2].mean > 0]
    worse = [entry for entry in decided if entry[2].mean < 0]
    sentences = []
    if better:
        sentences.append("Keeping the hardest beats random at " + _listed(better) + ".")
    else:
        metrics = " or ".join(dict.fromkeys(row.metric for row, _, _ in compared))
        sentences.append(f"Keeping the hardest by {metrics} beat random nowhere in this sweep.")
    if worse:
        sentences.append("Keeping the hardest is worse than random at " + _listed(worse) + ".")
    sentences.append(
        f"Counted are paired 95 % intervals that exclude zero, {len(decided)} of {len(compared)}"
        " comparisons; about one in twenty does by chance."
    )
    return sentences


def _listed(entries: list[tuple[Row, float, Interval]]) -> str:
    return "; ".join(
        f"{row.metric}, keep {keep:g} ({100 * d.mean:+.2f} ± {100 * d.half_width:.2f} points)"
        for row, keep, d in sorted(entries, key=lambda entry: -abs(entry[2].mean))
    )


def write_csv(tables: list[AccuracyTable], out: Path) -> None:
    """One line per budget, metric, side and keep fraction; accuracies as shares."""
    with (
        atomic_path(out, overwrite=True) as partial,
        partial.open("w", newline="", encoding="utf-8") as sink,
    ):
        writer = csv.writer(sink)
        identity = ["budget", "metric", "side", "keep_fraction", "n_seeds"]
        writer.writerow(
            [*identity, "accuracy", "accuracy_ci95", "minus_random", "minus_random_ci95"]
        )
        for table in tables:
            for row in table.rows:
                for keep, cell in sorted(row.cells.items(), reverse=True):
                    difference = cell.minus_random
                    writer.writerow(
                        [table.budget, row.metric, row.side, keep, *_numbers(cell.accuracy)]
                        + (_numbers(difference)[1:] if difference else ["", ""])
                    )
            if table.full:
                writer.writerow([table.budget, "full", "full", 1.0, *_numbers(table.full), "", ""])


def _numbers(interval: Interval) -> list[str]:
    return [str(interval.n), f"{interval.mean:.6f}", f"{interval.half_width:.6f}"]

"""Runs as points of scaling curves: from a sweep's folder, or from a CSV file of anybody's."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.errors import TamisError, UsageError, first_line

if TYPE_CHECKING:
    from tamis.sweep.records import TrialRecord

__all__ = ["Point", "PointSet", "points_of_records", "read_csv", "read_points"]

_NEEDED = ("n_kept", "metric", "side", "keep", "seed", "error")
_OPTIONAL = ("n_total", "seconds", "steps", "recipe", "budget", "n_test")


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        n_kept: Examples trained on.
        n_total: Examples that they were chosen from.
        keep: Keep fraction; at 1 metric and side are "full".
        metric, side: How they were chosen.
        seed: Of the run.
        error: 1 − test accuracy.
        seconds: Of training; None where unknown.
        steps: Optimizer steps; None where unknown.
        recipe: Its name; may be empty.
        budget: "steps" or "epochs"; empty where unknown.
    """

    n_kept: int
    n_total: int
    keep: float
    metric: str
    side: str
    seed: int
    error: float
    seconds: float | None = None
    steps: int | None = None
    recipe: str = ""
    budget: str = ""


@dataclass(frozen=True)
class PointSet:
    """Runs that were tested on the same examples.

    Attributes:
        points: Any number.
        n_test: Test examples; None where unknown.
        left_out: In words, what is missing of a sweep because it gave trials up; "" for nothing.
    """

    points: tuple[Point, ...]
    n_test: int | None = None
    left_out: str = ""


def read_points(path: Path) -> PointSet:
    """The runs of a sweep's folder, or of a CSV file.

    Of a folder those that its ``sweep.json`` describes; all of them where its files are gone. Cells
    that lost a seed to ``stop_early`` stay out: the others are survivors.

    Raises:
        UsageError: Neither, or no runs in it.
    """
    if path.is_file():
        return read_csv(path)
    records, n_test, given_up = _of_sweep(path)
    if not records:
        from tamis.sweep.results import next_step

        raise UsageError(
            path,
            expected="a sweep's folder with finished trials in records.jsonl, or a CSV file",
            found="no such folder"
            if not path.is_dir()
            else "no finished trials" + (" but of cells that were given up" if given_up else ""),
            do=next_step(path, given_up=bool(given_up)),
        )
    left_out = f"Left out, because trials were given up: {'; '.join(given_up)}." if given_up else ""
    return PointSet(tuple(points_of_records(records)), n_test, left_out)


def _of_sweep(folder: Path) -> tuple[list[TrialRecord], int | None, list[str]]:
    """The sweep's own records, without those of earlier settings; its test examples; what it lost.

    Where its bundles or scores are no longer there, all records, and None.
    """
    # And with them torch, which a CSV file can do without.
    from tamis.sweep.records import read_records
    from tamis.sweep.results import read_results
    from tamis.sweep.stopping import STOPPED, read_stopped, without_survivors

    known = read_records(folder / "records.jsonl")
    stopped = [one for one in read_stopped(folder / STOPPED) if one.key not in known]
    try:
        results = read_results(folder)
    except (OSError, ValueError, TamisError):
        records, _ = without_survivors(known.values(), stopped, known)
        return records, None, list(dict.fromkeys(one.trial.cell_name for one in stopped))
    return results.records, results.sweep.test.n_examples, [str(one) for one in results.given_up]


def points_of_records(records: Iterable[TrialRecord]) -> list[Point]:
    """One point a record."""
    points = []
    for record in records:
        trial, run = record.trial, record.run
        full = trial.keep == 1
        points.append(
            Point(
                n_kept=run["n_examples"],
                n_total=round(run["n_examples"] / trial.keep),
                keep=trial.keep,
                metric="full" if full else trial.metric,
                side="full" if full else trial.side,
                seed=trial.seed,
                error=1 - run["test_accuracy"],
                seconds=run.get("train_seconds"),
                steps=run.get("steps"),
                recipe=trial.recipe,
                budget=trial.budget,
            )
        )
    return points


def read_csv(path: Path) -> PointSet:
    """Runs of a CSV file with a header.

    Columns: n_kept, metric, side, keep, seed, error (a share); n_total (default: n_kept / keep),
    seconds, steps, recipe, budget and n_test (the same in all rows) may be there, too. Others are
    overlooked.

    Raises:
        UsageError: A column or a number that is missing or impossible.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as source:
            reader = csv.DictReader(source)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(
            path, expected="a CSV file", found=first_line(error), do="see docs/scaling.md"
        ) from error
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise UsageError(
            path,
            expected=f"the columns {', '.join(_NEEDED)}",
            found=f"none called {missing[0]}",
            do=f"add it; {', '.join(_OPTIONAL)} are optional",
        )
    if not rows:
        raise UsageError(path, expected="a row for each run", found="none", do="add some")
    points = [_Row(path, number, row).point() for number, row in enumerate(rows, start=2)]
    tests = {row.get("n_test") or "" for row in rows}
    if len(tests) > 1:
        raise UsageError(
            f"{path}: n_test",
            expected="the same number in all rows",
            found=f"{len(tests)} different ones",
            do="put each test set in a file of its own",
        )
    n_test = _Row(path, 2, rows[0]).optional("n_test")
    return PointSet(tuple(points), int(n_test) if n_test is not None else None)


@dataclass(frozen=True)
class _Row:
    path: Path
    line: int
    cells: dict[str, str | None]

    def point(self) -> Point:
        keep = self.number("keep", 0, 1)
        n_kept = self.number("n_kept", 0.5, math.inf)
        n_total = self.optional("n_total")
        total = n_kept / keep if n_total is None else n_total
        if total < n_kept * (1 - 1e-9):
            raise self.refusal("n_total", f"at least n_kept, {n_kept:g}")
        full, steps = keep == 1, self.optional("steps")
        return Point(
            n_kept=round(n_kept),
            n_total=round(total),
            keep=keep,
            metric="full" if full else self.text("metric"),
            side="full" if full else self.text("side"),
            seed=round(self.number("seed", -math.inf, math.inf)),
            error=self.number("error", -1e-12, 1),
            seconds=self.optional("seconds"),
            steps=None if steps is None else round(steps),
            recipe=self.cells.get("recipe") or "",
            budget=self.cells.get("budget") or "",
        )

    def text(self, name: str) -> str:
        if not (self.cells.get(name) or "").strip():
            raise self.refusal(name, "a name")
        return str(self.cells[name]).strip()

    def optional(self, name: str) -> float | None:
        return self.number(name, 0, math.inf) if (self.cells.get(name) or "").strip() else None

    def number(self, name: str, above: float, most: float) -> float:
        """A number above ``above`` and at most ``most``."""
        try:
            value = float(self.cells[name] or "")
        except ValueError:
            value = math.nan
        if not (above < value <= most and math.isfinite(value)):
            within = f"a number up to {most:g}" if math.isfinite(most) else "a number"
            positive = " above 0" if above >= 0 else ""
            raise self.refusal(name, within + positive)
        return value

    def refusal(self, name: str, expected: str) -> UsageError:
        return UsageError(
            f"{self.path}, line {self.line}: {name}",
            expected=expected,
            found=repr(self.cells.get(name)),
            do="correct it",
        )

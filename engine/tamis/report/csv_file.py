"""The accuracy tables as CSV, one line a cell."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from tamis.atomic import atomic_path
from tamis.report.cost import CostedCell
from tamis.statistics import Interval

__all__ = ["write_csv"]

_COLUMNS = (
    "recipe", "budget", "size", "metric", "side", "keep_fraction", "n_kept", "n_seeds", "accuracy",
    "accuracy_ci95", "minus_random", "minus_random_ci95", "p", "p_holm", "worst_class",
    "worst_class_accuracy", "worst_class_seeds", "train_seconds", "scoring_seconds",
)  # fmt: skip


def write_csv(cells: Sequence[CostedCell], classes: Sequence[str], out: Path) -> None:
    """One line per recipe, budget, size, metric, side and keep fraction; accuracies as shares.

    Columns with ``ci95`` are half-widths. What there is none of is left empty.

    Args:
        cells: In the order of the lines.
        classes: Class names in label order.
        out: A file to write; an existing one is replaced.
    """
    with (
        atomic_path(out, overwrite=True) as partial,
        partial.open("w", newline="", encoding="utf-8") as sink,
    ):
        writer = csv.writer(sink)
        writer.writerow(_COLUMNS)
        for one in cells:
            table, row, cell, difference = one.table, one.row, one.cell, one.cell.minus_random
            identity = [table.recipe, table.budget, f"{table.size:g}", row.metric, row.side]
            numbers = [f"{one.keep:g}", f"{cell.n_kept:g}", cell.accuracy.n]
            tested = ["", "", "", ""]
            if difference is not None:
                p = [_number(difference.p), _number(difference.p_holm)]
                tested = [*_interval(difference.interval), *p]
            worst = ["", "", ""]
            if cell.worst is not None:
                found = f"{cell.worst.accuracy:.6f}"
                worst = [classes[cell.worst.label], found, str(cell.worst.n_seeds)]
            scoring = "" if one.scoring_seconds is None else f"{one.scoring_seconds:.3f}"
            seconds = [f"{cell.train_seconds:.3f}", scoring]
            accuracy = _interval(cell.accuracy)
            writer.writerow([*identity, *numbers, *accuracy, *tested, *worst, *seconds])


def _interval(interval: Interval) -> list[str]:
    return [f"{interval.mean:.6f}", _number(interval.half_width)]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"

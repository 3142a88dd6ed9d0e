"""The accuracy tables as LaTeX, to be \\input into a paper; needs booktabs and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from tamis.report.summary import AccuracyTable, Cell

__all__ = ["escape", "latex_tables"]

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Names from files, as LaTeX prints them."""
    return "".join(_SPECIAL.get(sign, sign) for sign in text if sign.isprintable())


def latex_tables(tables: Iterable[AccuracyTable], classes: Sequence[str]) -> str:
    """Three tables for each table: accuracy, difference from random, worst class.

    Args:
        tables: In the order in which they are written.
        classes: Class names in label order.
    """
    parts = [r"% Needs \usepackage{booktabs}. Accuracies and differences in percentage points."]
    for table in tables:
        where = (
            f"recipe {escape(table.recipe)}, same {table.budget}, initial set"
            rf" {100 * table.size:g}\,\% of the training set"
        )
        parts += [
            _floating(
                table,
                rf"Test accuracy in \%: mean $\pm$ half-width of the 95\,\% interval; {where}. An"
                " arrow marks a paired difference from random at the same keep fraction whose"
                r" p-value stays below 5\,\% after Holm's correction for"
                f" {table.n_compared} comparisons.",
                _accuracy,
                with_full=True,
            ),
            _floating(
                table,
                r"Paired difference from random in points, with its 95\,\% interval and the"
                f" p-value of the paired t-test before correction; {where}.",
                _difference,
                with_full=False,
            ),
            _floating(
                table,
                r"Accuracy of the worst class in \%, mean over the seeds of the lowest of any"
                f" class, and which class it was most often; {where}.",
                lambda cell: _worst(cell, classes),
                with_full=True,
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _floating(
    table: AccuracyTable, caption: str, text: Callable[[Cell], str], *, with_full: bool
) -> str:
    rows = [
        [escape(row.name), *(text(row.cells[k]) if k in row.cells else "" for k in table.keeps)]
        for row in table.rows
    ]
    if not with_full:
        rows = [row for row in rows if any(row[1:])]
    lines = [" & ".join(row) + r" \\" for row in rows]
    if with_full and table.full is not None:
        width = max(1, len(table.keeps))
        spanned = rf"\multicolumn{{{width}}}{{c}}{{{text(table.full)}}}"
        lines += [r"\midrule", rf"full, nothing pruned & {spanned} \\"]
    head = " & ".join(["keep fraction", *(f"{keep:g}" for keep in table.keeps)])
    return "\n".join([
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * max(1, len(table.keeps))}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ])  # fmt: skip


def _accuracy(cell: Cell) -> str:
    text = f"{100 * cell.accuracy.mean:.2f}{_half(cell.accuracy.half_width)}"
    difference = cell.minus_random
    if difference is not None and difference.stays_decided:
        text += r"$^{\uparrow}$" if difference.interval.mean > 0 else r"$^{\downarrow}$"
    return text


def _difference(cell: Cell) -> str:
    difference = cell.minus_random
    if difference is None:
        return ""
    interval = difference.interval
    text = f"${100 * interval.mean:+.2f}$" + _half(interval.half_width)
    if math.isnan(difference.p):
        return text
    return text + (" ($p<0.001$)" if difference.p < 0.001 else f" ($p={difference.p:.2g}$)")


def _worst(cell: Cell, classes: Sequence[str]) -> str:
    if cell.worst is None:
        return ""
    return f"{100 * cell.worst.accuracy:.2f} ({escape(classes[cell.worst.label])})"


def _half(half_width: float) -> str:
    return "" if math.isnan(half_width) else rf" $\pm$ {100 * half_width:.2f}"

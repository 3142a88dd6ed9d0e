"""Plots of accuracy: against keep fraction, number of examples, and seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tamis.report.canvas import COLOURS, GREY, INK, new_figure
from tamis.report.cost import CostedCell, pareto_front
from tamis.report.summary import AccuracyTable, Cell, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_plot", "frontier_plot", "sizes_plot"]

_LINES = {"easy": "--", "stratified": "-.", "moderate": ":"}
_MARKERS = "osD^vP*Xph<>"


def accuracy_plot(table: AccuracyTable) -> Figure:
    """Test accuracy against keep fraction, mean and 95 % interval over the seeds."""
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    style = _metric_style(table.rows)
    # A little beside each other, so that intervals do not hide one another.
    width = _aside(table)
    for number, row in enumerate(table.rows):
        keeps = sorted(row.cells)
        aside = width * (number - (len(table.rows) - 1) / 2)
        accuracies = [row.cells[keep].accuracy for keep in keeps]
        is_random = row.metric == "random"
        colour, marker = style[row.metric]
        axes.errorbar(
            [keep + aside for keep in keeps],
            [100 * a.mean for a in accuracies],
            yerr=[0.0 if np.isnan(a.half_width) else 100 * a.half_width for a in accuracies],
            label=row.name,
            color=colour,
            linestyle=_LINES.get(row.side, "-"),
            linewidth=2.2 if is_random else 1.4,
            marker=marker,
            markersize=4.5,
            capsize=2,
            elinewidth=0.8,
        )
    axes.set_xticks(table.keeps, [f"{keep:g}" for keep in table.keeps])
    if table.full is not None:
        full = 100 * table.full.accuracy.mean
        axes.axhline(full, color=GREY, linewidth=1, linestyle=":", label="full")
    low, high = axes.get_ylim()
    # Intervals of few seeds reach where no accuracy can be.
    axes.set_ylim(max(low, 0), min(high, 101))
    axes.set_xlabel("keep fraction")
    axes.set_ylabel("test accuracy, %")
    _finish(figure, axes)
    return figure


def _aside(table: AccuracyTable) -> float:
    """Between neighbouring lines: little of the axis, and all together little of its least step."""
    keeps = sorted(table.keeps)
    if len(keeps) < 2:
        return 0.005
    step = min(np.diff(keeps))
    return float(min(0.012 * (keeps[-1] - keeps[0]), 0.3 * step / len(table.rows)))


def sizes_plot(tables: Sequence[AccuracyTable]) -> Figure:
    """Test error against the number of kept examples, both logarithmic, a panel a metric and side.

    Each line joins the initial sets of one keep fraction; random is grey, full in ink. Errors of
    exactly zero have no place on the axis and are left out.

    Args:
        tables: Of one recipe and budget, two sizes at least.
    """
    names = dict.fromkeys((row.metric, row.side) for table in tables for row in table.rows)
    panels = [name for name in names if name[0] != "random"] or list(names)
    keeps = sorted({keep for table in tables for keep in table.keeps}, reverse=True)
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.1 * columns + 1.2, 2.7 * rows + 0.4)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.ravel(), panels, strict=False):
        for number, keep in enumerate(keeps):
            # Shades of a map that is ordered in lightness, without its ends.
            share = number / max(1, len(keeps) - 1)
            colour = COLOURS[number] if len(keeps) <= len(COLOURS) else _shade(share)
            marker = _MARKERS[number % len(_MARKERS)]
            if name[0] != "random":
                random = _of_sizes(tables, ("random", "random"), keep)
                _error_line(axes, random, GREY, marker, "--", f"random, {keep:g}")
            line = _of_sizes(tables, name, keep)
            _error_line(axes, line, colour, marker, "-", f"keep {keep:g}")
        full = [table.full for table in tables if table.full is not None]
        _error_line(axes, full, INK, ".", "-", "full")
        axes.set_title(Row(*name, {}).name, fontsize=10)
        axes.grid(alpha=0.25)
    _logarithmic(grid[0, 0])
    for place in range(len(panels), rows * columns):
        grid[-1, place % columns].set_visible(False)
        grid[-2, place % columns].tick_params(labelbottom=True)
    figure.supxlabel("examples kept", fontsize=10)
    figure.supylabel("test error, %", fontsize=10)
    drawn = [axes.get_legend_handles_labels() for axes in grid.ravel()]
    named = {
        "random" if label.startswith("random,") else label: line
        for lines, labels in drawn
        for label, line in zip(labels, lines, strict=True)
    }
    figure.legend(
        list(named.values()), list(named), loc="outside right upper", fontsize=8, frameon=False
    )
    return figure


def _logarithmic(axes: Axes) -> None:
    """Both axes, with plain numbers; errors end at 100 %."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 110))
    for axis, text in ((axes.xaxis, "{x:,.0f}"), (axes.yaxis, "{x:g}")):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axis.set_major_formatter(StrMethodFormatter(text))
        axis.set_minor_formatter(NullFormatter())


def _shade(share: float) -> tuple[float, float, float, float]:
    import matplotlib

    red, green, blue, alpha = matplotlib.colormaps["viridis"](0.1 + 0.75 * share)
    return float(red), float(green), float(blue), float(alpha)


def _of_sizes(tables: Iterable[AccuracyTable], name: tuple[str, str], keep: float) -> list[Cell]:
    rows = [row for table in tables for row in table.rows if (row.metric, row.side) == name]
    return [row.cells[keep] for row in rows if keep in row.cells]


def _error_line(
    axes: Axes, cells: list[Cell], colour: object, marker: str, line: str, label: str
) -> None:
    drawn = sorted(
        (cell.n_kept, 100 * (1 - cell.accuracy.mean), 100 * cell.accuracy.half_width)
        for cell in cells
        if cell.accuracy.mean < 1
    )
    if not drawn:
        return
    n_kept, errors, widths = np.array(drawn).T
    widths = np.nan_to_num(widths)
    # Down to a tenth of the mean at most: zero lies infinitely far below.
    spread = np.stack([np.minimum(widths, 0.9 * errors), widths])
    axes.errorbar(
        n_kept, errors, yerr=spread, color=colour, marker=marker, linestyle=line, linewidth=1.3,
        markersize=4.5, capsize=2, elinewidth=0.8, label=label,
    )  # fmt: skip


def frontier_plot(cells: Sequence[CostedCell]) -> Figure:
    """Test accuracy against seconds a run; numbered is what no other one beats in both.

    Args:
        cells: Of one recipe and budget; of several sizes the numbered ones name theirs.
    """
    several = len({cell.table.size for cell in cells}) > 1
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    style = _metric_style([cell.row for cell in cells])
    named: set[str] = set()
    for one in cells:
        colour, marker = style[one.row.metric]
        label = one.row.name if one.row.name not in named else None
        named.add(one.row.name)
        accuracy = 100 * one.cell.accuracy.mean
        filled = one.row.side != "easy"
        axes.plot(
            one.seconds, accuracy, marker=marker, linestyle="", color=colour, markersize=6,
            markerfacecolor=colour if filled else "none", label=label,
        )  # fmt: skip
    front = pareto_front(cells)
    axes.step(
        [one.seconds for one in front], [100 * one.cell.accuracy.mean for one in front],
        where="post", color=GREY, linewidth=1, zorder=0, label="no other one is\nfaster and better",
    )  # fmt: skip
    for number, one in enumerate(front, start=1):
        size = f", size {one.table.size:g}" if several else ""
        text = one.row.name if one.row.metric == "full" else f"{one.row.name}, keep {one.keep:g}"
        axes.annotate(
            str(number), (one.seconds, 100 * one.cell.accuracy.mean), fontsize=8,
            fontweight="bold", ha="right", textcoords="offset points", xytext=(-5, 4),
        )  # fmt: skip
        mark = f"$\\mathbf{{{number}}}$"
        axes.plot([], [], linestyle="", marker=mark, color=INK, label=text + size)
    axes.margins(x=0.08, y=0.1)
    known = all(one.scoring_seconds is not None for one in cells)
    axes.set_xlabel(f"seconds a run: training{' and its part of scoring' if known else ''}")
    axes.set_ylabel("test accuracy, %")
    _finish(figure, axes)
    return figure


def _metric_style(rows: Iterable[Row]) -> dict[str, tuple[str, str]]:
    """Metric → colour and marker; random and full in ink."""
    metrics = dict.fromkeys(row.metric for row in rows if row.metric not in ("random", "full"))
    style = {
        metric: (COLOURS[i % len(COLOURS)], _MARKERS[1 + i % (len(_MARKERS) - 1)])
        for i, metric in enumerate(metrics)
    }
    return {"random": (INK, "o"), "full": (INK, "*"), **style}


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8,
                  frameon=False)  # fmt: skip

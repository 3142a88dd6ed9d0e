"""Measured ratios as bars, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tamis.atomic import atomic_path
from tamis.benchmarks.measuring import Row

__all__ = ["draw"]

_INCHES_A_BAR = 0.3


def draw(rows: Sequence[Row], out: Path) -> None:
    """Draw the rows that have a ratio, as a PNG that replaces an older one.

    A bar to the right of 1 is better than the peer; a mark is the goal. Of times and sizes the
    inverse is drawn, so that right is better for all.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    shown = [row for row in rows if row.ratio and row.peer]
    figure = Figure(figsize=(11, 1.2 + _INCHES_A_BAR * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(shown)):
        assert row.ratio is not None
        ratio = 1 / row.ratio if row.lower_is_better else row.ratio
        colour = {True: "#2a9d8f", False: "#e76f51", None: "#8a8f98"}[row.met]
        axes.barh(place, ratio - 1, left=1, color=colour, height=0.7)
        if row.goal:
            goal = 1 / row.goal if row.lower_is_better else row.goal
            axes.plot([goal, goal], [place - 0.42, place + 0.42], color="black", linewidth=1.5)
        axes.text(ratio, place, f" {ratio:.2f} ", va="center", ha="left" if ratio >= 1 else "right")
    labels = [f"{row.name}  |  {row.peer}" for row in reversed(shown)]
    axes.set_yticks(range(len(shown)), labels)
    axes.set_xscale("log")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks(FuncFormatter(_tick))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("times the peer; green reaches the goal (black mark), red misses it")
    axes.grid(axis="x", which="both", alpha=0.25)
    with atomic_path(out, overwrite=True) as partial, partial.open("wb") as sink:
        figure.savefig(sink, format="png", dpi=110)


def _tick(value: float, position: object) -> str:
    """1, 2 and 5 of each power of ten; others would overlap."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""

"""What all plots share: a figure, colours that everybody can tell apart, and a dark twin."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "GREY", "INK", "darkened", "new_figure", "plot_style", "svg_text"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Okabe & Ito's palette, readable with every kind of colour vision."""
GREY = "#666666"
INK = "#1a1a1a"
"""Of text, axes and the baseline; what is drawn on other colours takes black or white instead."""

# On a dark page. Lines keep their hue and get lighter where they would drown.
_DARK = {INK: "#ececec", GREY: "#b0b0b0", "#0072b2": "#4aa8e0", "#8c6d31": "#c2a05c"}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=160)


@contextmanager
def plot_style() -> Iterator[None]:
    """Figures that are drawn inside have text and axes in :data:`INK`, which a dark page turns."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        yield


def svg_text(figure: Figure) -> str:
    """The figure as SVG without a ground, for pages that have one.

    Glyphs are drawn as paths, so that it looks the same everywhere.
    """
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no creation date: the same figure gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "tamis"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def darkened(svg: str) -> str:
    """The same SVG for a dark page: dark colours are exchanged for light ones."""
    for light, dark in _DARK.items():
        svg = svg.replace(light, dark)
    return svg

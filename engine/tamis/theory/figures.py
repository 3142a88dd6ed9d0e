"""The paper's theoretical figures: 1, a perfect metric; 2, an imperfect one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tamis.progress import QUIET, Progress
from tamis.report.canvas import new_figure
from tamis.theory.panels import (
    best_keep_panel,
    choice_panel,
    curves_panel,
    envelopes_panel,
    geometry_panel,
    information_panel,
    phase_panel,
    sides_panel,
)
from tamis.theory.simulation import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figure"]

_KEEPS = (1.0, 0.5, 0.2, 0.1)
_THETAS = (0.0, 10.0, 20.0, 40.0)
_LARGEST = 160.0


def draw_figure(
    number: Literal[1, 2], setting: Setting | None = None, *, progress: Progress = QUIET
) -> Figure:
    """Draw one of the two figures, six panels each.

    Args:
        number: 1: curves for each kept share, hard against easy with a small and a large stock, the
            phase map, the best share, the information per example. 2: an imperfect probe: its
            geometry, curves for three angles, the best share's error and the best share.
        setting: How the dots are simulated; None for curves alone. Dots are means over the trials,
            bars their 95 % intervals (1.96 standard errors).
        progress: Told of every trial.
    """
    figure = new_figure(12.5, 7.4)
    panels = figure.subplots(2, 3).ravel()
    (_first if number == 1 else _second)(panels, setting, progress)
    for letter, axes in zip("ABCDEF", panels, strict=True):
        axes.set_title(f"{letter}   {axes.get_title()}", loc="left", fontsize=10)
        axes.set_title("")
        axes.grid(alpha=0.2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def _first(panels: list[Axes], setting: Setting | None, progress: Progress) -> None:
    curves_panel(panels[0], _KEEPS, 0.0, _LARGEST, setting, progress)
    panels[0].set_title("the hardest examples, perfect metric")
    for axes, alpha_tot, name in ((panels[1], 2.0, "scarce"), (panels[2], 30.0, "abundant")):
        sides_panel(axes, alpha_tot, setting, progress)
        axes.set_title(rf"{name} examples: $\alpha_{{\rm tot}}$ = {alpha_tot:g}")
    phase_panel(panels[3])
    panels[3].set_title("which side wins")
    choice_panel(panels[4])
    panels[4].set_title("test error, and the best share")
    information_panel(panels[5], _KEEPS)
    panels[5].set_title("information per example")


def _second(panels: list[Axes], setting: Setting | None, progress: Progress) -> None:
    geometry_panel(panels[0])
    panels[0].set_title("a probe at an angle to the teacher")
    for axes, theta in zip(panels[1:4], _THETAS[1:], strict=True):
        curves_panel(axes, _KEEPS, theta, None, setting, progress)
        axes.set_title(f"the hardest examples, probe {theta:g}° off")
    envelopes_panel(panels[4], _THETAS)
    panels[4].set_title("error at the best share, at least 1 %")
    best_keep_panel(panels[5], _THETAS)
    panels[5].set_title("the best share to keep")

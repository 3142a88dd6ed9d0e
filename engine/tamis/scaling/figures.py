"""Scaling curves with their laws and intervals, and their local slopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.report.canvas import COLOURS, GREY, INK, new_figure
from tamis.scaling.analysis import NO_LAW, CurveStudy
from tamis.scaling.studies import EnvelopeStudy, ScalingStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_of", "curves_panel", "scaling_figure", "slopes_panel"]

_Array = NDArray[np.float64]

_LINE = 60  # nodes of a drawn law
_LEAST_TICKS = 3


def scaling_figure(study: ScalingStudy) -> Figure:
    """Two panels for each metric and side: error, and local slope, against kept examples.

    Args:
        study: From :func:`tamis.scaling.studies.study_scaling`.

    Returns:
        One row for each metric, side, recipe and budget; a row of the unpruned curve alone where
        nothing was pruned.
    """
    pruned = [one for one in study.envelopes if one.envelope is not None]
    rows = pruned or list(study.envelopes)
    figure = new_figure(11, 3.6 * max(1, len(rows)) + 0.3)
    panels = figure.subplots(max(1, len(rows)), 2, squeeze=False)
    groups = {(one.key.recipe, one.key.budget) for one in rows}
    for (left, right), one in zip(panels, rows, strict=False):
        curves = curves_of(study, one)
        curves_panel(left, curves, one)
        slopes_panel(right, curves, one)
        parts = [one.name, *((one.key.recipe, one.key.budget) if len(groups) > 1 else ())]
        title = ", ".join(part for part in parts if part)
        left.set_title(title, loc="left", fontsize=10)
        right.set_title(f"better than a power law: {one.verdict.answer}", loc="left", fontsize=10)
    return figure


def curves_of(study: ScalingStudy, one: EnvelopeStudy) -> list[CurveStudy]:
    """The curves behind an envelope, the largest keep fraction first."""
    found = [
        c
        for c in study.curves
        if (c.curve.key.recipe, c.curve.key.budget) == (one.key.recipe, one.key.budget)
        and (
            c.curve.key.metric == "full"
            or (c.curve.key.metric, c.curve.key.side) == (one.key.metric, one.key.side)
        )
    ]
    return sorted(found, key=lambda c: -c.curve.key.keep)


def curves_panel(axes: Axes, curves: list[CurveStudy], one: EnvelopeStudy) -> None:
    """Errors with their intervals, the chosen laws with bands, and the envelope.

    Laws that do not describe their curve are dotted.
    """
    for study, colour in zip(curves, _colours(curves), strict=True):
        curve = study.curve
        low, high = _interval(np.exp(study.log_means))
        axes.errorbar(
            curve.n_kept, curve.means, yerr=np.abs(np.stack([low, high]) - curve.means),
            color=colour, marker="o", markersize=4, linestyle="", linewidth=1, capsize=2, zorder=3,
        )  # fmt: skip
        n = np.geomspace(curve.n_kept[0], curve.n_kept[-1], _LINE)
        errors = np.exp(study.log_error(n))
        line = ":" if study.misfit < NO_LAW else "-"
        axes.plot(n, errors[0], line, color=colour, linewidth=1.4, label=_label(study))
        axes.fill_between(n, *_interval(errors), color=colour, alpha=0.15, linewidth=0)
    if any(study.misfit < NO_LAW for study in curves):
        axes.plot([], [], ":", color=GREY, linewidth=1.4, label="dotted: no law describes it")
    if one.envelope is not None:
        frontier, spent = one.envelope.frontier, one.envelope.exhausted
        axes.plot(
            frontier.n_kept, frontier.means, color=INK, linewidth=1.2, linestyle="--",
            label="envelope", zorder=2,
        )  # fmt: skip
        axes.plot(
            frontier.n_kept[spent], frontier.means[spent], color=INK, marker="x", markersize=7,
            linestyle="", label="set exhausted" if spent.any() else None,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="kept examples", ylabel="test error")
    axes.set_ylim(
        top=min(axes.get_ylim()[1], 1.1)
    )  # intervals of few seeds reach where no error can be
    _finish(axes)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")


def slopes_panel(axes: Axes, curves: list[CurveStudy], one: EnvelopeStudy) -> None:
    """Local slopes between neighbouring sizes: of all examples, and of the envelope."""
    full = [c for c in curves if c.curve.key.metric == "full"]
    shown = [(c, COLOURS[0], "all") for c in full]
    if one.envelope is not None and one.judged is not None:
        shown.append((one.judged, INK, "envelope"))
    elif not full:
        shown += [
            (c, colour, _label(c)) for c, colour in zip(curves, _colours(curves), strict=True)
        ]
    for study, colour, label in shown:
        at = np.array([np.sqrt(s.n_low * s.n_high) for s in study.slopes])
        slope = np.array([[s.slope.value, s.slope.low, s.slope.high] for s in study.slopes]).T
        bars = np.abs(slope[1:] - slope[0]) if np.isfinite(slope).all() else None
        axes.errorbar(
            at, slope[0], yerr=bars, color=colour, marker="o", markersize=4, linestyle="",
            linewidth=1, capsize=2,
        )  # fmt: skip
        n = np.geomspace(study.curve.n_kept[0], study.curve.n_kept[-1], _LINE)
        slopes = study.local_slope(n)
        name = f"{label}: {study.chosen.law.name}"
        line = ":" if study.misfit < NO_LAW else "-"
        axes.plot(n, slopes[0], line, color=colour, linewidth=1.4, label=name)
        axes.fill_between(n, *_interval(slopes), color=colour, alpha=0.13, linewidth=0)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="kept examples", ylabel="local slope, −d ln ε / d ln n")
    _finish(axes)
    if shown:
        axes.legend(fontsize=7.5, frameon=False, loc="best")


def _colours(curves: list[CurveStudy]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(curves))]


def _label(study: CurveStudy) -> str:
    key = study.curve.key
    return "all" if key.keep == 1 else f"keep {key.keep:g}"


def _interval(samples: _Array) -> tuple[_Array, _Array]:
    """Of the resamples; the data themselves where there are none."""
    rows = samples[1:] if len(samples) > 1 else samples
    low, high = np.percentile(rows, [2.5, 97.5], axis=0)
    return low, high


def _finish(axes: Axes) -> None:
    """Plain numbers instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    for axis, scale, ends in (
        (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
        (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
    ):
        if scale != "log":
            continue
        decades = np.log10(ends[1] / ends[0])
        marks = (1.0, 2.0, 5.0) if decades < _LEAST_TICKS else (1.0,)
        axis.set_major_locator(LogLocator(subs=marks))
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)

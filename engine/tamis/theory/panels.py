"""What the figures are made of: one function a panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.progress import QUIET, Progress
from tamis.report.canvas import COLOURS, GREY
from tamis.theory.curves import best_keep, default_sizes, error_curves
from tamis.theory.domain import Side
from tamis.theory.information import gibbs_information, paper_information
from tamis.theory.phases import crossover, phase_map
from tamis.theory.simulation import Setting, simulate
from tamis.theory.solver import solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "best_keep_panel",
    "choice_panel",
    "curves_panel",
    "envelopes_panel",
    "geometry_panel",
    "information_panel",
    "phase_panel",
    "sides_panel",
]

_KEPT = r"kept examples per dimension, $\alpha_{\rm prune}$"
_ERROR = "test error"
_SIDES: dict[Side, str] = {"hard": COLOURS[0], "easy": COLOURS[1], "random": GREY}
_ERRORS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_LEAST_DOT = 0.002  # smaller errors are not drawn: the axes end there


def curves_panel(
    axes: Axes,
    keeps: tuple[float, ...],
    theta: float = 0.0,
    largest_alpha_tot: float | None = None,
    setting: Setting | None = None,
    progress: Progress = QUIET,
) -> None:
    """Error against kept examples for each fraction of the hardest; dots where simulated."""
    sizes = default_sizes(70, 0.3, 16.0)
    for keep, curve, colour in zip(keeps, error_curves(sizes, keeps, theta), COLOURS, strict=False):
        name = "all" if keep == 1 else f"{100 * keep:g} %"
        axes.plot(sizes, curve, color=colour, linewidth=1.5, label=name)
        if setting is not None:
            for size in (0.6, 1.0, 1.6, 2.5, 4.0, 7.0, 12.0):
                _dot(axes, size, size / keep, keep, theta, "hard", setting, progress, colour)
    if largest_alpha_tot is not None:
        best = best_keep(sizes, theta, largest_alpha_tot=largest_alpha_tot)
        axes.plot(
            sizes, best.error, color="black", linewidth=1.6, linestyle="--",
            label=rf"best, $\alpha_{{\rm tot}} \leq {largest_alpha_tot:g}$",
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=_KEPT, ylabel=_ERROR, ylim=(_LEAST_DOT, 0.5))
    _ticks(axes, (0.5, 1, 2, 5, 10), _ERRORS)
    axes.legend(title="kept, hardest", loc="lower left", fontsize=8, title_fontsize=8)


def sides_panel(
    axes: Axes,
    alpha_tot: float,
    setting: Setting | None = None,
    progress: Progress = QUIET,
) -> None:
    """Error against the kept share of a given stock, for the hardest, the easiest, and a lot."""
    shares = np.linspace(0.05, 1, 60)
    shares = shares[shares * alpha_tot >= 0.06]
    for side, colour in _SIDES.items():
        axes.plot(
            shares, solve(alpha_tot, shares, 0, side).error, color=colour, linewidth=1.5,
            label={"hard": "hardest", "easy": "easiest", "random": "random"}[side],
        )  # fmt: skip
        if setting is not None:
            for keep in (0.1, 0.25, 0.4, 0.6, 0.8):
                _dot(axes, keep, alpha_tot, keep, 0.0, side, setting, progress, colour)
    full = float(solve(alpha_tot).error)
    axes.axhline(full, color="black", linewidth=0.8, linestyle=":", zorder=0)
    axes.set(
        xlabel="share that is kept", ylabel=_ERROR, xlim=(0, 1.02), yscale="log",
        ylim=(0.7 * full, 0.55),
    )  # fmt: skip
    shown = [e for e in (*_ERRORS, 0.3, 0.4) if e > 0.7 * full]
    _ticks(axes, (0, 0.2, 0.4, 0.6, 0.8, 1), shown if full > 0.1 else shown[:-2])
    axes.legend(loc="upper right", fontsize=8)


def phase_panel(axes: Axes) -> None:
    """Which side wins, over stock and share, with the line where both are as good."""
    from matplotlib.colors import SymLogNorm

    totals, shares = np.geomspace(1, 100, 65), np.linspace(0.05, 0.95, 41)
    lead = phase_map(totals, shares)
    limit = float(np.abs(lead).max())
    norm = SymLogNorm(0.003, vmin=-limit, vmax=limit)  # small leads show as well
    image = axes.pcolormesh(
        totals, shares, lead, cmap="RdBu_r", norm=norm, shading="gouraud", rasterized=True
    )
    fine = np.linspace(0.03, 0.97, 48)
    axes.plot(crossover(fine), fine, color="black", linewidth=1.5)
    axes.text(25, 0.5, "hardest\nwin", ha="center", va="center", fontsize=9)
    axes.text(1.9, 0.3, "easiest\nwin", ha="center", va="center", fontsize=9, color="white")
    axes.set(
        xscale="log", xlim=(1, 100), ylim=(0.05, 0.95), ylabel="share that is kept",
        xlabel=r"examples per dimension before pruning, $\alpha_{\rm tot}$",
    )  # fmt: skip
    _ticks(axes, (1, 3, 10, 30, 100), (0.1, 0.3, 0.5, 0.7, 0.9))
    bar = axes.figure.colorbar(image, ax=axes, ticks=[-0.1, -0.01, 0, 0.01, 0.1])
    bar.ax.set_yticklabels(["−0.1", "−0.01", "0", "0.01", "0.1"])
    bar.minorticks_off()
    bar.set_label("error of hardest − error of easiest", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def choice_panel(axes: Axes) -> None:
    """Error over kept examples and kept share with a perfect metric, and the best share."""
    from matplotlib.colors import LogNorm

    sizes, shares = default_sizes(49, 0.5, 8.0), np.geomspace(0.05, 1, 31)
    errors = error_curves(sizes, shares)
    levels = [0.01, 0.03, 0.1, 0.2, 0.3, 0.4]
    image = axes.pcolormesh(
        sizes, shares, errors, cmap="cividis_r", norm=LogNorm(0.003, 0.5), shading="gouraud",
        rasterized=True,
    )  # fmt: skip
    lines = axes.contour(sizes, shares, errors, levels, colors="white", linewidths=0.7)
    fine = np.linspace(0.8, 1.99, 40)
    axes.plot(fine, best_keep(fine).keep, color=COLOURS[1], linewidth=2, label="best share")
    axes.set(
        xscale="log", yscale="log", xlim=(0.5, 8), ylim=(0.05, 1), xlabel=_KEPT,
        ylabel="share that is kept",
    )  # fmt: skip
    _ticks(axes, (0.5, 1, 2, 4, 8), (0.05, 0.1, 0.2, 0.5, 1))
    axes.legend(loc="lower left", fontsize=8)
    bar = axes.figure.colorbar(image, ax=axes, ticks=levels)
    bar.ax.set_yticklabels([f"{level:g}" for level in levels])
    bar.add_lines(lines)
    bar.minorticks_off()
    bar.set_label(_ERROR, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def best_keep_panel(axes: Axes, thetas: tuple[float, ...]) -> None:
    """The best share of the hardest against the number of kept examples, for each probe."""
    sizes = default_sizes(40, 0.8, 50.0)
    for theta, colour in zip(thetas, COLOURS, strict=False):
        best = best_keep(sizes, theta)
        shown = np.where(best.at_limit, np.nan, best.keep)
        axes.plot(sizes, shown, color=colour, linewidth=1.5, label=f"{theta:g}°")
    axes.set(xscale="log", yscale="log", xlabel=_KEPT, ylabel="best share to keep")
    _ticks(axes, (1, 2, 5, 10, 20, 50), (0.02, 0.05, 0.1, 0.2, 0.5, 1))
    axes.legend(title="probe's angle", loc="lower left", fontsize=8, title_fontsize=8)


def envelopes_panel(axes: Axes, thetas: tuple[float, ...]) -> None:
    """The error of the best share against the number of kept examples, for each probe."""
    sizes = np.sort(np.concatenate([default_sizes(40, 0.5, 50.0), np.linspace(1.8, 2.5, 15)]))
    axes.plot(
        sizes, solve(sizes).error, color="black", linewidth=1.2, linestyle=":", label="no pruning"
    )
    for theta, colour in zip(thetas, COLOURS, strict=False):
        axes.plot(
            sizes, best_keep(sizes, theta).error, color=colour, linewidth=1.5, label=f"{theta:g}°"
        )
    axes.set(xscale="log", yscale="log", xlabel=_KEPT, ylabel=f"{_ERROR} at the best share")
    _ticks(axes, (0.5, 1, 2, 5, 10, 20, 50), (0.0001, 0.001, 0.01, 0.1))
    axes.legend(title="probe's angle", loc="lower left", fontsize=8, title_fontsize=8)


def information_panel(axes: Axes, keeps: tuple[float, ...]) -> None:
    """Information per example: the paper's formula, and with two overlaps."""
    sizes = default_sizes(80, 0.1, 16.0)
    for keep, colour in zip(keeps, COLOURS, strict=False):
        exact = gibbs_information(sizes, keep)
        formula = paper_information(exact.R, keep)
        name = "all" if keep == 1 else f"{100 * keep:g} %"
        axes.plot(sizes, exact.information, color=colour, linewidth=1.5, label=name)
        axes.plot(sizes, formula, color=colour, linewidth=1.2, linestyle="--")
    axes.plot([], [], color="black", linestyle="--", linewidth=1.2, label="paper's formula")
    axes.set(xscale="log", xlabel=_KEPT, ylabel="nats per example", ylim=(0, None))
    axes.set_xticks((0.1, 0.3, 1, 3, 10), ["0.1", "0.3", "1", "3", "10"])
    axes.set_xticks([], minor=True)
    axes.legend(title="kept, hardest", loc="upper left", fontsize=8, title_fontsize=8)


def geometry_panel(axes: Axes, theta: float = 30.0, seed: int = 3) -> None:
    """Teacher, probe, and which examples the probe calls hard."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, 2))
    kept = np.abs(x[:, 0]) < 0.35
    angle = np.radians(theta)
    teacher = np.array([np.cos(angle), np.sin(angle)])
    positive = x @ teacher > 0
    for chosen, colour, marker in (
        (positive, COLOURS[0], "o"),
        (~positive, COLOURS[1], "s"),
    ):
        for shown, strength in ((kept, 0.95), (~kept, 0.18)):
            dots: NDArray[np.float64] = x[chosen & shown]
            axes.scatter(
                dots[:, 0], dots[:, 1], s=11, c=colour, alpha=strength, marker=marker,
                linewidths=0,
            )  # fmt: skip
    for direction, name, place in (
        (np.array([1.0, 0.0]), "probe", (2.35, -0.32)),
        (teacher, "teacher", (2.3, 1.4)),
    ):
        tip = 2.25 * direction
        axes.annotate(
            "", xy=(float(tip[0]), float(tip[1])), xytext=(0, 0),
            arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.5},
        )  # fmt: skip
        axes.text(
            *place, name, fontsize=9, ha="center",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    across = 3.4 * np.array([-teacher[1], teacher[0]])
    axes.plot([-across[0], across[0]], [-across[1], across[1]], color="black", linewidth=1)
    for edge in (-0.35, 0.35):
        axes.axvline(edge, color=GREY, linewidth=1, linestyle="--")
    axes.set(xlim=(-3, 3), ylim=(-2.6, 2.6), xticks=[], yticks=[], aspect="equal")
    axes.set_xlabel("score of the probe; kept: the strip")


def _dot(
    axes: Axes,
    at: float,
    alpha_tot: float,
    keep: float,
    theta: float,
    side: Side,
    setting: Setting,
    progress: Progress,
    colour: str,
) -> None:
    done = simulate(alpha_tot, keep, theta, side, setting, progress=progress)
    if done.error < _LEAST_DOT:
        return
    axes.errorbar(
        at, done.error, yerr=1.96 * done.error_se, color=colour, marker="o", markersize=4,
        markeredgecolor="white", markeredgewidth=0.5, capsize=2, linewidth=1, zorder=5,
    )  # fmt: skip


def _ticks(axes: Axes, across: Sequence[float], up: Sequence[float]) -> None:
    """Plain numbers instead of powers of ten, and only these."""
    axes.set_xticks(across, [f"{value:g}" for value in across])
    axes.set_yticks(up, [f"{value:g}" for value in up])
    axes.set_xticks([], minor=True)
    axes.set_yticks([], minor=True)

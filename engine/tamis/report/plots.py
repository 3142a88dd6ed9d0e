"""Plots of scores: their histograms, what they keep of each class, how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.agreement import cluster_metrics
from tamis.report.canvas import COLOURS, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_keep_plot", "correlation_plot", "histogram_plot"]


def histogram_plot(scores: dict[str, NDArray[np.float32]]) -> Figure:
    """How the scores of each metric are distributed."""
    columns = min(4, len(scores))
    rows = -(-len(scores) // columns)
    figure = new_figure(2.2 * columns + 0.4, 1.7 * rows + 0.3)
    for number, (name, values) in enumerate(scores.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.hist(values, bins=40, color=COLOURS[0])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return figure


def class_keep_plot(
    rates: dict[str, NDArray[np.float64]], classes: Sequence[str], keep: float
) -> Figure:
    """The share of each class that each row keeps at one keep fraction, as a heat map.

    Args:
        rates: Row name → (n_classes,) share kept; NaN for a class without examples.
        classes: Class names.
        keep: The keep fraction of all rows.
    """
    named = len(classes) <= 25
    figure = new_figure(2.2 + min(10.0, 0.46 * len(classes)), 1.6 + 0.34 * len(rates))
    axes = figure.add_subplot()
    grid = np.stack(list(rates.values()))
    most = max(1e-9, float(np.nanmax(grid)))
    image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=most)
    axes.set_yticks(range(len(rates)), list(rates), fontsize=8)
    if named:
        axes.set_xticks(range(len(classes)), classes, fontsize=8)
        if max(map(len, classes)) > 2:
            for text in axes.get_xticklabels():
                text.set(rotation=60, ha="right", rotation_mode="anchor")
        for row, column in np.ndindex(*grid.shape):
            share = grid[row, column]
            axes.text(
                column, row, "–" if np.isnan(share) else f"{100 * share:.0f}", ha="center",
                va="center", fontsize=7, color="black" if share > 0.6 * most else "white",
            )  # fmt: skip
    else:
        axes.set_xlabel(f"{len(classes)} classes, in label order")
    axes.set_title(f"% of each class that is kept, keep fraction {keep:g}", fontsize=10)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}")
    return figure


def correlation_plot(names: list[str], correlation: NDArray[np.float64]) -> Figure:
    """Spearman's rank correlation between metrics, clustered; the tree says in which order."""
    from scipy.cluster.hierarchy import dendrogram

    clusters = cluster_metrics(correlation)
    order = clusters.order
    side = 2.2 + 0.42 * len(names)
    figure = new_figure(side + 0.6, side + 0.7)
    above, axes = figure.subplots(2, 1, height_ratios=[1, 7])
    if len(names) > 1:
        dendrogram(
            clusters.linkage, ax=above, no_labels=True, color_threshold=0,
            above_threshold_color=GREY,
        )  # fmt: skip
    above.set_axis_off()
    image = axes.imshow(
        correlation[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto"
    )
    ordered = [names[place] for place in order]
    axes.set_xticks(range(len(names)), ordered, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), ordered, fontsize=8)
    for row, column in np.ndindex(*correlation.shape):
        value = correlation[order[row], order[column]]
        dark = abs(value) > 0.6
        axes.text(
            column, row, "–" if np.isnan(value) else f"{value:z.2f}", ha="center", va="center",
            fontsize=7 if len(names) < 15 else 6, color="white" if dark else "black",
        )  # fmt: skip
    above.set_title("Spearman's rank correlation of the scores", fontsize=10)
    figure.colorbar(image, ax=[above, axes], shrink=0.6)
    return figure

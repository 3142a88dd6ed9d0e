"""The report's plots, each as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.agreement import cluster_metrics
from tamis.report.canvas import COLOURS, GREY, new_figure
from tamis.report.summary import AccuracyTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy_plot", "class_keep_plot", "correlation_plot", "histogram_plot"]

_LINES = {"easy": "--", "stratified": "-.", "moderate": ":"}


def accuracy_plot(table: AccuracyTable) -> Figure:
    """Test accuracy against keep fraction, mean and 95 % interval over the seeds."""
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    metrics = [row.metric for row in table.rows if row.metric != "random"]
    colour = {metric: COLOURS[i % len(COLOURS)] for i, metric in enumerate(dict.fromkeys(metrics))}
    for row in table.rows:
        keeps = sorted(row.cells)
        accuracies = [row.cells[keep].accuracy for keep in keeps]
        is_random = row.metric == "random"
        axes.errorbar(
            keeps,
            [100 * a.mean for a in accuracies],
            yerr=[0.0 if np.isnan(a.half_width) else 100 * a.half_width for a in accuracies],
            label=row.name,
            color="black" if is_random else colour[row.metric],
            linestyle=_LINES.get(row.side, "-"),
            linewidth=2.2 if is_random else 1.4,
            marker="o",
            markersize=4,
            capsize=2,
        )
    if table.full is not None:
        axes.axhline(100 * table.full.mean, color=GREY, linewidth=1, linestyle=":", label="full")
    low, high = axes.get_ylim()
    # Intervals of few seeds reach where no accuracy can be.
    axes.set_ylim(max(low, 0), min(high, 101))
    axes.set_xlabel("keep fraction")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"same {table.budget} for every run", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


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
    rates: dict[str, NDArray[np.float64]], classes: list[str], keep: float
) -> Figure:
    """The share of each class that each row keeps at one keep fraction, as a heat map.

    Args:
        rates: Row name → (n_classes,) share kept.
        classes: Class names.
        keep: The keep fraction of all rows.
    """
    shown = len(classes) <= 25
    figure = new_figure(1.8 + min(10.0, 0.42 * len(classes)), 1.6 + 0.34 * len(rates))
    axes = figure.add_subplot()
    grid = np.stack(list(rates.values()))
    image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=max(1e-9, grid.max()))
    axes.set_yticks(range(len(rates)), list(rates), fontsize=8)
    if shown:
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    else:
        axes.set_xlabel(f"{len(classes)} classes, in label order")
    axes.set_title(f"share of each class that is kept, keep fraction {keep:g}", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8)
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
            column, row, "–" if np.isnan(value) else f"{value:.2f}", ha="center", va="center",
            fontsize=7 if len(names) < 15 else 6, color="white" if dark else "black",
        )  # fmt: skip
    above.set_title("Spearman's rank correlation of the scores", fontsize=10)
    figure.colorbar(image, ax=[above, axes], shrink=0.6)
    return figure

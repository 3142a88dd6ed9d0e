"""The figures of a sweep, and the files that they become."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.atomic import atomic_path
from tamis.bundles.bundle import Bundle
from tamis.report.canvas import darkened, plot_style, svg_text
from tamis.report.curves import accuracy_plot, frontier_plot, sizes_plot
from tamis.report.plots import class_keep_plot, correlation_plot, histogram_plot
from tamis.report.sections import Section
from tamis.scaling.figures import scaling_figure
from tamis.scaling.studies import ScalingStudy
from tamis.score_table import ScoreTable
from tamis.statistics import rank_correlation
from tamis.sweep.records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plot", "class_rates", "draw_plots", "save_plot"]


@dataclass(frozen=True)
class Plot:
    """A plot as files and as the page holds it.

    Attributes:
        png: The file; ``.svg`` lies beside it.
        light: Data URI of the SVG, for a light page.
        dark: The same for a dark one.
    """

    png: Path
    light: str
    dark: str


def draw_plots(
    sections: Sequence[Section],
    studies: Mapping[str, ScalingStudy],
    records: Sequence[TrialRecord],
    table: ScoreTable,
    bundle: Bundle,
) -> dict[str, Figure]:
    """Name → figure.

    Args:
        sections: Of the report.
        studies: Name of a section → its scaling laws, where there are any.
        records: Finished trials.
        table: Scores of the largest initial set.
        bundle: The training bundle.
    """
    with plot_style():
        figures: dict[str, Figure] = {}
        for section in sections:
            figures |= _section_plots(section)
        for name, study in studies.items():
            figures[f"laws-{name}"] = scaling_figure(study)
        scores = {name: column.values for name, column in table.columns.items()}
        if scores:
            figures["histograms"] = histogram_plot(scores)
        if len(scores) > 1:
            correlation = rank_correlation(np.stack(list(scores.values())))
            figures["correlation"] = correlation_plot(list(scores), correlation)
        for keep, rates in class_rates(records, table, bundle.n_classes).items():
            figures[f"class-keep-{keep:g}"] = class_keep_plot(rates, bundle.class_names, keep)
        return figures


def _section_plots(section: Section) -> dict[str, Figure]:
    figures = {
        f"accuracy-{section.table_name(table)}": accuracy_plot(table) for table in section.tables
    }
    if section.has_sizes_plot:
        figures[f"scaling-{section.name}"] = sizes_plot(section.tables)
    figures[f"frontier-{section.name}"] = frontier_plot(section.cells)
    return figures


def class_rates(
    records: Iterable[TrialRecord], table: ScoreTable, n_classes: int
) -> dict[float, dict[str, NDArray[np.float64]]]:
    """Share of each class that is kept of the largest initial set.

    Args:
        records: Finished trials.
        table: Labels of the largest initial set.
        n_classes: Of the bundle.

    Returns:
        Keep fraction below 1, ascending → metric and side, random first → (n_classes,) float64,
        mean over the seeds; NaN for a class without examples.
    """
    pruned = [record for record in records if record.trial.keep < 1]
    largest = max((record.trial.size for record in pruned), default=1.0)
    sizes = np.bincount(table.labels, minlength=n_classes).astype(np.float64)
    sizes[sizes == 0] = np.nan
    # Neither recipe nor budget has a say in what is kept: a set is counted once a seed.
    found: dict[float, dict[str, dict[int, NDArray[np.float64]]]] = {}
    for record in sorted(pruned, key=lambda r: (r.trial.metric != "random", r.trial.metric)):
        trial = record.trial
        if trial.size == largest:
            kept = np.zeros(n_classes)
            for label, count in record.per_class_kept.items():
                kept[int(label)] = count
            name = trial.metric if trial.side == "random" else f"{trial.metric}, {trial.side}"
            by_name = found.setdefault(trial.keep, {})
            by_name.setdefault(name, {})[trial.seed] = kept / sizes
    return {
        keep: {name: np.mean(list(seeds.values()), axis=0) for name, seeds in by_name.items()}
        for keep, by_name in sorted(found.items())
    }


def save_plot(figure: Figure, png: Path) -> Plot:
    """Write a figure as PNG and SVG, replacing what is there."""
    with atomic_path(png, overwrite=True) as partial:
        figure.savefig(partial, format="png")
    figure.set_layout_engine("none")  # laid out once, which takes as long as drawing
    text = svg_text(figure)
    with atomic_path(png.with_suffix(".svg"), overwrite=True) as partial:
        partial.write_text(text, encoding="utf-8")
    return Plot(png, _data_uri(text), _data_uri(darkened(text)))


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()

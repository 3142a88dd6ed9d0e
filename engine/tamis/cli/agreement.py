"""agreement."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tamis.cli.options import Json, Overwrite, refuse_no_picture
from tamis.cli.output import print_json, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["agreement"]


def agreement(
    scores: Annotated[Path, typer.Argument(help="A score table.", show_default=False)],
    other: Annotated[
        Path | None,
        typer.Argument(help="A table of another campaign on the same bundle.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the clustered matrix (.png, .svg or .pdf).")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """How far metrics agree: with each other, and with themselves in another campaign."""
    from tamis.agreement import cluster_metrics, compare_tables, correlate
    from tamis.atomic import refuse_existing
    from tamis.score_table import read_score_table

    if plot is not None:
        refuse_no_picture("--plot", plot)
        refuse_existing(plot, overwrite)
    table = read_score_table(scores)
    across = compare_tables(table, read_score_table(other)) if other is not None else {}
    matrix = correlate(table)
    names, order = list(table.columns), cluster_metrics(matrix).order
    if plot is not None:
        _draw(names, matrix, plot, overwrite)
    if json:
        ordered = [names[place] for place in order]
        rows = {
            name: dict(zip(names, row, strict=True))
            for name, row in zip(names, matrix.tolist(), strict=True)
        }
        campaigns = {name: asdict(found) for name, found in across.items()}
        print_json({"order": ordered, "spearman": rows, "campaigns": campaigns})
        return
    _print_matrix(names, order, matrix)
    if across:
        print_table(
            ["metric", "Spearman", "of the hardest tenth in both"],
            [[name, f"{a.spearman:.3f}", f"{a.hardest:.0%}"] for name, a in across.items()],
            title="Two campaigns",
        )


def _draw(names: list[str], matrix: NDArray[np.float64], plot: Path, overwrite: bool) -> None:
    from tamis.atomic import atomic_path
    from tamis.report.plots import correlation_plot

    figure = correlation_plot(names, matrix)
    with atomic_path(plot, overwrite=overwrite) as partial:
        figure.savefig(partial, format=plot.suffix[1:])


def _print_matrix(names: list[str], order: list[int], matrix: NDArray[np.float64]) -> None:
    """One line a metric: with which it agrees best and least; a matrix of twenty fits no screen."""
    rows = []
    for place in order:
        others = [
            other
            for other in order
            if other != place and matrix[place, other] == matrix[place, other]
        ]
        if not others:
            rows.append([names[place], "", ""])
            continue
        best = max(others, key=lambda other: matrix[place, other])
        least = min(others, key=lambda other: matrix[place, other])
        rows.append(
            [names[place]]
            + [f"{names[other]} ({matrix[place, other]:+.2f})" for other in (best, least)]
        )
    print_table(["metric", "most alike", "least alike"], rows, title="Spearman's correlation")

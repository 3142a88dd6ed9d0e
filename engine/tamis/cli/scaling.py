"""fit, plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tamis.cli.options import Json, Overwrite, Seed, refuse_no_picture
from tamis.cli.output import print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.scaling.analysis import CurveStudy
    from tamis.scaling.planning import Plan
    from tamis.scaling.studies import ScalingStudy

__all__ = ["fit", "plan"]

_Runs = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="The --out of a sweep over sizes, or a CSV file with the columns n_kept, metric, side,"
        " keep, seed, error.",
        show_default=False,
    ),
]
_Metric = Annotated[
    str | None, typer.Option(help="This one only, beside random and all. Default: every one.")
]
_Resamples = Annotated[int, typer.Option(min=100, help="Of the intervals.")]


def fit(
    runs: _Runs,
    metric: _Metric = None,
    n_total: Annotated[
        float | None,
        typer.Option(min=1, help="The largest set that envelopes may choose from. Default: all."),
    ] = None,
    resamples: _Resamples = 500,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Draw curves and slopes (.png, .svg or .pdf).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write every law of every curve as CSV.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Scaling laws of a sweep: error against kept examples, and is it better than a power law?"""
    from tamis.atomic import refuse_existing, refuse_other_suffix
    from tamis.scaling.points import read_points
    from tamis.scaling.studies import Settings, study_scaling
    from tamis.scaling.tables import study_values, write_csv

    if plot is not None:
        refuse_no_picture("--plot", plot)
        refuse_existing(plot, overwrite)
    if out is not None:
        refuse_other_suffix(out, ".csv")
        refuse_existing(out, overwrite)
    settings = Settings(metric=metric, n_total=n_total, n_resamples=resamples, seed=seed)
    with show_progress() as progress:
        study = study_scaling(read_points(runs), settings, progress=progress)
    if plot is not None:
        _draw(study, plot, overwrite)
    if out is not None:
        write_csv(study, out, overwrite=overwrite)
    if json:
        print_json(study_values(study) | {"plot": plot, "csv": out})
        return
    _print_curves(study)
    print("\n\n".join(study.words))


def plan(
    runs: _Runs,
    target_accuracy: Annotated[
        float | None, typer.Option(help="As cheaply as possible, a share: 0.95.")
    ] = None,
    budget_seconds: Annotated[
        float | None,
        typer.Option(help="As well as possible within so many seconds a training and its scores."),
    ] = None,
    budget_steps: Annotated[float | None, typer.Option(help="The same in optimizer steps.")] = None,
    n_total: Annotated[
        float | None,
        typer.Option(help="Examples to choose from. Default: the pilot's largest set."),
    ] = None,
    trainings: Annotated[
        int, typer.Option("--runs", min=1, help="Trainings that share the cost of scoring.")
    ] = 1,
    metric: _Metric = None,
    recipe: Annotated[str | None, typer.Option(help="Of the pilot, where it has several.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="steps or epochs, where the pilot has both.")
    ] = None,
    resamples: _Resamples = 500,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """From a pilot sweep: which side to keep, how much, what it brings and what it costs."""
    from tamis.scaling.costs import recorded_scoring
    from tamis.scaling.planning import Goal, make_plan
    from tamis.scaling.points import read_points
    from tamis.scaling.studies import Settings, study_scaling
    from tamis.scaling.tables import plan_values

    goal = Goal(
        n_total, target_accuracy, budget_seconds, budget_steps, trainings, recipe=recipe,
        budget=budget,
    )  # fmt: skip
    settings = Settings(metric=metric, n_resamples=resamples, seed=seed)
    with show_progress() as progress:
        study = study_scaling(read_points(runs), settings, progress=progress)
    scoring = recorded_scoring(runs, study.points.points)
    found = make_plan(study, goal, scoring_seconds=scoring)
    if json:
        print_json(plan_values(found))
        return
    print("\n".join(found.words))
    if study.points.left_out:
        print(study.points.left_out)
    _print_choices(found)


def _draw(study: ScalingStudy, plot: Path, overwrite: bool) -> None:
    from tamis.atomic import atomic_path
    from tamis.scaling.figures import scaling_figure

    with atomic_path(plot, overwrite=overwrite) as partial:
        scaling_figure(study).savefig(partial, format=plot.suffix[1:])


def _print_curves(study: ScalingStudy) -> None:
    """One table for each metric and side, the unpruned set first."""
    keys = [one.curve.key for one in study.curves]
    ways = dict.fromkeys((key.recipe, key.budget, key.metric, key.side) for key in keys)
    for recipe, budget, metric, side in sorted(ways, key=lambda way: (way[2] != "full", way)):
        rows = [
            _row(one)
            for one, key in zip(study.curves, keys, strict=True)
            if (key.recipe, key.budget, key.metric, key.side) == (recipe, budget, metric, side)
        ]
        name = "all" if metric == "full" else metric
        parts = (name, side if side not in ("full", "random") else "", recipe, budget)
        print_table(
            ["keep", "sizes", "law", "w", "nu", "c", "slope", "off"],
            rows,
            title=", ".join(part for part in parts if part),
        )
    for key, reason in study.skipped.items():
        print(f"left out  {key.name}: {reason}")
    print(
        "law: with the least AICc (*: none describes the points); w: its Akaike weight;\n"
        "nu, c: of the better power law; slope: −d ln error / d ln n at the largest size;\n"
        "off: predicted over measured error there, by the law fitted without it\n"
    )


def _row(study: CurveStudy) -> list[str]:
    from math import exp, isnan

    from tamis.scaling.analysis import NO_LAW

    chosen, runs = study.chosen, study.curve.n_runs
    power = min((f for f in study.fits if f.law.is_power), key=lambda f: float(f.aicc[0]))
    each = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()}–{runs.max()}"
    return [
        f"{study.curve.key.keep:g}",
        f"{len(runs)} × {each}",
        chosen.law.short + ("*" if study.misfit < NO_LAW else ""),
        "" if isnan(chosen.weight) else f"{chosen.weight:.2f}",
        power.parameters["nu"].text(2),
        power.parameters["c"].text(2) if power.law.floor else "",
        study.end_slope.text(2),
        "" if chosen.held_out is None else f"{exp(chosen.held_out):.2f}",
    ]


def _print_choices(plan: Plan) -> None:
    from tamis.units import duration_text

    rows = [
        [
            ("→ " if choice is plan.chosen else "  ") + choice.name,
            f"{choice.n_kept:,.0f}",
            choice.error.text(),
            choice.law + ("" if choice.described else "*"),
            f"{choice.extrapolation:.2g}",
            "" if choice.steps is None else f"{choice.steps:,.0f}",
            "" if choice.seconds_each is None else duration_text(choice.seconds_each),
        ]
        for choice in plan.choices
    ]
    headers = ["keep", "examples", "predicted error", "law", "beyond", "steps", "time"]
    print_table(headers, rows, title=f"Of {plan.n_total:,.0f} examples")
    print("beyond: factor from the pilot's sizes; *: no law describes the curve")

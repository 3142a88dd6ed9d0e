"""sweep, report, demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.options import (
    Device,
    Json,
    Overwrite,
)
from tamis.cli.output import pairs, print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.report.page import Report

__all__ = ["demo", "report", "sweep"]


def sweep(
    spec: Annotated[Path, typer.Argument(help="SWEEP.yaml", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the records.", show_default=False)],
    executor: Annotated[Literal["local"], typer.Option(help="Where trials run.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the trials.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train every cell of a grid; a second call runs only what is missing."""
    from tamis.sweep.execution import run_sweep
    from tamis.sweep.grid import plan_sweep
    from tamis.sweep.spec import read_sweep_spec

    grid = read_sweep_spec(spec)
    if dry_run:
        plan = plan_sweep(grid, out)
        if json:
            print_json(asdict(plan))
        else:
            pairs(
                {
                    "trials": f"{plan.n_trials} ({plan.n_done} done, {plan.n_missing} to run)",
                    "steps": f"{plan.steps:,} optimizer steps of {plan.batch_size} images",
                }
            )
        return
    with show_progress() as progress:
        done = run_sweep(grid, out, device=device, workers=workers, progress=progress)
    if json:
        print_json(asdict(done))
    else:
        for failure in done.failures:
            print(f"failed  {failure}")
        print(f"{done.records}: {done.n_done} of {done.n_trials} trials done")
    if done.n_failed:
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(help="The --out of a sweep.", show_default=False)],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Records → report.html, table.csv and plots beside them."""
    from tamis.report.page import write_report

    with show_progress() as progress:
        done = write_report(folder, overwrite=overwrite, progress=progress)
    _print_report(done, json)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("tamis-demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per cell of the sweep.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the sweep.")] = 2,
    json: Json = False,
) -> None:
    """The whole line on real handwritten digits, in under three minutes."""
    from tamis.demo import run_demo

    with show_progress() as progress:
        done = run_demo(out, seeds=seeds, workers=workers, progress=progress)
    _print_report(done, json)


def _print_report(done: Report, json: bool) -> None:
    if json:
        print_json(
            {
                "report": done.html.resolve(),
                "csv": done.csv,
                "plots": done.plots,
                "verdicts": done.verdicts,
            }
        )
        return
    for table, sentences in zip(done.tables, done.verdicts, strict=True):
        full = [_interval(table.full)] if table.full else []
        rows = [["full", *full, *[""] * len(table.keeps)]] if full else []
        for row in table.rows:
            cells = [_cell(row.cells.get(keep)) for keep in table.keeps]
            rows.append([row.name, *[""] * len(full), *cells])
        title = f"Test accuracy in %, same {table.budget}; mean ± 95 % interval"
        headers = ["keep fraction", *["1"] * len(full), *(f"{keep:g}" for keep in table.keeps)]
        print_table(headers, rows, title)
        print("\n".join(sentences))
    print(f"\nreport: {done.html.resolve()}")


def _cell(cell: object) -> str:
    from tamis.report.summary import Cell

    return _interval(cell.accuracy) if isinstance(cell, Cell) else ""


def _interval(interval: object) -> str:
    from tamis.statistics import Interval

    assert isinstance(interval, Interval)
    spread = "" if interval.n < 2 else f" ± {100 * interval.half_width:.2f}"
    return f"{100 * interval.mean:.2f}{spread}"

"""sweep, export-records, report, demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.cluster import (
    Address,
    CpusPerWorker,
    Executor,
    GpusPerWorker,
    Workers,
    cluster_options,
)
from tamis.cli.options import (
    Device,
    Json,
    Overwrite,
    refuse_without,
)
from tamis.cli.output import pairs, print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.report.page import Report
    from tamis.statistics import Interval
    from tamis.sweep.planning import SweepPlan

__all__ = ["demo", "export_records", "report", "sweep"]


def sweep(
    spec: Annotated[Path, typer.Argument(help="SWEEP.yaml", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the records.", show_default=False)],
    executor: Executor = "local",
    workers: Workers = None,
    address: Address = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is there, as every call does.")
    ] = False,
    track: Annotated[
        Literal["tensorboard", "mlflow"] | None,
        typer.Option(help="Tell it of every trial; mlflow besides TensorBoard."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, count and estimate.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train every cell of a grid; a second call runs only what is missing."""
    from tamis.devices import resolve_device
    from tamis.sweep.planning import plan_sweep
    from tamis.sweep.reading import read_sweep_spec
    from tamis.sweep.running import run_sweep

    cluster = cluster_options(
        executor, address, workers, cpus_per_worker, gpus_per_worker, workers_here=True
    )
    grid = read_sweep_spec(spec)
    if dry_run:
        # What this machine takes says nothing of a cluster.
        plan = plan_sweep(grid, out, resolve_device(device) if cluster is None else None)
        _print_plan(plan, json)
        return
    with show_progress() as progress:
        done = run_sweep(
            grid,
            out,
            device=device,
            workers=workers,
            cluster=cluster,
            track=track,
            progress=progress,
        )
    if json:
        print_json(asdict(done))
    else:
        for failure in done.failures:
            print(f"failed  {failure}")
        given_up = f", {done.n_stopped} given up early" if done.n_stopped else ""
        print(f"{done.records}: {done.n_done} of {done.n_trials} trials done{given_up}")
    if done.n_failed:
        raise typer.Exit(1)


def _print_plan(plan: SweepPlan, json: bool) -> None:
    from tamis.units import duration_text, size_text

    if json:
        print_json(asdict(plan))
        return
    rows: dict[str, object] = {
        "trials": f"{plan.n_trials} ({plan.n_done} done, {plan.n_missing} to run)",
        "sets": f"{plan.n_sets} different ones, taken out of the training bundle, none written",
        "steps": f"{plan.steps:,} optimizer steps, {plan.images:,} images",
    }
    if plan.seconds is not None and plan.scoring_seconds is not None:
        scoring = f", after {duration_text(plan.scoring_seconds)} of scoring"
        rows["time"] = (
            f"about {duration_text(plan.seconds)} on this device, one trial after the other"
            + (scoring if plan.scoring_seconds else "")
        )
    rows["memory"] = f"{size_text(plan.memory_bytes)} of decoded images in each process"
    pairs(rows)


def export_records(
    folder: Annotated[Path, typer.Argument(help="The --out of a sweep.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="A .parquet file to write.", show_default=False)],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Records of a sweep → one table, a row per trial."""
    from tamis.sweep.exporting import export_records as run

    n_rows = run(folder, out, overwrite=overwrite)
    if json:
        print_json({"out": out, "n_rows": n_rows})
    else:
        print(f"{out}: {n_rows} trials")


def report(
    folder: Annotated[Path, typer.Argument(help="The --out of a sweep.", show_default=False)],
    fiftyone: Annotated[
        Path | None,
        typer.Option(
            help="Instead write the training images with their scores to this folder for FiftyOne.",
            show_default=False,
        ),
    ] = None,
    max_images: Annotated[
        int | None,
        typer.Option(min=1, help="With --fiftyone: no more, drawn at random.", show_default=False),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(
            help="Show the last record of this file of tamis bench, too.", show_default=False
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Records → report.html, and its tables (CSV, LaTeX) and plots (PNG, SVG) beside it."""
    from tamis.errors import UsageError
    from tamis.report.page import write_report

    if fiftyone is not None:
        if bench is not None:
            raise UsageError(
                "--bench", expected="none with --fiftyone", found=str(bench), do="leave it out"
            )
        _write_browsing_folder(folder, fiftyone, max_images, overwrite, json)
        return
    refuse_without(
        fiftyone,
        {"--max-images": max_images},
        expected="--fiftyone, which it belongs to",
        do="pass --fiftyone FOLDER",
    )
    with show_progress() as progress:
        done = write_report(folder, bench=bench, overwrite=overwrite, progress=progress)
    _print_report(done, json)


def _write_browsing_folder(
    folder: Path, out: Path, max_images: int | None, overwrite: bool, json: bool
) -> None:
    from tamis.report.browsing import write_browsing_folder
    from tamis.report.page import read_sweep

    sweep = read_sweep(folder).sweep
    table = sweep.table(max(sweep.spec.sizes))
    with show_progress() as progress:
        n_images = write_browsing_folder(
            sweep.train, table, out, max_images=max_images, overwrite=overwrite, progress=progress
        )
    if json:
        print_json({"fiftyone": out, "n_images": n_images})
    else:
        print(f"{out}: {n_images:,} images; load and show them: python {out / 'load.py'}")


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
                "latex": done.latex,
                "plots": done.plots,
                "verdicts": done.verdicts,
            }
        )
        return
    for table, sentences in zip(done.tables, done.verdicts, strict=True):
        full = [_interval(table.full.accuracy)] if table.full else []
        rows = [["full", *full, *[""] * len(table.keeps)]] if full else []
        for row in table.rows:
            cells = [
                _interval(row.cells[keep].accuracy) if keep in row.cells else ""
                for keep in table.keeps
            ]
            rows.append([row.name, *[""] * len(full), *cells])
        of = f", {100 * table.size:g} % of the set" if table.size < 1 else ""
        title = f"Test accuracy in %, {table.recipe}, same {table.budget}{of}; mean ± 95 % interval"
        headers = ["keep fraction", *["1"] * len(full), *(f"{keep:g}" for keep in table.keeps)]
        print_table(headers, rows, title)
        print("\n".join(sentences))
    print(f"\nreport: {done.html.resolve()}")


def _interval(interval: Interval) -> str:
    spread = "" if interval.n < 2 else f" ± {100 * interval.half_width:.2f}"
    return f"{100 * interval.mean:.2f}{spread}"

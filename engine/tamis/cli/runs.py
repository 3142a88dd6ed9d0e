"""train, recipes, sweep, report, demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tamis.cli.options import (
    BundleArgument,
    Device,
    Json,
    LoaderBackend,
    OnError,
    Overwrite,
    Seed,
    Settings,
    parse_settings,
)
from tamis.cli.output import pairs, print_json, print_skipped, print_table, show_progress

if TYPE_CHECKING:
    from tamis.report.page import Report
    from tamis.training.runs import RunRecord
    from tamis.training.selfsup_runs import SelfsupRecord

__all__ = ["demo", "recipes", "report", "sweep", "train"]


def train(
    bundle: BundleArgument,
    test: Annotated[Path, typer.Option(help="The test bundle.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    recipe: Annotated[str, typer.Option(help="See: tamis recipes.")] = "small",
    settings: Settings = None,
    objective: Annotated[
        Literal["supervised", "selfsup"],
        typer.Option(help="selfsup trains an encoder without labels and probes it."),
    ] = "supervised",
    encoder_epochs: Annotated[
        int | None, typer.Option(help="Epochs of selfsup. Default: 30.")
    ] = None,
    selection: Annotated[
        Path | None, typer.Option(help="Train on these examples of the bundle only.")
    ] = None,
    budget: Annotated[
        Literal["steps", "epochs"] | None,
        typer.Option(help="Give a pruned set the full set's steps (default), or its epochs."),
    ] = None,
    full_examples: Annotated[
        int | None,
        typer.Option(help="Size of the full set. Default: of the bundle's oldest ancestor."),
    ] = None,
    loader: LoaderBackend = "auto",
    on_error: OnError = "fail",
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train on a bundle, real or pruned, and test."""
    from tamis.atomic import refuse_existing
    from tamis.bundles.opening import open_bundle
    from tamis.devices import resolve_device
    from tamis.selection.files import read_selected_ids
    from tamis.training.checkpoints import write_run
    from tamis.training.recipes import get_recipe
    from tamis.training.runs import train_on_bundle
    from tamis.training.selfsup import SelfsupSettings
    from tamis.training.selfsup_runs import train_encoder_on_bundle

    chosen = get_recipe(recipe, parse_settings(settings))
    _refuse_ignored(objective, encoder_epochs, budget, full_examples)
    for name in ("record.json", "model.pt"):
        refuse_existing(out / name if out.is_dir() else out, overwrite)
    training, testing = open_bundle(bundle), open_bundle(test)
    ids = read_selected_ids(selection, training) if selection else None
    with show_progress() as progress:
        how: dict[str, Any] = {
            "example_ids": ids,
            "seed": seed,
            "loader": loader,
            "on_error": on_error,
            "device": resolve_device(device),
            "progress": progress,
        }
        if objective == "selfsup":
            encoding = SelfsupSettings(epochs=30 if encoder_epochs is None else encoder_epochs)
            model, found = train_encoder_on_bundle(training, testing, chosen, encoding, **how)
            write_run(out, found, model)
            _print_encoder(found, out, json)
            return
        how |= {"budget": budget or "steps", "full_examples": full_examples}
        trained, record = train_on_bundle(training, testing, chosen, **how)
    write_run(out, record, trained.model)
    _print_run(record, out, json)


def _refuse_ignored(
    objective: str, encoder_epochs: int | None, budget: str | None, full_examples: int | None
) -> None:
    from tamis.errors import UsageError

    of_other: dict[str, object] = {"--encoder-epochs": encoder_epochs}
    if objective == "selfsup":
        of_other = {"--budget": budget, "--full-examples": full_examples}
    for option, value in of_other.items():
        if value is not None:
            raise UsageError(
                option,
                expected=f"options of --objective {objective}",
                found=str(value),
                do="leave it out",
            )


def _print_encoder(record: SelfsupRecord, out: Path, json: bool) -> None:
    if json:
        print_json(asdict(record))
        return
    pairs(
        {
            "run": out,
            "linear probe": f"{100 * record.probe_accuracy:.2f} % of the test set"
            f" (untrained {100 * record.untrained_probe_accuracy:.2f} %)",
            "trained on": f"{record.n_examples:,} examples without labels",
            "time": f"{record.train_seconds:.1f} s ({record.images_per_second:,.0f} images/s),"
            f" probes {record.probe_seconds:.1f} s",
            "use it": f"--encoder tamis:{out}",
        }
    )
    print_skipped(record.skipped)


def _print_run(record: RunRecord, out: Path, json: bool) -> None:
    if json:
        print_json(asdict(record))
        return
    pairs(
        {
            "run": out,
            "test accuracy": f"{100 * record.test_accuracy:.2f} %",
            "test loss": f"{record.test_loss:.4f}",
            "trained on": f"{record.n_examples:,} of {record.full_examples:,} examples,"
            f" {record.steps:,} steps (same {record.budget} as the full set)",
            "time": f"{record.train_seconds:.1f} s ({record.images_per_second:,.0f} images/s),"
            f" set-up {record.setup_seconds:.1f} s",
        }
    )
    print_skipped(record.skipped)


def recipes(json: Json = False) -> None:
    """The recipes and their values."""
    from tamis.training.recipes import RECIPES

    if json:
        print_json({"recipes": [asdict(recipe) for recipe in RECIPES.values()]})
        return
    values = [asdict(recipe) for recipe in RECIPES.values()]
    rows = [[key, *(value[key] for value in values)] for key in values[0] if key != "name"]
    print_table(["", *RECIPES], rows)


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

"""score, metrics."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tamis.cli.cluster import (
    Address,
    CpusPerWorker,
    Executor,
    GpusPerWorker,
    RayWorkers,
    cluster_options,
)
from tamis.cli.options import (
    BundleArgument,
    Device,
    Encoder,
    EncoderEpochs,
    Json,
    LoaderBackend,
    OnError,
    Overwrite,
    Recipe,
    Seed,
    Settings,
    parse_settings,
    refuse_without,
)
from tamis.cli.output import pairs, print_json, print_skipped, print_table, show_progress

if TYPE_CHECKING:
    from tamis.metrics.campaign import ScoreReport
    from tamis.metrics.metric import Metric
    from tamis.metrics.plan import CampaignPlan
    from tamis.score_table import ScoreTable

__all__ = ["metrics", "score"]

_Models = Annotated[int, typer.Option(help="Networks trained on the whole set.")]
_EarlyModels = Annotated[
    int | None,
    typer.Option(
        help="Networks that EL2N and GraNd are averaged over; those beyond --models are trained"
        " to the early epoch only. Default: --models."
    ),
]
_EarlyEpoch = Annotated[
    int | None, typer.Option(help="Epochs before EL2N and GraNd are taken. Default: half.")
]
_SubsetModels = Annotated[
    int,
    typer.Option(help="Networks trained on random subsets, for memorization and influence."),
]
_EncoderHere = Annotated[
    str | None, typer.Option("--encoder", help="As of tamis score. Default: selfsup.")
]
_EncoderEpochsHere = Annotated[
    int | None, typer.Option("--encoder-epochs", help="As of tamis score. Default: 30.")
]


def score(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="The score table to write.", show_default=False)],
    metrics: Annotated[
        str,
        typer.Option(
            help="Names separated by commas; quick: all but those that need trainings on subsets;"
            " paper: the paper's ten; all. See: tamis metrics."
        ),
    ] = "quick",
    test: Annotated[
        Path | None, typer.Option(help="Test bundle, for influence.", show_default=False)
    ] = None,
    models: _Models = 4,
    early_models: _EarlyModels = None,
    early_epoch: _EarlyEpoch = None,
    subset_models: _SubsetModels = 20,
    subset_share: Annotated[float, typer.Option(help="Share of the set in each subset.")] = 0.7,
    encoder: Encoder = "selfsup",
    encoder_epochs: EncoderEpochs = 30,
    k: Annotated[
        str | None,
        typer.Option(
            help="Prototypes; several, as 50,100,200, give a column of selfsup-prototypes each."
            " Default: number of classes."
        ),
    ] = None,
    recipe: Recipe = "small",
    settings: Settings = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for finished networks: an interrupted campaign goes on from there, a"
            " later one trains only what is new. Default: OUT with .campaign for .parquet.",
            show_default=False,
        ),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the columns to an existing table.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the trainings and what they will take.")
    ] = False,
    loader: LoaderBackend = "auto",
    on_error: OnError = "fail",
    executor: Executor = "local",
    workers: RayWorkers = None,
    address: Address = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Score every example: train networks on the bundle, watch, write a table."""
    from tamis.atomic import refuse_existing, refuse_other_suffix
    from tamis.bundles.opening import open_bundle
    from tamis.devices import resolve_device
    from tamis.errors import UsageError
    from tamis.metrics.campaign import plan_campaign
    from tamis.metrics.campaign import score as run
    from tamis.metrics.registry import get_metrics
    from tamis.metrics.settings import CampaignSettings
    from tamis.score_table import merge_columns, read_score_table, write_score_table
    from tamis.training.recipes import scoring_recipe
    from tamis.training.selfsup import SelfsupSettings

    cluster = cluster_options(executor, address, workers, cpus_per_worker, gpus_per_worker)
    wanted = get_metrics([name.strip() for name in metrics.split(",") if name.strip()])
    campaign = CampaignSettings(
        scoring_recipe(recipe, parse_settings(settings)),
        models=models,
        early_models=early_models,
        early_epoch=early_epoch,
        subset_models=subset_models,
        subset_share=subset_share,
        encoder=encoder,
        k=_numbers("--k", k),
        selfsup=SelfsupSettings(epochs=encoder_epochs),
        seed=seed,
        loader=loader,
        on_error=on_error,
    )
    refuse_other_suffix(out, ".parquet")
    refuse_existing(out, overwrite or append or dry_run)
    opened = open_bundle(bundle)
    testing = open_bundle(test) if test is not None else None
    existing = read_score_table(out) if append and out.exists() else None
    if existing is not None:
        _refuse_replacing(existing, [metric.name for metric in wanted], out, overwrite)
    where = resolve_device(device)
    kept = work if work is not None else out.with_suffix(".campaign")
    if kept.exists() and not kept.is_dir():
        raise UsageError(kept, expected="a folder", found="a file", do="name another with --work")
    if dry_run:
        plan = plan_campaign(
            opened, wanted, campaign, where, test=testing, beside=existing, work=kept
        )
        _print_plan(plan, json)
        return
    with show_progress() as progress:
        done = run(
            opened,
            wanted,
            campaign,
            where,
            test=testing,
            beside=existing,
            work=kept,
            cluster=cluster,
            progress=progress,
        )
    table = merge_columns(existing, done.table) if existing else done.table
    write_score_table(table, out, overwrite=overwrite or append)
    _print_scores(done, wanted, out, kept, json)


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    from tamis.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise UsageError(
            option,
            expected="whole numbers, separated by commas",
            found=text or "nothing",
            do="pass for example --k 50,100",
        ) from error


def _print_plan(plan: CampaignPlan, json: bool) -> None:
    from tamis.units import duration_text, size_text

    if json:
        print_json(asdict(plan))
        return
    rows = [
        [
            part.kind,
            part.n,
            part.n_done,
            f"{part.trainings:.3g}",
            "not estimated" if part.seconds is None else duration_text(part.seconds),
        ]
        for part in plan.work
    ]
    left_out = f"reading {', '.join(plan.not_estimated)} off what was computed"
    print_table(["training", "number", "done", "whole trainings to go", "time to go"], rows)
    pairs(
        {
            "time": f"about {duration_text(plan.seconds)} on this device, measured with some steps",
            **({"not in it": left_out} if plan.not_estimated else {}),
            "memory": f"{size_text(plan.state_bytes)} for statistics",
            "disk": f"{size_text(plan.disk_bytes)} besides networks",
        }
    )


def _print_scores(
    done: ScoreReport, wanted: list[Metric], out: Path, work: Path, json: bool
) -> None:
    needs = {metric.name: metric.needs for metric in wanted}
    summary = {
        name: {**_spread(column.values), "seconds": done.seconds[needs[name.partition("-k")[0]]]}
        for name, column in done.table.columns.items()
    }
    n_examples = len(done.table.example_ids)
    if json:
        skipped = [asdict(one) for one in done.skipped]
        print_json({"metrics": summary, "n_examples": n_examples, "skipped": skipped})
        return
    rows = [
        [name, *(f"{part:.4g}" for part in values.values())] for name, values in summary.items()
    ]
    print_table(["metric", "min", "median", "max", "family's seconds"], rows)
    print(f"{out}: {n_examples:,} examples; a higher score means harder")
    if work.is_dir():
        print(f"{work}: the networks, for metrics that are added later; remove it at will")
    _print_agreement_of_ks(done.table)
    print_skipped(done.skipped)


def _print_agreement_of_ks(table: ScoreTable) -> None:
    """Rank correlation between numbers of prototypes, where there are several."""
    from tamis.agreement import correlate

    first = "selfsup-prototypes"
    names = [name for name in table.columns if name == first or name.startswith(f"{first}-k")]
    if len(names) < 2:
        return
    columns = {name: table.columns[name] for name in names}
    ks = [str(column.info["parameters"]["k"]) for column in columns.values()]
    matrix = correlate(replace(table, columns=columns))
    rows = [[k, *(f"{rho:.3f}" for rho in row)] for k, row in zip(ks, matrix, strict=True)]
    print_table(["k", *ks], rows, title="Spearman's correlation between numbers of prototypes")


def _refuse_replacing(existing: ScoreTable, wanted: list[str], out: Path, overwrite: bool) -> None:
    """Raise before the work where it would replace columns that nobody asked to replace."""
    from tamis.errors import UsageError

    present = [name for name in wanted if name in existing.columns]
    if present and not overwrite:
        raise UsageError(
            out,
            expected="a table without the columns to append",
            found=", ".join(present),
            do="leave them out of --metrics, or pass --overwrite to replace them",
        )


def _spread(values: object) -> dict[str, float]:
    import numpy as np

    low, middle, high = np.quantile(np.asarray(values, np.float64), [0, 0.5, 1])
    return {"min": float(low), "median": float(middle), "max": float(high)}


def metrics(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Estimate the costs for this bundle here.", show_default=False),
    ] = None,
    models: _Models = 4,
    early_models: _EarlyModels = None,
    early_epoch: _EarlyEpoch = None,
    subset_models: _SubsetModels = 20,
    encoder: _EncoderHere = None,
    encoder_epochs: _EncoderEpochsHere = None,
    recipe: Recipe = "small",
    settings: Settings = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The registry: direction, labels and models needed, cost, source."""
    from tamis.bundles.opening import open_bundle
    from tamis.devices import resolve_device
    from tamis.encoders.spec import parse_spec
    from tamis.metrics.plan import cost, measure_cost
    from tamis.metrics.registry import METRICS
    from tamis.metrics.settings import CampaignSettings
    from tamis.training.recipes import scoring_recipe
    from tamis.training.selfsup import SelfsupSettings

    refuse_without(
        bundle,
        {"--encoder": encoder, "--encoder-epochs": encoder_epochs},
        expected="a bundle, for which the encoder's seconds are estimated",
        do="name one",
    )
    if encoder is not None:
        parse_spec(encoder)  # refuses what no encoder is called
    campaign = CampaignSettings(
        scoring_recipe(recipe, parse_settings(settings)),
        models=models,
        early_models=early_models,
        early_epoch=early_epoch,
        subset_models=subset_models,
        encoder=encoder or "selfsup",
        selfsup=SelfsupSettings(epochs=encoder_epochs or 30),
    )
    seconds = measure_cost(open_bundle(bundle), campaign, resolve_device(device)) if bundle else {}
    costs = {name: cost(metric, campaign) for name, metric in METRICS.items()}
    if json:
        rows = [
            {
                "name": name,
                "high_means": metric.high_means,
                "labels": metric.labels,
                "models": metric.needs.value,
                "cost": costs[name],
                "seconds": seconds.get(name),
                "source": metric.source,
            }
            for name, metric in METRICS.items()
        ]
        print_json({"metrics": rows})
        return
    for name, metric in METRICS.items():
        print(f"{name}: a high score means {metric.high_means}")
        print(f"    {metric.source}")
        print(
            f"    {'labels' if metric.labels else 'no labels'}; from {metric.needs.value}", end=""
        )
        print(_cost_text(costs[name], seconds.get(name)))


def _cost_text(trainings: float, seconds: float | None) -> str:
    from tamis.units import duration_text

    parts = [f"{trainings:.3g} whole trainings"] if trainings else []
    parts += [duration_text(seconds)] if seconds else []
    return f"; alone {', '.join(parts)}\n" if parts else "\n"

"""score, metrics, embed, select."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.options import (
    BundleArgument,
    ClassBalance,
    Count,
    Device,
    Json,
    Keep,
    LoaderBackend,
    Metric,
    OnError,
    Overwrite,
    Prune,
    Seed,
    Settings,
    Side,
    parse_settings,
)
from tamis.cli.output import pairs, print_json, print_skipped, print_table, show_progress

if TYPE_CHECKING:
    from tamis.score_table import ScoreTable
    from tamis.selection import SelectionSettings

__all__ = ["embed", "metrics", "score", "select", "selection_settings"]

_Encoder = Annotated[
    str, typer.Option(help="selfsup, pixels, tamis:RUN_DIR or npy:FILE of embeddings.")
]
_Recipe = Annotated[str, typer.Option(help="Of the scoring networks; see: tamis recipes.")]
_EncoderEpochs = Annotated[int, typer.Option(help="Epochs of the selfsup encoder.")]


def score(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="The score table to write.", show_default=False)],
    metrics: Annotated[
        str, typer.Option(help="Names separated by commas, or all; see: tamis metrics.")
    ] = "all",
    models: Annotated[int, typer.Option(help="Networks that the scores are averaged over.")] = 4,
    encoder: _Encoder = "selfsup",
    encoder_epochs: _EncoderEpochs = 30,
    k: Annotated[int | None, typer.Option(help="Prototypes. Default: number of classes.")] = None,
    early_epoch: Annotated[
        int | None, typer.Option(help="Epochs before EL2N is taken. Default: half.")
    ] = None,
    recipe: _Recipe = "small",
    settings: Settings = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the columns to an existing table.")
    ] = False,
    loader: LoaderBackend = "auto",
    on_error: OnError = "fail",
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
    from tamis.metrics.campaign import CampaignSettings
    from tamis.metrics.campaign import score as run
    from tamis.metrics.registry import get_metrics
    from tamis.score_table import (
        merge_columns,
        read_score_table,
        unscored_table,
        write_score_table,
    )
    from tamis.training.recipes import get_recipe
    from tamis.training.selfsup import SelfsupSettings

    wanted = get_metrics([name.strip() for name in metrics.split(",") if name.strip()])
    campaign = CampaignSettings(
        get_recipe(recipe, parse_settings(settings)),
        models=models,
        encoder=encoder,
        k=k,
        early_epoch=early_epoch,
        selfsup=SelfsupSettings(epochs=encoder_epochs),
        seed=seed,
        loader=loader,
        on_error=on_error,
    )
    refuse_other_suffix(out, ".parquet")
    refuse_existing(out, overwrite or append)
    opened = open_bundle(bundle)
    if append and on_error == "skip":
        raise UsageError(
            "--append",
            expected="columns for every example",
            found="--on-error skip, which leaves some out",
            do="score all metrics in one call",
        )
    existing = read_score_table(out) if append and out.exists() else None
    if existing is not None:
        merge_columns(existing, unscored_table(opened))  # refuses what would fail afterwards
        _refuse_replacing(existing, [metric.name for metric in wanted], out, overwrite)
    with show_progress() as progress:
        done = run(opened, wanted, campaign, resolve_device(device), progress=progress)
    table = merge_columns(existing, done.table) if existing else done.table
    write_score_table(table, out, overwrite=overwrite or append)
    summary = {
        metric.name: {
            **_spread(done.table.columns[metric.name].values),
            "seconds": done.seconds[metric.needs.name.lower()],
        }
        for metric in wanted
    }
    if json:
        skipped = [asdict(one) for one in done.skipped]
        n_examples = len(done.table.example_ids)
        print_json({"metrics": summary, "n_examples": n_examples, "skipped": skipped})
        return
    rows = [
        [name, *(f"{part:.4g}" for part in values.values())] for name, values in summary.items()
    ]
    print_table(["metric", "min", "median", "max", "family's seconds"], rows)
    print(f"{out}: {len(done.table.example_ids):,} examples; a higher score means harder")
    print_skipped(done.skipped)


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


def metrics(json: Json = False) -> None:
    """The registry: direction, labels and models needed, cost, source."""
    from tamis.metrics.registry import METRICS

    rows = [
        {
            "name": metric.name,
            "high_means": metric.high_means,
            "labels": metric.labels,
            "models": metric.needs.value,
            "cost": metric.cost,
            "source": metric.source,
        }
        for metric in METRICS.values()
    ]
    if json:
        print_json({"metrics": rows})
        return
    for row in rows:
        print(f"{row['name']}: a high score means {row['high_means']}")
        print(f"    {row['source']}")
        print(f"    {'labels' if row['labels'] else 'no labels'}; from {row['models']}", end="")
        print(f"; trainings: {row['cost']}\n")


def embed(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="The .npy file to write.", show_default=False)],
    encoder: _Encoder = "selfsup",
    encoder_epochs: _EncoderEpochs = 30,
    recipe: _Recipe = "small",
    settings: Settings = None,
    loader: LoaderBackend = "auto",
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Embeddings of every example in the bundle's order, float32 .npy."""
    import numpy as np

    from tamis.atomic import atomic_path, refuse_other_suffix
    from tamis.bundles.opening import open_bundle
    from tamis.devices import resolve_device
    from tamis.metrics.campaign import CampaignSettings, compute_embeddings
    from tamis.training.recipes import get_recipe
    from tamis.training.selfsup import SelfsupSettings

    campaign = CampaignSettings(
        get_recipe(recipe, parse_settings(settings)),
        encoder=encoder,
        selfsup=SelfsupSettings(epochs=encoder_epochs),
        seed=seed,
        loader=loader,
    )
    refuse_other_suffix(out, ".npy")
    opened = open_bundle(bundle)
    with show_progress() as progress, atomic_path(out, overwrite=overwrite) as partial:
        rows = compute_embeddings(opened, campaign, resolve_device(device), progress=progress)
        with partial.open("wb") as sink:  # np.save would add .npy to the temporary name
            np.save(sink, rows, allow_pickle=False)
    if json:
        print_json({"n_examples": len(rows), "n_features": rows.shape[1]})
        return
    print(f"{out}: {len(rows):,} × {rows.shape[1]} float32")


def select(
    scores: Annotated[Path, typer.Argument(help="A score table.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The selection to write.", show_default=False)],
    metric: Metric = None,
    keep: Keep = None,
    prune: Prune = None,
    count: Count = None,
    side: Side = None,
    class_balance: ClassBalance = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Score table → kept ids."""
    from tamis.score_table import read_score_table
    from tamis.selection import select as run
    from tamis.selection import write_selection

    settings = selection_settings(metric, keep, prune, count, side, class_balance, seed)
    chosen = run(read_score_table(scores), settings)
    write_selection(chosen, out, overwrite=overwrite)
    n_kept = len(chosen.example_ids)
    if json:
        print_json(
            {
                "n_kept": n_kept,
                "n_total": chosen.n_total,
                "keep_fraction": chosen.keep_fraction,
                "prune_fraction": 1 - chosen.keep_fraction,
                "per_class": chosen.per_class,
            }
        )
        return
    fewest, most = min(chosen.per_class.values()), max(chosen.per_class.values())
    pairs(
        {
            "selection": out,
            "kept": f"{n_kept:,} of {chosen.n_total:,} examples"
            f" (keep {chosen.keep_fraction:.4g}, prune {1 - chosen.keep_fraction:.4g})",
            "by": "random" if side == "random" else f"{metric}, the {settings.side} side",
            "per class": f"{fewest:,} to {most:,}",
        }
    )


def selection_settings(
    metric: str | None,
    keep: float | None,
    prune: float | None,
    count: int | None,
    side: Literal["hard", "easy", "random"] | None,
    class_balance: float | None,
    seed: int,
) -> SelectionSettings:
    """Selection options as the function takes them; ``--prune p`` is ``--keep 1-p``.

    None stands for an option that was not given.

    Raises:
        UsageError: Options out of range or in contradiction.
    """
    from tamis.errors import UsageError
    from tamis.selection import SelectionSettings

    if prune is not None:
        if keep is not None:
            raise UsageError(
                "--keep, --prune",
                expected="one of them",
                found="both",
                do="they say the same: keep = 1 − prune",
            )
        if not 0 <= prune < 1:
            raise UsageError(
                "prune fraction",
                expected="0 ≤ prune < 1, the share that is left out",
                found=f"{prune:g}",
                do="pass for example --prune 0.3 (or --keep 0.7, which is the same)",
            )
        keep = 1 - prune
    if side == "random" and metric is not None:
        raise UsageError(
            "--metric",
            expected="none with --side random, which looks at no score",
            found=metric,
            do="leave one of the two out",
        )
    return SelectionSettings(metric, keep, count, side or "hard", class_balance or 0.0, seed)

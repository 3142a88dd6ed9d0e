"""embed, select."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    ClassBalance,
    Count,
    Device,
    Embeddings,
    Encoder,
    EncoderEpochs,
    Gamma,
    HardestCut,
    Json,
    Keep,
    LoaderBackend,
    Metric,
    Neighbours,
    OnError,
    Overwrite,
    Prune,
    Recipe,
    Seed,
    Settings,
    Side,
    Strata,
    parse_settings,
)
from tamis.cli.output import pairs, print_json, print_skipped, show_progress
from tamis.units import size_text

if TYPE_CHECKING:
    from tamis.selection.settings import SelectionSettings
    from tamis.selection.settings import Side as SideName

__all__ = ["embed", "select", "selection_settings"]


def embed(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="The .npy file to write.", show_default=False)],
    encoder: Encoder = "selfsup",
    encoder_epochs: EncoderEpochs = 30,
    recipe: Recipe = "small",
    settings: Settings = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. Default: the encoder's.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Of the numbers in the file.")
    ] = "float32",
    batch_size: Annotated[int, typer.Option(help="Images a batch.")] = 256,
    loader: LoaderBackend = "auto",
    on_error: OnError = "fail",
    executor: Executor = "local",
    workers: RayWorkers = None,
    address: Address = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted run left.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Embeddings of every example in the bundle's order, as .npy."""
    from tamis.atomic import refuse_other_suffix
    from tamis.bundles.opening import open_bundle
    from tamis.devices import resolve_device
    from tamis.encoders.embedding import embed_bundle
    from tamis.encoders.opening import open_or_train
    from tamis.encoders.unfinished import left_behind, refuse_output
    from tamis.training.recipes import get_recipe
    from tamis.training.selfsup import SelfsupSettings

    cluster = cluster_options(executor, address, workers, cpus_per_worker, gpus_per_worker)
    chosen, where = get_recipe(recipe, parse_settings(settings)), resolve_device(device)
    refuse_other_suffix(out, ".npy")
    refuse_output(out, overwrite=overwrite, resume=resume)
    opened = open_bundle(bundle)
    try:
        with show_progress() as progress:
            opened_encoder = open_or_train(
                encoder,
                opened,
                where,
                recipe=chosen,
                selfsup=SelfsupSettings(epochs=encoder_epochs),
                resolution=resolution,
                seed=seed,
                backend=loader,
                on_error=on_error,
                progress=progress,
            )
            done = embed_bundle(
                opened,
                opened_encoder,
                out,
                where,
                dtype=dtype,
                batch_size=batch_size,
                backend=loader,
                on_error=on_error,
                overwrite=overwrite,
                resume=resume,
                cluster=cluster,
                progress=progress,
            )
    except KeyboardInterrupt:
        if left_behind(out):
            print("tamis: the same command with --resume goes on", file=sys.stderr, flush=True)
        raise
    if json:
        print_json(asdict(done))
        return
    resumed = f", {done.n_resumed:,} of them before" if done.n_resumed else ""
    pairs(
        {
            "embeddings": out,
            "rows": f"{done.n_examples:,} × {done.n_features} {done.dtype}{resumed}",
            "size": size_text(done.bytes),
            "time": f"{done.seconds:.2f} s ({done.images_per_second:,.0f} images/s)",
        }
    )
    print_skipped(done.skipped)


def select(
    scores: Annotated[Path, typer.Argument(help="A score table.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The selection to write.", show_default=False)],
    metric: Metric = None,
    keep: Keep = None,
    prune: Prune = None,
    count: Count = None,
    side: Side = None,
    class_balance: ClassBalance = None,
    hardest_cut: HardestCut = None,
    strata: Strata = None,
    embeddings: Embeddings = None,
    neighbours: Neighbours = None,
    gamma: Gamma = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Score table → kept ids."""
    from tamis.atomic import refuse_existing, refuse_other_suffix
    from tamis.encoders.embedding_file import map_embeddings
    from tamis.score_table import read_score_table
    from tamis.selection.files import write_selection
    from tamis.selection.selecting import select as run

    settings = selection_settings(
        metric,
        keep,
        prune,
        count,
        side,
        class_balance,
        seed,
        hardest_cut=hardest_cut,
        strata=strata,
        neighbours=neighbours,
        gamma=gamma,
    )
    refuse_other_suffix(out, ".parquet")
    refuse_existing(out, overwrite)
    table = read_score_table(scores)
    rows = None
    if embeddings is not None:
        n, of = table.n_in_bundle, "the bundle that was scored"
        rows = table.rows_of(map_embeddings(embeddings, n, table.bundle_digest, of=of).rows)
    with show_progress() as progress:
        chosen = run(table, settings, embeddings=rows, progress=progress)
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
    side: SideName | None,
    class_balance: float | None,
    seed: int,
    *,
    hardest_cut: float | None,
    strata: int | None,
    neighbours: int | None,
    gamma: float | None,
) -> SelectionSettings:
    """Selection options as the function takes them; ``--prune p`` is ``--keep 1-p``.

    None stands for an option that was not given.

    Raises:
        UsageError: Options out of range or in contradiction.
    """
    from tamis.errors import UsageError
    from tamis.selection.settings import SelectionSettings

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
    return SelectionSettings(
        metric,
        keep,
        count,
        side or "hard",
        class_balance or 0.0,
        seed,
        hardest_cut,
        strata,
        neighbours,
        gamma,
    )

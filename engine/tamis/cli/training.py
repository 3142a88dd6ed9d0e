"""train, recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
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
    refuse_without,
)
from tamis.cli.output import pairs, print_json, print_skipped, show_progress

if TYPE_CHECKING:
    import torch

    from tamis.bundles.bundle import Bundle
    from tamis.models.network import Network
    from tamis.training.objective import Teacher
    from tamis.training.recipes import Recipe
    from tamis.training.records import RunRecord
    from tamis.training.selfsup_runs import SelfsupRecord

__all__ = ["recipes", "train"]


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
    start: Annotated[
        str | None,
        typer.Option(
            help="Go on from the network of this run folder; or, with --recipe finetune, from"
            " timm:NAME, torchhub:REPO:NAME, open_clip:NAME/TAG or file:PATH."
        ),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from the network of this run, too (distillation).")
    ] = None,
    teacher_weight: Annotated[
        float | None, typer.Option(help="Of the teacher in the loss, 0 to 1. Default: 0.5.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the teacher's answers. Default: 4.")
    ] = None,
    dynamic: Annotated[
        float | None,
        typer.Option(help="Leave this share of what is learned out of each epoch (InfoBatch)."),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, help="Take each step in so many parts, in as many times less memory."),
    ] = None,
    track: Annotated[
        Literal["mlflow"] | None, typer.Option(help="Besides TensorBoard, which is always told.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with what is in --out; begin where there is nothing yet."
        ),
    ] = False,
    loader: LoaderBackend = "auto",
    on_error: OnError = "fail",
    device: Device = "auto",
    seed: Seed = 0,
    order_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the order and what --dynamic leaves out. Default: --seed."),
    ] = None,
    augmentation_seed: Annotated[
        int | None, typer.Option(min=0, help="Of the augmentation. Default: --seed.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train on a bundle, real or pruned, and test. torchrun starts it on several GPUs."""
    from tamis.bundles.opening import open_bundle
    from tamis.devices import resolve_device
    from tamis.selection.files import read_selected_ids
    from tamis.training.recipes import get_recipe
    from tamis.training.workers import own_device

    chosen = get_recipe(recipe, parse_settings(settings))
    _refuse_ignored(
        objective,
        {"--encoder-epochs": encoder_epochs},
        {
            "--budget": budget,
            "--full-examples": full_examples,
            "--start": start,
            "--teacher": teacher,
            "--dynamic": dynamic,
            "--accumulate": accumulate,
            "--track": track,
            "--resume": resume or None,
            "--order-seed": order_seed,
            "--augmentation-seed": augmentation_seed,
        },
    )
    of_teacher = {"--teacher-weight": teacher_weight, "--temperature": temperature}
    refuse_without(teacher, of_teacher, expected="a teacher with it", do="pass --teacher RUN")
    training, testing = open_bundle(bundle), open_bundle(test)
    how: dict[str, Any] = {
        "example_ids": read_selected_ids(selection, training) if selection else None,
        "loader": loader,
        "on_error": on_error,
        "device": own_device(resolve_device(device)),
    }
    if objective == "selfsup":
        _refuse_several()
        _train_encoder(training, testing, chosen, encoder_epochs, out, seed, overwrite, json, how)
        return
    from tamis.training.loop import Extras
    from tamis.training.run_folder import RunFolder, train_into
    from tamis.training.runs import RunOptions
    from tamis.training.workers import joined_workers

    n_classes = max(training.n_classes, testing.n_classes)
    where = how["device"]
    with joined_workers(where) as workers, show_progress(quiet=not workers.writes) as progress:
        extras = Extras(
            start=_start(start, chosen, n_classes, seed, where),
            teacher=_teacher(teacher, teacher_weight, temperature, chosen, n_classes, where),
            accumulate=accumulate or 1,
            workers=workers,
        )
        options = RunOptions(
            budget=budget or "steps",
            full_examples=full_examples,
            seed=seed,
            order_seed=order_seed,
            augmentation_seed=augmentation_seed,
            dynamic=dynamic or 0.0,
            extras=extras,
            started_from=_weights_of(extras.start),
        )
        folder = RunFolder(out, resume=resume, overwrite=overwrite, track=track)
        record = train_into(folder, training, testing, chosen, options, progress=progress, **how)
        if workers.writes:
            _print_run(record, out, json)


def _train_encoder(
    training: Bundle,
    testing: Bundle,
    recipe: Recipe,
    epochs: int | None,
    out: Path,
    seed: int,
    overwrite: bool,
    json: bool,
    how: dict[str, Any],
) -> None:
    from tamis.atomic import refuse_existing
    from tamis.training.checkpoints import write_run
    from tamis.training.selfsup import SelfsupSettings
    from tamis.training.selfsup_runs import train_encoder_on_bundle

    for name in ("record.json", "model.pt"):
        refuse_existing(out / name if out.is_dir() else out, overwrite)
    settings = SelfsupSettings(epochs=30 if epochs is None else epochs)
    with show_progress() as progress:
        model, found = train_encoder_on_bundle(
            training, testing, recipe, settings, seed=seed, progress=progress, **how
        )
    write_run(out, found, model)
    _print_encoder(found, out, json)


def _start(
    start: str | None, recipe: Recipe, n_classes: int, seed: int, device: torch.device
) -> Network | None:
    from tamis.training.starting import network_from_encoder, network_from_run

    if start is None:
        return None
    if start.partition(":")[0] in ("timm", "torchhub", "open_clip", "file"):
        return network_from_encoder(start, recipe, n_classes, seed, device)
    return network_from_run(Path(start), recipe, n_classes, seed, device)


def _teacher(
    run: Path | None,
    weight: float | None,
    temperature: float | None,
    recipe: Recipe,
    n_classes: int,
    device: torch.device,
) -> Teacher | None:
    from tamis.training.objective import Teacher
    from tamis.training.starting import teacher_from_run

    if run is None:
        return None
    return Teacher(
        teacher_from_run(run, recipe, n_classes, device),
        0.5 if weight is None else weight,
        4.0 if temperature is None else temperature,
    )


def _weights_of(network: Any) -> str | None:
    from tamis.models.weights import weights_digest

    return weights_digest(network) if network is not None else None


def _refuse_several() -> None:
    from tamis.errors import UsageError
    from tamis.training.workers import is_one_of_several

    if is_one_of_several():
        raise UsageError(
            "--objective selfsup",
            expected="one process",
            found="several",
            do="start it without torchrun",
        )


def _refuse_ignored(
    objective: str, of_selfsup: dict[str, object], of_supervised: dict[str, object]
) -> None:
    from tamis.errors import UsageError

    of_other = of_supervised if objective == "selfsup" else of_selfsup
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
    skipping = f", {100 * record.dynamic:g} % of what is learned left out of each epoch"
    compiling = f", compiling {record.compile_seconds:.1f} s" if record.compile_seconds else ""
    pairs(
        {
            "run": out,
            "test accuracy": f"{100 * record.test_accuracy:.2f} %"
            f" (among the first five {100 * record.test_accuracy_top5:.2f} %)",
            "test loss": f"{record.test_loss:.4f}",
            "trained on": f"{record.n_examples:,} of {record.full_examples:,} examples,"
            f" {record.steps:,} steps (same {record.budget} as the full set"
            f"{skipping if record.dynamic else ''})",
            "time": f"{record.train_seconds:.1f} s ({record.images_per_second:,.0f} images/s),"
            f" set-up {record.setup_seconds:.1f} s{compiling}",
            **({"energy": f"{record.energy_joules / 1000:.1f} kJ"} if record.energy_joules else {}),
        }
    )
    print_skipped(record.skipped)


def recipes(json: Json = False) -> None:
    """The recipes, by what each has besides the values that all have."""
    from tamis.training.recipes import RECIPES, Recipe

    if json:
        print_json({"recipes": [asdict(recipe) for recipe in RECIPES.values()]})
        return
    usual = {field.name: field.default for field in fields(Recipe)}
    named = ("name", "network", "resolution", "epochs", "batch_size")
    for recipe in RECIPES.values():
        print(
            f"{recipe.name}: {recipe.network}, {recipe.resolution} pixels, {recipe.epochs} epochs"
            f" in batches of {recipe.batch_size}"
        )
        own = {
            key: value
            for key, value in asdict(recipe).items()
            if key not in named and value != usual[key]
        }
        print(f"    {_settings_text(own)}")
    others = {key: value for key, value in usual.items() if isinstance(value, str | int | float)}
    print(f"\nwhere nothing else is said: {_settings_text(others)}")
    print("replace a value with --set name=value, of train, score and embed")


def _settings_text(values: Mapping[str, object]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}".lower()
        for key, value in values.items()
    )

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from tamis.selection.settings import Side as SideName

__all__ = [
    "BundleArgument",
    "ClassBalance",
    "Count",
    "Device",
    "Embeddings",
    "Encoder",
    "EncoderEpochs",
    "Gamma",
    "HardestCut",
    "Json",
    "Keep",
    "LoaderBackend",
    "MaxPixels",
    "Metric",
    "Neighbours",
    "OnError",
    "Overwrite",
    "Prune",
    "Recipe",
    "Seed",
    "Settings",
    "Side",
    "Strata",
    "Tiles",
    "Workers",
    "help_without_command",
    "parse_settings",
    "refuse_no_picture",
    "refuse_without",
]

BundleArgument = Annotated[Path, typer.Argument(help="A .beton bundle.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
MaxPixels = Annotated[
    int | None, typer.Option(help="Refuse images with more pixels. Default: 100 million.")
]
Tiles = Annotated[
    bool,
    typer.Option(
        "--tiles",
        help="Rewrite JPEGs without loss, so that loaders can decode only the part they show.",
    ),
]
Workers = Annotated[int | None, typer.Option(help="Threads. Default: all cores.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Encoder = Annotated[
    str,
    typer.Option(
        help="selfsup, pixels, tamis:RUN_DIR, file:PATH, timm:NAME, open_clip:NAME/TAG or"
        " torchhub:REPO:NAME; of score also npy:FILE, embeddings of the bundle in its order."
    ),
]
EncoderEpochs = Annotated[int, typer.Option(help="Epochs of the selfsup encoder.")]
Recipe = Annotated[str, typer.Option(help="Of the scoring networks; see: tamis recipes.")]
LoaderBackend = Annotated[
    Literal["auto", "memory", "ffcv", "dali"],
    typer.Option("--loader", help="Decode all first, stream with FFCV, or with DALI (GPU)."),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="At a damaged image: stop, or leave it out and name it."),
]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable.")]
Metric = Annotated[str | None, typer.Option(help="A metric of the score table.")]
Keep = Annotated[float | None, typer.Option(help="Share to keep, 0 < keep ≤ 1.")]
Prune = Annotated[float | None, typer.Option(help="Share to leave out: 1 − keep.")]
Count = Annotated[int | None, typer.Option(help="Number of examples to keep.")]
Side = Annotated[
    SideName | None,
    typer.Option(
        help="hard or easy: an end of the scores; stratified: some of every score; moderate: around"
        " the median; d2: hard ones that differ. Default: hard."
    ),
]
ClassBalance = Annotated[
    float | None,
    typer.Option(help="0 (default): by score alone; 1: the same share of every class."),
]
HardestCut = Annotated[
    float | None,
    typer.Option(help="stratified, d2: share of the hardest that is dropped first. Default: 0."),
]
Strata = Annotated[
    int | None, typer.Option(help="stratified: parts of the range of scores. Default: 50.")
]
Embeddings = Annotated[
    Path | None,
    typer.Option(help="d2: an .npy file with one row per example in the table's order."),
]
Neighbours = Annotated[
    int | None, typer.Option(help="d2: how many each example is joined with. Default: 10.")
]
Gamma = Annotated[
    float | None,
    typer.Option(help="d2: the larger, the fewer count as repetitions. Default: 0.1."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a value of the recipe: --set epochs=30. Repeatable."),
]


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """``["epochs=30"]`` → ``{"epochs": "30"}``.

    Raises:
        UsageError: An entry without "=".
    """
    from tamis.errors import UsageError

    parsed = {}
    for entry in settings or []:
        key, separator, value = entry.partition("=")
        if not separator:
            raise UsageError(
                "--set", expected="name=value", found=entry, do="write for example --set epochs=30"
            )
        parsed[key] = value
    return parsed


def refuse_without(needed: object, given: Mapping[str, object], *, expected: str, do: str) -> None:
    """Raise where options are given without what they belong to.

    Args:
        needed: What that is; None where it was not given.
        given: Options and their values, None for those that were not given.
        expected: What they belong to.
        do: How to give it.

    Raises:
        UsageError: One is.
    """
    from tamis.errors import UsageError

    for option, value in given.items():
        if needed is None and value is not None:
            raise UsageError(option, expected=expected, found="none", do=f"{do}, or leave it out")


def refuse_no_picture(option: str, path: Path) -> None:
    """Raise where a file's name is that of no picture.

    Raises:
        UsageError: It ends in neither .png, .svg nor .pdf.
    """
    from tamis.errors import UsageError

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(
            option,
            expected="a name that ends in .png, .svg or .pdf",
            found=path.name,
            do=f"name it {path.stem or 'figure'}.png",
        )


def help_without_command(context: typer.Context) -> None:
    """Show the help, and end with exit code 2, where no command was named."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)

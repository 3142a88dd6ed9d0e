"""convert."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.options import Json, MaxPixels, Overwrite, Tiles, Workers
from tamis.cli.output import pairs, print_json, show_progress
from tamis.units import size_text

if TYPE_CHECKING:
    from tamis.bundles.estimate import Estimate

__all__ = ["convert"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="An image folder, Parquet, tar, WebDataset shards, a bundle, CIFAR, SVHN or"
            " MNIST-style files (with :train or :test), or digits[:train|:test].",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The bundle to write.", show_default=False)],
    max_side: Annotated[
        int | None, typer.Option(help="Shrink images with a longer side. Default: keep sizes.")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="JPEG quality where images are encoded. Default: 90.")
    ] = None,
    mode: Annotated[
        Literal["auto", "jpeg", "raw"],
        typer.Option(help="auto: pass JPEGs through; raw: store pixels."),
    ] = "auto",
    jpeg_share: Annotated[
        float | None,
        typer.Option(help="Share of images stored as JPEG, the others as pixels: 0 to 1."),
    ] = None,
    tiles: Tiles = False,
    page_size: Annotated[
        int | None, typer.Option(help="Bytes; a power of two. Default: 8 MiB or as needed.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Lines 'path,class' for images without class folders.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names in label order, one a line.")
    ] = None,
    workers: Workers = None,
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="What an unreadable image does.")
    ] = "fail",
    max_pixels: MaxPixels = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted conversion.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate size, time and memory.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Images → bundle. JPEGs that need no change are copied byte for byte (not with --tiles)."""
    from tamis.bundles.convert import convert as run
    from tamis.bundles.estimate import estimate
    from tamis.bundles.settings import ConvertSettings
    from tamis.bundles.unfinished import left_behind
    from tamis.devices import n_cores
    from tamis.errors import UsageError, printable
    from tamis.images import MAX_PIXELS
    from tamis.sources.opening import open_source

    if mode == "raw" and quality is not None:
        raise UsageError(
            "--quality",
            expected="a mode that encodes",
            found="--mode raw, which stores pixels",
            do="leave one of the two out",
        )
    settings = ConvertSettings(
        max_side=max_side,
        quality=ConvertSettings.quality if quality is None else quality,
        mode=mode,
        jpeg_share=jpeg_share,
        page_size=page_size,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        on_error=on_error,
        tiles=tiles,
    )
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise UsageError(
            out, expected="another file", found="the source itself", do="choose another name"
        )
    images = open_source(source, classes_file=classes, label_file=labels)
    if dry_run:
        _show_estimate(estimate(images, settings, out, workers or n_cores()), json)
        return
    try:
        with show_progress() as progress:
            done = run(
                images,
                out,
                settings,
                workers=workers,
                overwrite=overwrite,
                resume=resume,
                progress=progress,
            )
    except KeyboardInterrupt:
        if left_behind(out):
            print("tamis: the same command with --resume goes on", file=sys.stderr, flush=True)
        raise
    if json:
        print_json(asdict(done))
        return
    tiled = f" {done.n_tiled:,} given tiles," if tiles else ""
    resumed = f", {done.n_resumed:,} of them before" if done.n_resumed else ""
    pairs(
        {
            "bundle": out,
            "examples": f"{done.n_examples:,} ({done.n_passed_through:,} passed through,{tiled}"
            f" {done.n_encoded:,} encoded or stored as pixels,"
            f" {len(done.skipped)} skipped{resumed})",
            "size": size_text(done.bytes),
            "time": f"{done.seconds:.2f} s ({done.images_per_second:,.0f} images/s)",
        }
    )
    for entry in done.skipped:
        print(printable(f"skipped  {entry['path']}: {entry['reason']}"))


def _show_estimate(guess: Estimate, json: bool) -> None:
    if json:
        print_json(asdict(guess))
        return
    pairs(
        {
            "examples": f"{guess.n_examples:,}",
            "size": f"about {size_text(guess.bytes)} ({size_text(guess.free_bytes)} free)",
            "time": f"about {guess.seconds:,.1f} s",
            "memory": f"about {size_text(guess.memory_bytes)}",
            "estimated": f"from {guess.n_sampled} images",
        }
    )

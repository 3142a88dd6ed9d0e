"""convert, inspect, verify, cut."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from tamis.cli.options import (
    BundleArgument,
    ClassBalance,
    Count,
    Json,
    Keep,
    Metric,
    Overwrite,
    Prune,
    Seed,
    Side,
)
from tamis.cli.output import pairs, print_json, print_table, show_progress

__all__ = ["convert", "cut", "inspect", "verify"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="An image folder, a .parquet file or folder, or digits[:train|:test].",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The bundle to write.", show_default=False)],
    max_side: Annotated[
        int | None, typer.Option(help="Shrink images with a longer side. Default: keep sizes.")
    ] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality where images are encoded.")] = 90,
    mode: Annotated[
        Literal["auto", "jpeg", "raw"],
        typer.Option(help="auto: pass JPEGs through; raw: store pixels."),
    ] = "auto",
    page_size: Annotated[
        int | None, typer.Option(help="Bytes; a power of two. Default: 8 MiB or as needed.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Lines 'path,class' for a folder without class folders.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names in label order, one a line.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: all cores.")] = None,
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="What an unreadable image does.")
    ] = "fail",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Images → bundle. JPEGs that need no change are copied byte for byte."""
    from tamis.bundles.convert import ConvertSettings
    from tamis.bundles.convert import convert as run
    from tamis.sources.opening import open_source

    settings = ConvertSettings(max_side, quality, mode, page_size, on_error)
    images = open_source(source, classes_file=classes, label_file=labels)
    with show_progress() as progress:
        done = run(images, out, settings, workers=workers, overwrite=overwrite, progress=progress)
    if json:
        print_json(asdict(done))
        return
    pairs(
        {
            "bundle": out,
            "examples": f"{done.n_examples:,} ({done.n_passed_through:,} passed through,"
            f" {done.n_encoded:,} encoded, {len(done.skipped)} skipped)",
            "size": f"{done.bytes / 1e6:,.1f} MB",
            "time": f"{done.seconds:.2f} s ({done.images_per_second:,.0f} images/s)",
        }
    )
    for entry in done.skipped:
        print(f"skipped  {entry['path']}: {entry['reason']}")


def inspect(
    bundle: BundleArgument,
    examples: Annotated[bool, typer.Option("--examples", help="List every example.")] = False,
    json: Json = False,
) -> None:
    """What a bundle holds: fields, counts, classes, provenance."""
    from tamis.bundles.beton import open_bundle
    from tamis.bundles.inspect import inspect as run

    opened = open_bundle(bundle)
    found = run(opened)
    if json:
        print_json(asdict(found))
        return
    manifest = found.manifest or {}
    ancestors = " ← ".join(parent["path"] for parent in manifest.get("parents", ()))
    named = [f"{name} {count}" for name, count in list(found.classes.items())[:12]]
    pairs(
        {
            "bundle": bundle,
            "examples": f"{found.n_examples:,}",
            "size": f"{found.bytes / 1e6:,.1f} MB, pages of {found.page_size >> 20} MiB",
            "fields": ", ".join(f"{field['name']}: {field['type']}" for field in found.fields),
            "images": ", ".join(f"{count:,} {mode}" for mode, count in found.modes.items()),
            "pixels": " × ".join(
                f"{low}" if low == high else f"{low}–{high}"
                for low, high in (found.sides or {}).values()
            ),
            "classes": f"{len(found.classes)}: {', '.join(named)}"
            + (", …" if len(found.classes) > 12 else ""),
            "made by": f"tamis {manifest['operation']}" if manifest else "plain FFCV (no trailer)",
            "cut from": ancestors or "–",
            "skipped": len(manifest.get("skipped", ())),
            "digest": opened.digest,
        }
    )
    if examples:
        paths = [""] * opened.n_examples if opened.paths is None else opened.paths.to_pylist()
        rows = zip(opened.example_ids, opened.labels, paths, strict=True)
        print_table(["example_id", "label", "path"], rows)


def verify(
    bundle: BundleArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every image.")] = False,
    json: Json = False,
) -> None:
    """Check structure and record checksums; exit code 1 where there is damage."""
    from tamis.bundles.beton import open_bundle
    from tamis.bundles.verify import verify as run

    with show_progress() as progress:
        found = run(open_bundle(bundle), deep=deep, progress=progress)
    if json:
        print_json(asdict(found))
    else:
        for damage in found.damaged:
            print(
                f"position {damage.position}, id {damage.example_id},"
                f" {damage.path or 'no path'}: {damage.reason}"
            )
        checked = "checksums and JPEG headers" if found.checksums else "JPEG headers"
        checked += ", every image decoded" if deep else ""
        verdict = "sound" if found.ok else f"{len(found.damaged)} damaged"
        print(f"{bundle}: {found.n_examples:,} examples, {verdict} ({checked})")
    if not found.ok:
        raise typer.Exit(1)


def cut(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="The bundle to write.", show_default=False)],
    selection: Annotated[
        Path | None,
        typer.Option(help="Kept ids: .parquet of select, .npy, or a text file of paths."),
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="A score table, to select here.")] = None,
    metric: Metric = None,
    keep: Keep = None,
    prune: Prune = None,
    count: Count = None,
    side: Side = "hard",
    class_balance: ClassBalance = 0.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Bundle + selection → pruned bundle, by copying records byte for byte.

    The selection is a file, or the options of select with --scores; --side random needs neither.
    """
    from tamis.atomic import refuse_existing
    from tamis.bundles.beton import open_bundle
    from tamis.bundles.cut import cut as run
    from tamis.cli.scores import selection_settings
    from tamis.errors import UsageError
    from tamis.score_table import read_score_table, unscored_table
    from tamis.selection import read_selected_ids, select

    refuse_existing(out, overwrite)
    parent = open_bundle(bundle)
    how: dict[str, object]
    if selection is not None:
        given = (scores, metric, keep, prune, count)
        if any(value is not None for value in given):
            raise UsageError(
                "--selection",
                expected="no other option that chooses examples",
                found="--scores, --metric, --keep, --prune or --count",
                do="leave them out: the selection says what is kept",
            )
        ids, how = read_selected_ids(selection, parent), {"selection": selection.name}
    else:
        settings = selection_settings(metric, keep, prune, count, side, class_balance, seed)
        if scores is None and side != "random":
            raise UsageError(
                "--selection, --scores",
                expected="one of them",
                found="neither",
                do="pass --selection KEPT.parquet, --scores SCORES.parquet, or --side random",
            )
        table = read_score_table(scores).for_bundle(parent) if scores else unscored_table(parent)
        ids = select(table, settings).example_ids
        how = {"scores": scores.name if scores else None, **asdict(settings)}
    with show_progress() as progress:
        done = run(parent, out, ids, settings=how, overwrite=overwrite, progress=progress)
    if json:
        print_json(asdict(done))
        return
    pairs(
        {
            "bundle": out,
            "kept": f"{done.n_examples:,} of {parent.n_examples:,} examples"
            f" (keep {done.keep_fraction:.4g}, prune {1 - done.keep_fraction:.4g})",
            "size": f"{done.bytes / 1e6:,.1f} MB",
            "time": f"{done.seconds:.3f} s ({done.bytes_per_second / 1e6:,.0f} MB/s)",
        }
    )

"""inspect, verify, cut, merge, shard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.options import (
    BundleArgument,
    ClassBalance,
    Count,
    Embeddings,
    Gamma,
    HardestCut,
    Json,
    Keep,
    MaxPixels,
    Metric,
    Neighbours,
    Overwrite,
    Prune,
    Seed,
    Side,
    Strata,
    Tiles,
    Workers,
)
from tamis.cli.output import pairs, print_json, print_table, show_progress
from tamis.units import size_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.bundles.bundle import Bundle
    from tamis.bundles.cut import CutReport
    from tamis.bundles.merge import MergeReport
    from tamis.bundles.shard import ShardReport
    from tamis.manifest import Manifest
    from tamis.selection.settings import SelectionSettings

__all__ = ["cut", "inspect", "merge", "shard", "verify"]

_Order = Annotated[
    Literal["parent", "shuffled", "ids"],
    typer.Option(help="Of the examples: as in the bundle, at random, or as the selection lists."),
]


def inspect(
    bundle: BundleArgument,
    examples: Annotated[bool, typer.Option("--examples", help="List every example.")] = False,
    json: Json = False,
) -> None:
    """What a bundle holds: fields, counts, classes, provenance."""
    from tamis.bundles.inspect import inspect as run
    from tamis.bundles.opening import open_bundle

    opened = open_bundle(bundle)
    found = run(opened)
    rows: list[tuple[int, int, str | None]] = []
    if examples:
        paths = [None] * opened.n_examples if opened.paths is None else opened.paths.to_pylist()
        rows = list(zip(opened.example_ids.tolist(), opened.labels.tolist(), paths, strict=True))
    if json:
        listed = [dict(zip(("example_id", "label", "path"), row, strict=True)) for row in rows]
        more = {"examples": listed} if examples else {}
        print_json({**asdict(found), "digest": opened.digest, **more})
        return
    named = [f"{name} {count}" for name, count in list(found.classes.items())[:12]]
    pairs(
        {
            "bundle": bundle,
            "examples": f"{found.n_examples:,}",
            "size": f"{size_text(found.bytes)}, pages of {found.page_size >> 20} MiB"
            + ("" if opened.rows is None else f" in {opened.file}; this bundle is virtual"),
            "fields": ", ".join(f"{field['name']}: {field['type']}" for field in found.fields),
            "images": ", ".join(f"{count:,} {mode}" for mode, count in found.modes.items()),
            "pixels": " × ".join(
                f"{low}" if low == high else f"{low}–{high}"
                for low, high in (found.sides or {}).values()
            ),
            "classes": f"{len(found.classes)}: {', '.join(named)}"
            + (", …" if len(found.classes) > 12 else ""),
            **_provenance(opened.manifest),
            "digest": opened.digest,
        }
    )
    if examples:
        print_table(
            ["example_id", "label", "path"], [(i, label, path or "") for i, label, path in rows]
        )


def _provenance(manifest: Manifest | None) -> dict[str, object]:
    """Who made a bundle, how and from what, for people."""
    if manifest is None:
        return {"made by": "plain FFCV (no trailer)"}
    merged = manifest.settings.get("bundles") if manifest.operation == "merge" else None
    # The settings are free, and a stranger's may hold anything.
    direct = [
        str(entry["path"])
        for entry in (merged if isinstance(merged, list) else ())
        if isinstance(entry, dict) and "path" in entry
    ]
    older = [parent.path for parent in manifest.parents]
    if not direct:
        direct, older = older[:1], older[1:]
    elif older:  # renumbered examples have no ancestors
        older = older[len(direct) :]
    settings = {name: value for name, value in manifest.settings.items() if name != "bundles"}
    shown = {
        "made by": f"tamis {manifest.operation} ({manifest.tamis_version})",
        "settings": ", ".join(
            f"{name} {_setting(value)}" for name, value in settings.items() if value is not None
        ),
        "from": _some(direct),
        "ancestors": _some(older),
        "skipped": "",
    }
    if manifest.skipped:
        first = manifest.skipped[0]
        more = f" and {len(manifest.skipped) - 1:,} more" if len(manifest.skipped) > 1 else ""
        shown["skipped"] = (
            f"{first.get('path', '?')}: {first.get('reason', '?')}{more} (--json lists all)"
        )
    return {name: text for name, text in shown.items() if text}


def _setting(value: object) -> str:
    if isinstance(value, dict):
        kind_first = sorted(value.items(), key=lambda item: item[0] != "kind")
        return " ".join(_setting(part) for _, part in kind_first)
    return _some([str(part) for part in value]) if isinstance(value, list) else str(value)


def _some(names: list[str]) -> str:
    more = f", … ({len(names):,})" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def verify(
    bundle: BundleArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every image.")] = False,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
    json: Json = False,
) -> None:
    """Check structure and record checksums; exit code 1 where there is damage."""
    from tamis.bundles.opening import open_bundle
    from tamis.bundles.verify import verify as run
    from tamis.errors import DamagedBundleError, printable
    from tamis.images import MAX_PIXELS

    try:
        opened = open_bundle(bundle)
    except DamagedBundleError as error:
        if json:
            known = {"path": bundle, "ok": False, "structure": str(error)}
            print_json({**known, "n_examples": None, "checksums": None, "damaged": []})
        else:
            print(error)
        raise typer.Exit(1) from error
    with show_progress() as progress:
        found = run(
            opened,
            deep=deep,
            max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
            workers=workers,
            progress=progress,
        )
    if json:
        print_json({**asdict(found), "structure": None})
    else:
        for damage in found.damaged:
            where = f"position {damage.position}, id {damage.example_id}"
            print(printable(f"{where}, {damage.path or 'no path'}: {damage.reason}"))
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
    side: Side = None,
    class_balance: ClassBalance = None,
    hardest_cut: HardestCut = None,
    strata: Strata = None,
    embeddings: Embeddings = None,
    neighbours: Neighbours = None,
    gamma: Gamma = None,
    seed: Seed = 0,
    order: _Order = "parent",
    virtual: Annotated[
        bool,
        typer.Option("--virtual", help="Write a list of examples that refers to BUNDLE."),
    ] = False,
    tiles: Tiles = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Bundle + selection → pruned bundle, by copying records byte for byte.

    The selection is a file, or the options of select with --scores; --side random needs neither.
    """
    from tamis.atomic import refuse_existing
    from tamis.bundles.cut import cut as run
    from tamis.bundles.opening import open_bundle
    from tamis.cli.scores import selection_settings
    from tamis.errors import UsageError
    from tamis.selection.files import read_selected_ids

    refuse_existing(out, overwrite)
    parent = open_bundle(bundle)
    how: dict[str, object]
    if selection is not None:
        given = {
            "--scores": scores,
            "--metric": metric,
            "--keep": keep,
            "--prune": prune,
            "--count": count,
            "--side": side,
            "--class-balance": class_balance,
            "--hardest-cut": hardest_cut,
            "--strata": strata,
            "--embeddings": embeddings,
            "--neighbours": neighbours,
            "--gamma": gamma,
        }
        odd = [option for option, value in given.items() if value is not None]
        if odd:
            raise UsageError(
                "--selection",
                expected="no other option that chooses examples",
                found=" and ".join(odd),
                do="leave it out: the selection says what is kept",
            )
        ids, how = read_selected_ids(selection, parent), {"selection": selection.name}
    else:
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
        if scores is None and side != "random":
            raise UsageError(
                "--selection, --scores",
                expected="one of them",
                found="neither",
                do="pass --selection KEPT.parquet, --scores SCORES.parquet, or --side random",
            )
        ids = _selected(parent, scores, embeddings, settings)
        names = {"scores": scores, "embeddings": embeddings}
        how = {name: path.name if path else None for name, path in names.items()}
        how |= asdict(settings)
    with show_progress() as progress:
        done = run(
            parent,
            out,
            ids,
            order=order,
            seed=seed,
            virtual=virtual,
            tiles=tiles,
            settings=how,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        print_json(asdict(done))
        return
    pairs(
        {
            "bundle": out,
            "kept": f"{done.n_examples:,} of {parent.n_examples:,} examples"
            f" (keep {done.keep_fraction:.4g}, prune {1 - done.keep_fraction:.4g})",
            **({"given tiles": f"{done.n_tiled:,} JPEGs"} if tiles else {}),
            **_cost(done),
        }
    )


def _selected(
    parent: Bundle, scores: Path | None, embeddings: Path | None, settings: SelectionSettings
) -> NDArray[np.int64]:
    """Ids by the options of select; the table's paths, a million strings, end with this call."""
    from tamis.arrays import positions_of
    from tamis.encoders.embedding_file import map_embeddings
    from tamis.score_table import read_score_table, unscored_table
    from tamis.selection.selecting import select

    table = read_score_table(scores) if scores else unscored_table(parent)
    listed = table.example_ids
    rows: NDArray[np.floating] | None = None
    if embeddings is not None:
        of = "the bundle that was scored"
        found = map_embeddings(embeddings, table.n_in_bundle, table.bundle_digest, of=of)
        rows = table.rows_of(found.rows)
    table = table.for_bundle(parent)
    if rows is not None:  # in the order of the file's table; for_bundle may have taken a part of it
        rows = rows[positions_of(table.example_ids, listed)[0]]
    with show_progress() as progress:
        return select(table, settings, embeddings=rows, progress=progress).example_ids


def merge(
    out: Annotated[Path, typer.Argument(help="The bundle to write.", show_default=False)],
    bundles: Annotated[list[Path], typer.Argument(help="Two or more bundles.", show_default=False)],
    renumber: Annotated[
        bool, typer.Option("--renumber", help="New ids 0…n−1; old scores no longer apply.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Bundles → one bundle, by copying records byte for byte."""
    from tamis.atomic import refuse_existing
    from tamis.bundles.merge import merge as run
    from tamis.bundles.opening import open_bundle

    refuse_existing(out, overwrite)
    opened = [open_bundle(path) for path in bundles]
    with show_progress() as progress:
        done = run(opened, out, renumber=renumber, overwrite=overwrite, progress=progress)
    if json:
        print_json(asdict(done))
        return
    pairs(
        {
            "bundle": out,
            "examples": f"{done.n_examples:,} from {done.n_bundles} bundles",
            **_cost(done),
        }
    )


def shard(
    bundle: BundleArgument,
    folder: Annotated[Path, typer.Argument(help="Where the shards go.", show_default=False)],
    n_shards: Annotated[int, typer.Option("-n", "--shards", help="How many.")],
    order: Annotated[
        Literal["parent", "shuffled"],
        typer.Option(help="Of the examples: as in the bundle, or at random."),
    ] = "parent",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Bundle → N bundles of equal size, by copying records byte for byte."""
    from tamis.bundles.opening import open_bundle
    from tamis.bundles.shard import shard as run

    opened = open_bundle(bundle)
    with show_progress() as progress:
        done = run(
            opened,
            folder,
            n_shards,
            order=order,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        print_json(asdict(done))
        return
    low, high = min(done.n_examples), max(done.n_examples)
    each = f"{low:,}" if low == high else f"{low:,} or {high:,}"
    pairs(
        {
            "shards": f"{done.files[0]} … {done.files[-1].name}" if n_shards > 1 else done.files[0],
            "examples": f"{sum(done.n_examples):,}, {each} in each shard",
            **_cost(done),
        }
    )


def _cost(done: CutReport | MergeReport | ShardReport) -> dict[str, object]:
    """What copying took, for people."""
    return {
        "size": size_text(done.bytes),
        "time": f"{done.seconds:.3f} s ({size_text(done.bytes_per_second)}/s)",
    }

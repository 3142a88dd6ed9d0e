"""import-scores, export-scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tamis.cli.options import BundleArgument, Json, Overwrite
from tamis.cli.output import pairs, print_json
from tamis.units import size_text

__all__ = ["export_scores", "import_scores"]


def import_scores(
    bundle: BundleArgument,
    file: Annotated[
        Path,
        typer.Argument(
            help="Scores: .npy or .npz in the bundle's order, .csv or .tsv by path or example_id,"
            " .pickle or .pt of CCS; or .txt, a list of paths.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The score table to write.", show_default=False)],
    metric: Annotated[
        str | None,
        typer.Option(
            help="Which columns, and under which names: NAME or NAME=COLUMN, with commas. Default:"
            " all, under their own names; a file with a single one gives it its name."
        ),
    ] = None,
    higher: Annotated[
        str | None,
        typer.Option(
            help="What a higher number means: harder or easier (which is flipped);"
            " NAME=easier,NAME=harder where metrics differ. Needed for scores."
        ),
    ] = None,
    listed: Annotated[
        Literal["kept", "removed"] | None,
        typer.Option(help="What a list of paths lists. Needed for .txt; kept becomes 1."),
    ] = None,
    missing: Annotated[
        Literal["fail", "drop"],
        typer.Option(
            help="At examples without a score: stop, or leave them out of the table. At listed"
            " paths without an example: stop, or pass them over."
        ),
    ] = "fail",
    ignore_labels: Annotated[
        bool,
        typer.Option(
            "--ignore-labels", help="Do not check the order by labels that the file holds."
        ),
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add the columns to an existing table.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Scores made elsewhere → score table of a bundle.

    Rows are matched by example_id, path, or order. One path may be the end of the other.
    """
    from tamis.atomic import refuse_existing, refuse_other_suffix
    from tamis.bundles.opening import open_bundle
    from tamis.score_exchange.importing import import_scores as run
    from tamis.score_exchange.settings import ImportSettings
    from tamis.score_table import read_score_table, write_score_table

    refuse_other_suffix(out, ".parquet")
    refuse_existing(out, overwrite or append)
    settings = ImportSettings(_entries(metric), _entries(higher), listed, missing, ignore_labels)
    opened = open_bundle(bundle)
    existing = read_score_table(out) if append and out.exists() else None
    done = run(opened, file, settings, table=existing, overwrite=overwrite)
    write_score_table(done.table, out, overwrite=overwrite or append)
    summary = {
        name: {
            "min": float(column.values.min()),
            "max": float(column.values.max()),
            "flipped": column.info["flipped"],
            "column": column.info["column"],
        }
        for name, column in done.columns.items()
    }
    counts = {
        "n_examples": len(done.table.example_ids),
        "n_missing": done.n_missing,
        "n_rows": done.n_rows,
        "n_used": done.n_used,
    }
    if json:
        more = {"matched_by": done.matched_by, "ignored": done.ignored}
        print_json({"metrics": summary, **counts, **more})
        return
    left_out = f"; {done.n_missing:,} without a score are left out" if done.n_missing else ""
    pairs(
        {
            "scores": out,
            "examples": f"{counts['n_examples']:,}{left_out}",
            "rows": f"{done.n_used:,} of {done.n_rows:,} used, matched by {done.matched_by}",
            **{
                name: f"{values['min']:.4g} to {values['max']:.4g}"
                + (", flipped" if values["flipped"] else "")
                + f"; higher = {'kept' if listed else 'harder'}"
                for name, values in summary.items()
            },
            **({"ignored": ", ".join(done.ignored)} if done.ignored else {}),
        }
    )


def export_scores(
    scores: Annotated[Path, typer.Argument(help="A score table.", show_default=False)],
    out: Annotated[
        Path,
        typer.Argument(
            help="The file: .npy, .npz, .csv, .pickle (for CCS), or .txt with --selection.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(help="Metrics, separated by commas. Default: all.")
    ] = None,
    selection: Annotated[
        Path | None,
        typer.Option(help="For .txt: kept ids of tamis select, written as lines 'path label'."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Score table → .npy, .csv and other forms; or a selection → list of kept paths for DALI.

    Scores are written as they stand in the table: higher = harder.
    """
    from tamis.errors import UsageError
    from tamis.score_exchange.exporting import export_list
    from tamis.score_exchange.exporting import export_scores as run
    from tamis.score_table import read_score_table

    if (out.suffix == ".txt") != (selection is not None) or (selection and metric):
        options = {"--selection": selection, "--metric": metric}
        given = " and ".join(name for name, value in options.items() if value) or "neither"
        raise UsageError(
            out,
            expected="--selection and no --metric with a list of kept paths (.txt), and only there",
            found=given,
            do="run: tamis export-scores SCORES KEPT.txt --selection KEPT.parquet",
        )
    table = read_score_table(scores)
    if selection is not None:
        done = export_list(table, selection, out, overwrite=overwrite)
    else:
        done = run(table, out, _entries(metric), overwrite=overwrite)
    if json:
        print_json({"metrics": done.metrics, "n_examples": done.n_examples, "bytes": done.bytes})
        return
    what = "kept examples" if selection is not None else "examples"
    shown = f": {', '.join(done.metrics)}; a higher score means harder" if done.metrics else ""
    print(f"{out}: {done.n_examples:,} {what}, {size_text(done.bytes)}{shown}")


def _entries(option: str | None) -> tuple[str, ...]:
    """``"a, b"`` → ``("a", "b")``."""
    return tuple(entry.strip() for entry in (option or "").split(",") if entry.strip())

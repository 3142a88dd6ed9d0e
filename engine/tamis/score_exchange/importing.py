"""A file of scores → columns of a bundle's score table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import UsageError
from tamis.score_exchange.formats import read_raw_scores
from tamis.score_exchange.gaps import check_finite, check_list, scored_positions
from tamis.score_exchange.matching import check_labels, match_rows
from tamis.score_exchange.path_matching import Match
from tamis.score_exchange.raw_scores import RawScores
from tamis.score_exchange.settings import ImportSettings, wanted_columns
from tamis.score_table import ScoreColumn, ScoreTable, merge_columns, unscored_table

__all__ = ["ImportReport", "import_scores"]


@dataclass(frozen=True)
class ImportReport:
    """Scores that found their examples.

    Attributes:
        table: The bundle's examples with the imported columns, and those of the table before.
        columns: The imported columns alone.
        matched_by: What rows and examples were matched by.
        n_rows: Rows of the file.
        n_used: Rows that belong to an example of the table.
        n_missing: Examples of the bundle that have no row in the table.
        ignored: Parts of the file that are no scores.
    """

    table: ScoreTable
    columns: dict[str, ScoreColumn]
    matched_by: str
    n_rows: int
    n_used: int
    n_missing: int
    ignored: tuple[str, ...]


def import_scores(
    bundle: Bundle,
    file: Path,
    settings: ImportSettings,
    *,
    table: ScoreTable | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Read scores that were made elsewhere and match them to a bundle's examples.

    Args:
        bundle: The bundle that the scores are about.
        file: See :func:`tamis.score_exchange.formats.read_raw_scores`.
        settings: Names, directions, and what to do about gaps.
        table: A table of the same bundle to add the columns to.
        overwrite: Whether columns of that table may be replaced.

    Raises:
        UsageError: Options that say too little, or columns that would be replaced.
        ScoreTableError: Rows that do not fit the bundle, or scores that are not finite.
    """
    raw = read_raw_scores(file)
    wanted = wanted_columns(list(raw.columns) or [file.stem], settings.metrics)
    flips = settings.flips(list(wanted), raw.format)
    positions = np.arange(bundle.n_examples)
    if table is not None:
        drops = raw.format != "list" and settings.missing == "drop"
        _check_appending(list(wanted), table, overwrite=overwrite, drops=drops)
        # Refuses another bundle's table; one may lack examples that were damaged.
        merge_columns(table, replace(table, bundle_digest=bundle.digest, columns={}))
        positions = bundle.positions(table.example_ids)
    match = match_rows(bundle, raw, file)
    if not settings.ignore_labels:
        check_labels(bundle, raw, match, file)
    if raw.format == "list":
        check_list(bundle, raw, match, settings.missing, file)
    else:
        positions = scored_positions(bundle, raw, match, positions, settings.missing, file)
    info = _provenance(file, raw, match)
    columns = {
        metric: ScoreColumn(
            _values(raw, column, match.rows[positions], flips[metric]),
            {"metric": metric, "column": column, "flipped": flips[metric], **info},
        )
        for metric, column in wanted.items()
    }
    check_finite(columns, bundle, positions, file)
    imported = replace(unscored_table(bundle, positions), columns=columns)
    return ImportReport(
        imported if table is None else merge_columns(table, imported),
        columns,
        match.by,
        len(match.row_hits),
        int((match.rows[positions] >= 0).sum()),
        bundle.n_examples - len(positions),
        raw.ignored,
    )


def _check_appending(
    metrics: list[str], table: ScoreTable, *, overwrite: bool, drops: bool
) -> None:
    """Refuse what would replace columns that nobody asked to replace, or make rows differ."""
    present = [name for name in metrics if name in table.columns]
    if present and not overwrite:
        raise UsageError(
            "--append",
            expected="a table without the columns to append",
            found=", ".join(present),
            do="give them other names with --metric NAME=COLUMN, or pass --overwrite to replace"
            " them",
        )
    if drops:
        raise UsageError(
            "--append",
            expected="a score for every example of the table",
            found="--missing drop, which leaves some out",
            do="write these scores to a table of their own",
        )


def _values(
    raw: RawScores, column: str, rows: NDArray[np.int64], flip: bool
) -> NDArray[np.float32]:
    """(k,) float32, higher = harder; in a list 1 = kept."""
    if raw.format == "list":
        return np.where((rows >= 0) != flip, 1, 0).astype(np.float32)
    with np.errstate(over="ignore"):  # infinities are refused by name
        values = raw.columns[column][rows].astype(np.float32)
    return 0 - values if flip else values  # no negative zeros


def _provenance(file: Path, raw: RawScores, match: Match) -> dict[str, object]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "high_means": "kept" if raw.format == "list" else "harder",
        "labels_used": "unknown",
        "imported_from": file.name,
        "file_digest": f"sha256:{digest}",
        "format": raw.format,
        "matched_by": match.by,
    }

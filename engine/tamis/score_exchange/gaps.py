"""Examples without a score, and rows without an example: refused, or left out on request."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import ScoreTableError
from tamis.score_exchange.path_matching import Match
from tamis.score_exchange.raw_scores import RawScores
from tamis.score_table import ScoreColumn

__all__ = ["check_finite", "check_list", "scored_positions"]

_WHOLE_PATHS = (
    "write each example once and by its whole path, as in: tamis inspect BUNDLE --examples"
)
_Missing = Literal["fail", "drop"]


def scored_positions(
    bundle: Bundle,
    raw: RawScores,
    match: Match,
    positions: NDArray[np.int64],
    missing: _Missing,
    file: Path,
) -> NDArray[np.int64]:
    """The examples that get a row in the table.

    Args:
        bundle: The bundle.
        raw: The file's rows.
        match: Which of them belong to which example.
        positions: (k,) int64, the examples that should get one.
        missing: ``drop`` leaves out those without a score.
        file: For messages.

    Returns:
        (≤ k,) int64 positions in the bundle.

    Raises:
        ScoreTableError: Examples without a score, or with several rows that fit.
    """
    hits = match.example_hits[positions]
    alone = match.rows[positions] >= 0
    without = positions[hits == 0]
    expected = f"a score for each of the {len(positions):,} examples of {bundle.path}"
    if len(without) == len(positions):
        raise _nothing_fits(bundle, raw, expected, file)
    mixed = positions[~alone & (hits > 0)]
    if len(mixed):
        raise ScoreTableError(
            file,
            expected=expected,
            found=f"{len(mixed):,} with several rows, or a row that fits several, by {match.by};"
            f" the first is {_example_name(bundle, mixed[0])}",
            do=_WHOLE_PATHS,
        )
    if len(without) and missing == "fail":
        raise ScoreTableError(
            file,
            expected=expected,
            found=f"none for {len(without):,}, matched by {match.by}; the first is"
            f" {_example_name(bundle, without[0])}",
            do="add them, or pass --missing drop to leave these examples out of the table",
        )
    return positions[alone]


def check_list(bundle: Bundle, raw: RawScores, match: Match, missing: _Missing, file: Path) -> None:
    """Refuse a list whose paths are not those of examples, or that tells none from the others.

    Raises:
        ScoreTableError: Listed paths without an example or with several, or all examples listed.
    """
    matched = np.zeros(len(match.row_hits), np.bool_)
    matched[match.rows[match.rows >= 0]] = True
    expected = f"paths of examples of {bundle.path}"
    mixed = np.flatnonzero(~matched & (match.row_hits > 0))
    if len(mixed):
        raise ScoreTableError(
            file,
            expected=f"{expected}, each once",
            found=f"{len(mixed):,} that are repeated or fit several examples by {match.by}; the"
            f" first is {_row_name(raw, mixed[0])}",
            do=_WHOLE_PATHS,
        )
    unknown = np.flatnonzero(match.row_hits == 0)
    if len(unknown) == len(matched):
        raise _nothing_fits(bundle, raw, expected, file)
    if len(unknown) and missing == "fail":
        raise ScoreTableError(
            file,
            expected=expected,
            found=f"{len(unknown):,} of {len(matched):,} that the bundle does not hold, matched by"
            f" {match.by}; the first is {_row_name(raw, unknown[0])}",
            do="correct them, or pass --missing drop to pass them over",
        )
    if match.n_matched == bundle.n_examples:
        raise ScoreTableError(
            file,
            expected="a list of some of the examples",
            found=f"all {bundle.n_examples:,}",
            do="if the numbers at the ends of the lines are scores, name the file .csv",
        )


def check_finite(
    columns: dict[str, ScoreColumn], bundle: Bundle, positions: NDArray[np.int64], file: Path
) -> None:
    """Refuse scores that are not finite as float32.

    Raises:
        ScoreTableError: NaN or infinity.
    """
    for metric, column in columns.items():
        values = column.values
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ScoreTableError(
                file,
                expected=f"finite scores (float32) in {metric}",
                found=f"{len(bad):,} of {len(values):,} that are not; the first is"
                f" {values[bad[0]]} of {_example_name(bundle, positions[bad[0]])}",
                do="compute them again, or take those rows out of a CSV and pass --missing drop",
            )


def _nothing_fits(bundle: Bundle, raw: RawScores, expected: str, file: Path) -> ScoreTableError:
    return ScoreTableError(
        file,
        expected=expected,
        found=f"none; the file's first row is {_row_name(raw, 0)}, the bundle's first example"
        f" {_example_name(bundle, 0)}",
        do="use the same names as in: tamis inspect BUNDLE --examples",
    )


def _example_name(bundle: Bundle, position: int) -> str:
    path = None if bundle.paths is None else bundle.paths[int(position)].as_py()
    return f"example id {bundle.example_ids[position]}" if path is None else repr(path)


def _row_name(raw: RawScores, row: int) -> str:
    if raw.paths is not None:
        return repr(raw.paths[int(row)].as_py())
    return f"row {row}" if raw.example_ids is None else f"example id {raw.example_ids[row]}"

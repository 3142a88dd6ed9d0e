"""Whose row it is: by example id, by path, or by its place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import ScoreTableError
from tamis.score_exchange.path_matching import Match, match_paths
from tamis.score_exchange.raw_scores import RawScores

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["check_labels", "match_rows"]

_BY_ORDER = "order"
_SORTED_FROM = 16  # as many different numbers in order by chance: never


def match_rows(bundle: Bundle, raw: RawScores, file: Path) -> Match:
    """Say which row of a file belongs to which example.

    Ids count unless there are paths beside them that say otherwise; then paths; then the order.

    Raises:
        ScoreTableError: Paths where the bundle has none, another number of rows than examples, or
            rows that are not in the dataset's order.
    """
    paths = None if bundle.paths is None else bundle.paths.combine_chunks()
    if paths is not None and paths.null_count == len(paths):
        paths = None
    if raw.example_ids is not None:
        found = _match_ids(bundle.example_ids, raw.example_ids)
        if raw.paths is None or paths is None or _agree(found, paths, raw.paths):
            return found
    if raw.paths is None:
        _check_order(bundle, raw, file)
        everyone = np.ones(bundle.n_examples, np.int64)
        return Match(_BY_ORDER, np.arange(bundle.n_examples), everyone, everyone)
    if paths is None:
        raise ScoreTableError(
            file,
            expected=f"example ids, since {bundle.path} holds no source paths",
            found="paths",
            do="name the rows by the column example_id (see: tamis inspect BUNDLE --examples), or"
            " save the scores in that order as .npy",
        )
    return match_paths(paths, raw.paths, "rows" if raw.format == "list" else "examples")


def _match_ids(examples: NDArray[np.int64], ids: NDArray[np.int64]) -> Match:
    distinct, first, counts = np.unique(ids, return_index=True, return_counts=True)
    places = np.minimum(np.searchsorted(distinct, examples), len(distinct) - 1)
    hits = np.where(distinct[places] == examples, counts[places], 0)
    rows = np.where(hits == 1, first[places], -1)
    return Match("example id", rows, hits, np.isin(ids, examples).astype(np.int64))


def _agree(match: Match, examples: pa.Array, rows: pa.Array) -> bool:
    """Whether ids chose a row for every example, and these rows carry the examples' paths."""
    import pyarrow.compute as pc

    if match.n_matched < len(examples):
        return False
    return bool(pc.all(pc.equal(examples, rows.take(match.rows)), min_count=0).as_py())


def _check_order(bundle: Bundle, raw: RawScores, file: Path) -> None:
    """Refuse what cannot be one number for each example in the dataset's order."""
    for name, values in raw.columns.items():
        if len(values) != bundle.n_examples:
            raise _other_length(bundle, name, len(values), file)
        kind = _ordered_like(values)
        if kind:
            raise ScoreTableError(
                file,
                expected="scores in the dataset's order, which is that of: tamis inspect BUNDLE"
                " --examples",
                found=f"{kind} in {name}",
                do="put them back in the dataset's order (scores[order] = sorted_scores), or name"
                " the rows in a CSV with the column example_id",
            )


def _other_length(bundle: Bundle, name: str, n_values: int, file: Path) -> ScoreTableError:
    older = [parent for parent in bundle.lineage[1:] if parent.n_examples == n_values]
    return ScoreTableError(
        file,
        expected=f"{bundle.n_examples:,} numbers, one for each example of {bundle.path}",
        found=f"{n_values:,} in {name}",
        do=f"import them for {older[0].path}, which this bundle was made from: that table serves"
        " both"
        if older
        else "give the scores of this bundle, or name the rows in a CSV by path or example_id",
    )


def _ordered_like(values: NDArray[np.generic]) -> str | None:
    """What numbers are that stand in an order which no dataset has; None if all is well."""
    numbers = np.asarray(values)
    if len(numbers) < _SORTED_FROM:
        return None
    if numbers.dtype.kind in "iu" and np.array_equal(np.sort(numbers), np.arange(len(numbers))):
        return "every example's place once, as argsort gives it, and no scores,"
    up = bool((numbers[1:] >= numbers[:-1]).all())
    down = bool((numbers[1:] <= numbers[:-1]).all())
    if (up or down) and len(np.unique(numbers)) >= _SORTED_FROM:
        return "sorted numbers"
    return None


def check_labels(bundle: Bundle, raw: RawScores, match: Match, file: Path) -> None:
    """Refuse rows whose labels say that they were matched to the wrong examples.

    The file may name or number the classes in its own way, and more finely or coarsely. Same paths
    need no such check.

    Raises:
        ScoreTableError: Classes of the file and of the bundle that go criss-cross.
    """
    if raw.labels is None or match.by == "path":
        return
    if match.by == _BY_ORDER and len(raw.labels) != bundle.n_examples:
        raise _other_length(bundle, "labels", len(raw.labels), file)
    matched = match.rows >= 0
    _, ours = np.unique(bundle.labels[matched], return_inverse=True)
    classes, theirs = np.unique(raw.labels[match.rows[matched]], return_inverse=True)
    n_ours = int(ours.max(initial=0)) + 1
    pairs = np.unique(theirs * n_ours + ours)
    if len(pairs) > max(n_ours, len(classes)):
        held = np.bincount(pairs // n_ours)
        raise ScoreTableError(
            file,
            expected=f"labels that fit those of {bundle.path}, matched by {match.by}",
            found=f"examples of {held.max()} classes of the bundle in the class"
            f" {classes[held.argmax()]} of the file",
            do="these are scores of other examples or in another order: name the rows by path or"
            " example_id; or pass --ignore-labels if the labels were changed on purpose",
        )

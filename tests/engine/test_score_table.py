"""Score tables keep their numbers and provenance, and know their bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import ScoreTableError, UsageError
from tamis.score_table import (
    ScoreColumn,
    ScoreTable,
    merge_columns,
    read_score_table,
    unscored_table,
    write_score_table,
)


def small(digest: str = "xxh3:abc", n: int = 4) -> ScoreTable:
    return ScoreTable(
        digest,
        np.array([7, 3, 9, 1][:n]),
        np.array([0, 1, 1, 0][:n], np.int32),
        ["a", None, "ü/ß", "d"][:n],
        {"el2n": ScoreColumn(np.array([0.5, 1, 0.25, 0][:n], np.float32), {"models": 4})},
    )


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_score_table(small(), tmp_path / "s.parquet")
    read = read_score_table(tmp_path / "s.parquet")
    assert read.bundle_digest == "xxh3:abc"
    assert read.example_ids.tolist() == [7, 3, 9, 1]
    assert read.labels.tolist() == [0, 1, 1, 0]
    assert read.paths == ["a", None, "ü/ß", "d"]
    assert read.columns["el2n"].values.tolist() == [0.5, 1, 0.25, 0]
    assert read.columns["el2n"].info == {"models": 4}


def test_the_file_is_plain_parquet_with_the_documented_columns(tmp_path: Path) -> None:
    write_score_table(small(), tmp_path / "s.parquet")
    schema = pq.read_schema(tmp_path / "s.parquet")
    assert [(f.name, str(f.type)) for f in schema] == [
        ("example_id", "int64"), ("path", "string"), ("label", "int32"), ("el2n", "float"),
    ]  # fmt: skip


def test_existing_tables_stay_unless_overwritten(tmp_path: Path) -> None:
    write_score_table(small(), tmp_path / "s.parquet")
    with pytest.raises(UsageError, match="--overwrite"):
        write_score_table(small("other"), tmp_path / "s.parquet")
    assert read_score_table(tmp_path / "s.parquet").bundle_digest == "xxh3:abc"


def test_scores_that_are_not_finite_are_refused() -> None:
    values = np.array([0.5, np.nan, np.inf, 1], np.float32)
    with pytest.raises(ScoreTableError, match="found 2 finite of 4"):
        ScoreTable("d", np.arange(4), np.zeros(4, np.int32), [None] * 4, {"m": ScoreColumn(values)})


def test_files_that_are_no_score_tables_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    for name, found in (("other", "without a bundle digest"), ("junk", ""), ("none", "no file")):
        with pytest.raises(ScoreTableError, match=f"expected a score table, found .*{found}"):
            read_score_table(tmp_path / f"{name}.parquet")


def test_rows_follow_a_cut_bundle_by_id(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    scores = np.random.default_rng(0).random(parent.n_examples).astype(np.float32)
    shuffled = np.random.default_rng(1).permutation(parent.n_examples)
    table = ScoreTable(
        parent.digest,
        parent.example_ids[shuffled],
        parent.labels[shuffled].astype(np.int32),
        [None] * parent.n_examples,
        {"m": ScoreColumn(scores[shuffled])},
    )
    cut(parent, tmp_path / "cut.beton", np.array([5, 900, 31]))
    child = open_bundle(tmp_path / "cut.beton")
    found = table.for_bundle(child)
    assert found.example_ids.tolist() == [5, 31, 900]
    assert found.columns["m"].values.tolist() == scores[[5, 31, 900]].tolist()
    assert found.labels.tolist() == parent.labels[[5, 31, 900]].tolist()


def test_another_bundle_s_scores_are_refused(digits_bundle: Path) -> None:
    with pytest.raises(ScoreTableError, match=r"found scores of another bundle \(xxh3:abc\)"):
        small().check_bundle(open_bundle(digits_bundle))


def test_columns_merge_within_one_bundle_only() -> None:
    newer = small()
    newer.columns["loss"] = ScoreColumn(np.ones(4, np.float32))
    merged = merge_columns(small(), newer)
    assert list(merged.columns) == ["el2n", "loss"]
    with pytest.raises(ScoreTableError, match="expected scores of the same bundle"):
        merge_columns(small("other"), newer)


def test_a_sorted_or_filtered_table_is_not_taken_for_the_whole(
    digits_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(digits_bundle)
    n = bundle.n_examples
    scores = np.random.default_rng(0).random(n).astype(np.float32)
    table = ScoreTable(
        bundle.digest,
        bundle.example_ids,
        bundle.labels.astype(np.int32),
        [None] * n,
        {"m": ScoreColumn(scores)},
    )
    write_score_table(table, tmp_path / "s.parquet")
    stored = pq.read_table(tmp_path / "s.parquet")
    pq.write_table(stored.sort_by("m"), tmp_path / "sorted.parquet")
    pq.write_table(stored.slice(0, n - 3), tmp_path / "part.parquet")
    pq.write_table(pa.concat_tables([stored, stored]), tmp_path / "twice.parquet")
    ordered = read_score_table(tmp_path / "sorted.parquet")
    # By id all is well; what goes by position is refused.
    assert np.array_equal(ordered.for_bundle(bundle).columns["m"].values, scores)
    with pytest.raises(ScoreTableError, match="expected both to hold the same examples"):
        merge_columns(ordered, table)
    with pytest.raises(ScoreTableError, match="found a table that lacks some of them"):
        read_score_table(tmp_path / "part.parquet").for_bundle(bundle)
    with pytest.raises(ScoreTableError, match="found repeated, missing or no example ids"):
        read_score_table(tmp_path / "twice.parquet")


def test_examples_that_were_left_out_stay_out(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    cut(parent, tmp_path / "odd.beton", np.arange(1, 400, 2))
    bundle = open_bundle(tmp_path / "odd.beton")
    kept = np.delete(np.arange(200), [3, 77])
    write_score_table(unscored_table(bundle, kept), tmp_path / "s.parquet")
    table = read_score_table(tmp_path / "s.parquet")
    assert table.left_out.ids.tolist() == [7, 155]
    assert table.left_out.positions.tolist() == [3, 77]
    assert table.n_in_bundle == 200
    rows = np.arange(400.0).reshape(200, 2)  # as embeddings: one for each example of the bundle
    assert np.array_equal(table.rows_of(rows), rows[kept])

    cut(bundle, tmp_path / "part.beton", np.array([5, 7, 9]))
    part = table.for_bundle(open_bundle(tmp_path / "part.beton"))
    assert part.example_ids.tolist() == [5, 9]
    assert (part.left_out.ids.tolist(), part.left_out.positions.tolist()) == ([7], [1])
    cut(bundle, tmp_path / "none.beton", np.array([7, 155]))
    with pytest.raises(ScoreTableError, match="found a table that lacks some of them"):
        table.for_bundle(open_bundle(tmp_path / "none.beton"))
    with pytest.raises(ScoreTableError, match="which leave out 2 and 0 of the bundle's"):
        merge_columns(table, unscored_table(bundle))

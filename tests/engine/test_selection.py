"""Which examples are kept: sides, quotas, ties, counts, and files of ids."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import ScoreTableError, UsageError
from tamis.score_table import ScoreColumn, ScoreTable, unscored_table
from tamis.selection.files import read_selected_ids, write_selection
from tamis.selection.quotas import class_quotas
from tamis.selection.selecting import select
from tamis.selection.settings import SelectionSettings


def table(scores: list[float], labels: list[int], first_id: int = 100) -> ScoreTable:
    ids = np.arange(first_id, first_id + len(scores))
    return ScoreTable(
        "digest",
        ids,
        np.array(labels, np.int32),
        [None] * len(scores),
        {"m": ScoreColumn(np.array(scores, np.float32))},
    )


def test_sides_keep_the_ends_they_name() -> None:
    scored = table([0.1, 0.9, 0.5, 0.7], [0, 0, 1, 1])
    hard = select(scored, SelectionSettings("m", keep=0.5, side="hard"))
    easy = select(scored, SelectionSettings("m", keep=0.5, side="easy"))
    assert hard.example_ids.tolist() == [101, 103]
    assert easy.example_ids.tolist() == [100, 102]


def test_kept_ids_come_in_the_table_s_order() -> None:
    scored = table([0.9, 0.1, 0.8, 0.7], [0, 0, 0, 0])
    kept = select(scored, SelectionSettings("m", count=3))
    assert kept.example_ids.tolist() == [100, 102, 103]


def slow_select(
    scores: list[float], labels: list[int], n_keep: int, quotas: dict[int, int]
) -> set[int]:
    """Quota of each class first, then the best of the rest; scores are distinct."""
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept: set[int] = set()
    for label, quota in quotas.items():
        kept |= set([i for i in ranked if labels[i] == label][:quota])
    for i in ranked:
        if len(kept) < n_keep:
            kept.add(i)
    return kept


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    st.randoms(use_true_random=False),
)
def test_quotas_hold_and_totals_are_exact(
    labels: list[int],
    keep: float,
    balance: float,
    random: object,
) -> None:
    n = len(labels)
    scores = list(range(n))
    random.shuffle(scores)  # type: ignore[attr-defined]
    chosen = select(
        table([float(s) for s in scores], labels),
        SelectionSettings("m", keep=keep, class_balance=balance),
    )
    n_keep = max(1, math.floor(keep * n + 0.5))
    assert len(chosen.example_ids) == n_keep == sum(chosen.per_class.values())
    quotas = class_quotas(np.array(labels), n_keep, balance)
    for label, quota in quotas.items():
        share = balance * n_keep * labels.count(label) / n
        assert quota in (math.floor(share + 1e-9), math.ceil(share - 1e-9))
        assert chosen.per_class[label] >= quota
    expected = slow_select([float(s) for s in scores], labels, n_keep, quotas)
    assert set((chosen.example_ids - 100).tolist()) == expected


def test_quotas_are_the_paper_s_ceilings_where_they_fit() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 7])
    assert class_quotas(labels, 78, 0.5) == {0: 25, 1: 13, 2: 2}


def test_full_balance_keeps_equal_classes_equal() -> None:
    labels = np.repeat(np.arange(10), 50)
    assert class_quotas(labels, 100, 1.0) == dict.fromkeys(range(10), 10)


def test_ties_are_broken_by_the_seed_and_not_by_position() -> None:
    scored = table([1.0] * 1000, [0] * 1000)
    first, again, other = (
        select(scored, SelectionSettings("m", keep=0.5, seed=seed)).example_ids
        for seed in (0, 0, 1)
    )
    assert first.tolist() == again.tolist() != other.tolist()
    # Neither the first nor the last half: about half of the kept lie in each.
    assert 200 < int((first < 600).sum()) < 300
    assert 180 < len(np.intersect1d(first, other)) < 320


def test_ties_do_not_depend_on_the_order_of_the_table() -> None:
    ids = np.arange(100)
    forward = ScoreTable("d", ids, np.zeros(100, np.int32), [None] * 100, {})
    backward = ScoreTable("d", ids[::-1].copy(), np.zeros(100, np.int32), [None] * 100, {})
    settings = SelectionSettings(side="random", keep=0.3, seed=5)
    assert set(select(forward, settings).example_ids) == set(select(backward, settings).example_ids)


def test_a_smaller_random_part_lies_in_a_larger_one() -> None:
    scored = table([0.0] * 200, [0] * 200)
    parts = [
        set(select(scored, SelectionSettings(side="random", keep=f, seed=2)).example_ids.tolist())
        for f in (0.1, 0.5)
    ]
    assert parts[0] < parts[1]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"keep": 0.0}, "found 0;"),
        ({"keep": 1.5}, "found 1.5;"),
        ({"keep": -0.1}, "found -0.1;"),
        ({}, "found none;"),
        ({"keep": 0.5, "count": 3}, "found several;"),
        ({"keep": 0.5, "class_balance": 1.5}, "found 1.5;"),
        ({"keep": 0.5, "side": "middle"}, "found middle;"),
        ({"keep": 0.5, "metric": None}, "found none;"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        SelectionSettings(**{"metric": "m", **settings})  # type: ignore[arg-type]


def test_a_count_beyond_the_table_is_refused() -> None:
    with pytest.raises(UsageError, match="expected 1 to 2, found 3"):
        select(table([0.1, 0.2], [0, 0]), SelectionSettings("m", count=3))


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(ScoreTableError, match="metrics: m, found n"):
        select(table([0.1, 0.2], [0, 0]), SelectionSettings("n", count=1))


def test_files_of_ids_and_paths_give_the_same_examples(digits_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(digits_bundle)
    kept = select(unscored_table(bundle), SelectionSettings(side="random", count=40))
    write_selection(kept, tmp_path / "kept.parquet")
    np.save(tmp_path / "kept.npy", kept.example_ids)
    assert bundle.paths is not None
    paths = [bundle.paths[i].as_py() for i in bundle.positions(kept.example_ids)]
    (tmp_path / "kept.txt").write_text("\n".join(paths) + "\n\n")
    for name in ("kept.parquet", "kept.npy", "kept.txt"):
        read = read_selected_ids(tmp_path / name, bundle)
        assert read.tolist() == kept.example_ids.tolist(), name


def test_a_selection_of_another_bundle_is_refused(
    digits_bundle: Path, sample_bundle: Path, tmp_path: Path
) -> None:
    bundle, other = open_bundle(digits_bundle), open_bundle(sample_bundle)
    kept = select(unscored_table(other), SelectionSettings(side="random", count=2))
    write_selection(kept, tmp_path / "kept.parquet")
    with pytest.raises(ScoreTableError, match="found one from another bundle"):
        read_selected_ids(tmp_path / "kept.parquet", bundle)


def test_a_selection_of_the_parent_holds_for_a_cut_bundle(
    digits_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(digits_bundle)
    kept = select(unscored_table(bundle), SelectionSettings(side="random", count=40))
    write_selection(kept, tmp_path / "kept.parquet")
    cut(bundle, tmp_path / "cut.beton", kept.example_ids)
    child = open_bundle(tmp_path / "cut.beton")
    assert read_selected_ids(tmp_path / "kept.parquet", child).tolist() == (
        kept.example_ids.tolist()
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("kept.parquet", b"not parquet"),
        ("kept.npy", b"not numpy"),
        ("kept.txt", b"digits/0000\nno/such/path\n"),
    ],
)
def test_unreadable_selections_are_refused(
    digits_bundle: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScoreTableError, match="expected a selection"):
        read_selected_ids(tmp_path / name, open_bundle(digits_bundle))


def test_pickled_arrays_are_not_loaded(digits_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "kept.npy", np.array([{"code": 1}], object), allow_pickle=True)
    with pytest.raises(ScoreTableError, match="expected a selection"):
        read_selected_ids(tmp_path / "kept.npy", open_bundle(digits_bundle))


@pytest.mark.parametrize("ids", [[], [5, 5]])
def test_no_ids_or_repeated_ones_are_refused(
    digits_bundle: Path, tmp_path: Path, ids: list[int]
) -> None:
    np.save(tmp_path / "kept.npy", np.array(ids, np.int64))
    with pytest.raises(ScoreTableError, match=r"found (no|repeated) ids"):
        read_selected_ids(tmp_path / "kept.npy", open_bundle(digits_bundle))


def test_an_archive_of_arrays_is_refused(digits_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "kept.npz", a=np.arange(3))
    (tmp_path / "kept.npz").rename(tmp_path / "kept.npy")
    with pytest.raises(ScoreTableError, match="found an archive of several arrays"):
        read_selected_ids(tmp_path / "kept.npy", open_bundle(digits_bundle))

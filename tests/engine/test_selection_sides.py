"""Stratified, moderate and d2 against their definitions as loops, and what every side promises."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from command_line import answer, refused
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.encoders.embedding_file import map_embeddings, npy_header, provenance_trailer
from tamis.errors import ScoreTableError, UsageError
from tamis.hashing import example_hash
from tamis.score_table import ScoreColumn, ScoreTable, write_score_table
from tamis.selection.files import write_selection
from tamis.selection.neighbours import neighbour_graph
from tamis.selection.quotas import class_quotas
from tamis.selection.selecting import Selection, select
from tamis.selection.settings import SelectionSettings
from tamis.sweep.grid import Sweep
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.spec import SweepSpec

SIDES = ("hard", "easy", "random", "stratified", "moderate", "d2")


def table(
    scores: Sequence[float] | NDArray[Any],
    labels: Sequence[int] | NDArray[Any] | None = None,
    ids: NDArray[np.int64] | None = None,
) -> ScoreTable:
    n = len(scores)
    return ScoreTable(
        "digest",
        np.arange(100, 100 + n) if ids is None else ids,
        np.zeros(n, np.int32) if labels is None else np.asarray(labels, np.int32),
        [None] * n,
        {"m": ScoreColumn(np.asarray(scores, np.float32))},
    )


def settings(side: str, **options: Any) -> SelectionSettings:
    metric = None if side == "random" else "m"
    return SelectionSettings(metric, side=side, **options)  # type: ignore[arg-type]


def positions(chosen: Selection) -> list[int]:
    return [int(i) - 100 for i in chosen.example_ids]


# The definitions: lists and loops, ranks by (key, hash of seed and id).


def hashes(scored: ScoreTable, seed: int, purpose: str, *extra: int) -> list[int]:
    return [int(h) for h in example_hash(scored.example_ids, seed, purpose, *extra)]


def slow_cut(scored: ScoreTable, quotas: dict[int, int], cut: float, seed: int) -> list[int]:
    """Positions left: each class's easiest up to its quota, then the easiest of the others."""
    scores, labels = scored.column("m").values.tolist(), scored.labels.tolist()
    ties = hashes(scored, seed, "tie")
    n_left = len(scores) - math.floor(Fraction(str(cut)) * len(scores))
    ranked = sorted(range(len(scores)), key=lambda i: (scores[i], ties[i]))
    left: set[int] = set()
    for label, quota in quotas.items():
        left |= set([i for i in ranked if labels[i] == label][:quota])
    for i in ranked:
        if len(left) < n_left:
            left.add(i)
    return sorted(left)


def slow_budgets(sizes: list[int], budget: int) -> list[int]:
    given = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda s: (sizes[s], s))
    for done, stratum in enumerate(order):
        given[stratum] = min(sizes[stratum], budget // (len(sizes) - done))
        budget -= given[stratum]
    assert budget == 0
    return given


def slow_sample(
    members: list[int], strata: dict[int, int], n: int, k: int, draw: list[int]
) -> set[int]:
    by_stratum = [[i for i in members if strata[i] == s] for s in range(k)]
    budgets = slow_budgets([len(part) for part in by_stratum], n)
    return {
        i
        for part, budget in zip(by_stratum, budgets, strict=True)
        for i in sorted(part, key=lambda i: draw[i])[:budget]
    }


def slow_stratified(
    scored: ScoreTable, n_keep: int, quotas: dict[int, int], cut: float, k: int, seed: int
) -> set[int]:
    left = slow_cut(scored, quotas, cut, seed)
    scores = {i: float(scored.column("m").values[i]) for i in left}
    low, high = min(scores.values()), max(scores.values())
    strata = {
        i: min(int((s - low) / (high - low) * k), k - 1) if high > low else 0
        for i, s in scores.items()
    }
    kept: set[int] = set()
    for label, quota in quotas.items():
        own = [i for i in left if scored.labels[i] == label]
        kept |= slow_sample(own, strata, quota, k, hashes(scored, seed, "strata", 0))
    rest = [i for i in left if i not in kept]
    draw = hashes(scored, seed, "strata", 1)
    return kept | slow_sample(rest, strata, n_keep - len(kept), k, draw)


def slow_moderate(scored: ScoreTable, n_keep: int, quotas: dict[int, int], seed: int) -> set[int]:
    ties = hashes(scored, seed, "tie")
    scores = scored.column("m").values.tolist()

    def nearest_the_middle(members: list[int]) -> list[int]:
        ranked = sorted(members, key=lambda i: (scores[i], ties[i]))
        middle = Fraction(len(members) - 1, 2)
        return sorted(members, key=lambda i: (abs(ranked.index(i) - middle), ties[i]))

    kept: set[int] = set()
    for label, quota in quotas.items():
        own = [i for i in range(len(scores)) if scored.labels[i] == label]
        kept |= set(nearest_the_middle(own)[:quota])
    for i in nearest_the_middle(list(range(len(scores)))):
        if len(kept) < n_keep:
            kept.add(i)
    return kept


def slow_d2(
    scored: ScoreTable,
    x: NDArray[np.float32],
    n_keep: int,
    quotas: dict[int, int],
    cut: float,
    k: int,
    gamma: float,
    seed: int,
) -> set[int]:
    """All distances, all edges, and a search for the highest before every step."""
    ties = hashes(scored, seed, "tie")
    left = sorted(slow_cut(scored, quotas, cut, seed), key=lambda i: ties[i])
    scores = {i: float(scored.column("m").values[i]) for i in left}
    low, high = min(scores.values()), max(scores.values())
    s = {i: (v - low) / (high - low) if high > low else 1.0 for i, v in scores.items()}
    away = {(i, j): math.dist(x[i].tolist(), x[j].tolist()) for i in left for j in left}
    edges = set()
    for i in left:
        others = [j for j in left if j != i]
        for j in sorted(others, key=lambda j: (away[i, j], ties[j]))[:k]:
            edges |= {(i, j), (j, i)}
    d = {i: s[i] + sum(math.exp(-away[i, j]) * s[j] for j in left if (i, j) in edges) for i in left}
    kept: set[int] = set()
    reserved, free = dict(quotas), n_keep - sum(quotas.values())
    while len(kept) < n_keep:
        is_open = [i for i in left if i not in kept and (reserved[scored.labels[i]] or free)]
        best = max(is_open, key=lambda i: d[i])
        label = int(scored.labels[best])
        reserved[label], free = (reserved[label] - 1, free) if reserved[label] else (0, free - 1)
        kept.add(best)
        for j in left:
            if (best, j) in edges:
                d[j] -= math.exp(-gamma * away[best, j]) * d[best]
    return kept


@st.composite
def cases(draw: st.DrawFn, n_least: int = 1) -> tuple[ScoreTable, dict[str, Any]]:
    """A table whose scores tie often, its examples in any order, and settings of every side."""
    n = draw(st.integers(n_least, 40))
    labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    scores: list[float] = draw(st.lists(st.integers(-3, 9), min_size=n, max_size=n))
    if draw(st.booleans()):
        scores = [score + i / 64 for i, score in enumerate(scores)]
    ids = np.array(draw(st.permutations(range(100, 100 + n))))
    hardest_cut = draw(st.sampled_from([0.0, 0.1, 0.29, 0.5]))
    keep = draw(st.floats(0.01, 1 - hardest_cut))
    balance = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    options = {"keep": keep, "class_balance": balance, "seed": draw(st.integers(0, 3))}
    return table(scores, labels, ids), {"hardest_cut": hardest_cut, **options}


def parts_of(scored: ScoreTable, options: dict[str, Any]) -> tuple[int, dict[int, int]]:
    n_keep = max(1, math.floor(options["keep"] * len(scored.example_ids) + 0.5))
    return n_keep, class_quotas(scored.labels, n_keep, options["class_balance"])


def ids_at(scored: ScoreTable, kept: set[int]) -> list[int]:
    return [int(scored.example_ids[i]) for i in sorted(kept)]


@given(cases(), st.sampled_from([1, 2, 7, 50]))
def test_stratified_is_its_definition(
    case: tuple[ScoreTable, dict[str, Any]], n_strata: int
) -> None:
    scored, options = case
    n_keep, quotas = parts_of(scored, options)
    expected = slow_stratified(
        scored, n_keep, quotas, options["hardest_cut"], n_strata, options["seed"]
    )
    chosen = select(scored, settings("stratified", strata=n_strata, **options))
    assert chosen.example_ids.tolist() == ids_at(scored, expected)


@given(cases())
def test_moderate_is_its_definition(case: tuple[ScoreTable, dict[str, Any]]) -> None:
    scored, options = case
    del options["hardest_cut"]
    n_keep, quotas = parts_of(scored, options)
    expected = slow_moderate(scored, n_keep, quotas, options["seed"])
    chosen = select(scored, settings("moderate", **options))
    assert chosen.example_ids.tolist() == ids_at(scored, expected)


@given(
    cases(n_least=10),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    st.integers(0, 100),
)
def test_d2_is_its_definition(
    case: tuple[ScoreTable, dict[str, Any]], k: int, gamma: float, seed: int
) -> None:
    scored, options = case
    # Distinct distances: sums that differ in their last bit do not decide.
    x = np.random.default_rng(seed).normal(size=(len(scored.example_ids), 3)).astype(np.float32)
    n_keep, quotas = parts_of(scored, options)
    expected = slow_d2(scored, x, n_keep, quotas, options["hardest_cut"], k, gamma, options["seed"])
    how = settings("d2", neighbours=k, gamma=gamma, **options)
    assert select(scored, how, embeddings=x).example_ids.tolist() == ids_at(scored, expected)


@given(cases(n_least=10), st.sampled_from(SIDES), st.randoms(use_true_random=False))
def test_what_every_side_promises(
    case: tuple[ScoreTable, dict[str, Any]], side: str, random: Any
) -> None:
    """Exact totals, quotas, the hardest left out and nothing else, and no matter which order."""
    scored, options = case
    hardest_cut = options.pop("hardest_cut")
    n = len(scored.example_ids)
    if side in ("stratified", "d2"):
        options["hardest_cut"] = hardest_cut
    if side == "d2":
        options["neighbours"] = 3
    # Rows on a small grid: neighbours at equal distances and repeated rows in plenty.
    rows = np.array([[random.randrange(3), random.randrange(3)] for _ in range(n)], np.float32)
    chosen = select(scored, settings(side, **options), embeddings=rows if side == "d2" else None)
    n_keep, quotas = parts_of(scored, options)
    assert len(chosen.example_ids) == n_keep == sum(chosen.per_class.values())
    assert all(chosen.per_class[label] >= quota for label, quota in quotas.items())
    kept = np.isin(scored.example_ids, chosen.example_ids)
    assert chosen.example_ids.tolist() == scored.example_ids[kept].tolist()
    if side in ("stratified", "d2"):
        left = slow_cut(scored, quotas, hardest_cut, options["seed"])
        assert set(np.flatnonzero(kept)) <= set(left)
    order = list(range(n))
    random.shuffle(order)
    shuffled = table(
        scored.column("m").values[order], scored.labels[order], scored.example_ids[order]
    )
    again = select(
        shuffled, settings(side, **options), embeddings=rows[order] if side == "d2" else None
    )
    assert set(again.example_ids.tolist()) == set(chosen.example_ids.tolist())


def test_the_cut_drops_the_hardest_and_keeps_all_else_in_reach() -> None:
    """With as many to keep as the cut leaves, exactly the hardest are missing."""
    scores = np.random.default_rng(0).random(100)
    for side, more in (("stratified", {}), ("d2", {"neighbours": 5})):
        rows = np.zeros((100, 2), np.float32) if side == "d2" else None
        how = settings(side, keep=0.71, hardest_cut=0.29, **more)
        left = positions(select(table(scores), how, embeddings=rows))
        assert left == sorted(np.argsort(scores)[:71].tolist()), side


def test_a_class_of_the_hardest_alone_keeps_its_quota() -> None:
    labels, scores = np.repeat([0, 1], [90, 10]), np.arange(100)
    how = {"keep": 0.2, "hardest_cut": 0.5, "class_balance": 0.5}
    chosen = select(table(scores, labels), settings("stratified", **how))
    assert chosen.per_class[1] == 1
    assert positions(chosen)[-1] == 90  # its easiest
    assert max(positions(chosen)[:-1]) < 51


def test_stratified_covers_what_hard_and_random_leave_out() -> None:
    """Most are easy: random keeps few of the rest, hard nothing but the hardest."""
    sizes = [900, 4, 30, 12, 3, 15, 8, 12, 9, 7]
    scores = np.repeat(np.arange(10), sizes)

    def counts(side: str, **options: int) -> list[int]:
        kept = positions(select(table(scores), settings(side, keep=0.1, **options)))
        return [int((scores[kept] == score).sum()) for score in range(10)]

    assert counts("hard") == [0, 4, 30, *sizes[3:]]
    assert sum(counts("random")[1:]) < 20
    # All of the small ones, and 15 of the 15, 30 and 900.
    assert counts("stratified", strata=10) == [15, 4, 15, 12, 3, 15, 8, 12, 9, 7]


def test_draws_of_a_stratum_are_uniform() -> None:
    """Whatever the class, the stage, and how near to the cut: 600 seeds of 40 examples."""
    scores, labels = np.repeat([0.0, 0.4, 0.5, 9.0], [20, 10, 10, 10]), np.arange(50) % 2
    times = np.zeros(50)
    for seed in range(600):
        how = {"count": 16, "strata": 1, "hardest_cut": 0.2, "class_balance": 0.5}
        times[
            positions(select(table(scores, labels), settings("stratified", seed=seed, **how)))
        ] += 1
    assert times[40:].sum() == 0
    assert abs(times[:40] / 600 - 16 / 40).max() < 4.5 * math.sqrt(0.4 * 0.6 / 600)


def test_moderate_keeps_the_percentiles_around_the_50th() -> None:
    skewed = np.exp(np.random.default_rng(1).normal(size=1000) * 3)
    kept = skewed[positions(select(table(skewed), settings("moderate", keep=0.3)))]
    assert (kept.min(), kept.max()) == tuple(np.sort(skewed).astype(np.float64)[[350, 649]])


def test_moderate_of_full_balance_is_class_by_class() -> None:
    """The second class is harder throughout, and would be missing or alone without quotas."""
    scores, labels = np.arange(200), np.repeat([0, 1], 100)
    whole = positions(select(table(scores, labels), settings("moderate", keep=0.5)))
    assert whole == list(range(50, 150))
    by_class = settings("moderate", keep=0.5, class_balance=1.0)
    chosen = positions(select(table(scores, labels), by_class))
    assert chosen == [*range(25, 75), *range(125, 175)]


def test_d2_keeps_one_of_each_cluster_where_hard_keeps_two_of_one() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [20, 0], [0, 20], [20, 20]])
    cluster = np.repeat(np.arange(4), 10)
    rows = (centres[cluster] + 0.01 * rng.normal(size=(40, 2))).astype(np.float32)
    scores = np.array([0.9, 0.8, 0.1, 0.0])[cluster] + 0.001 * rng.random(40)
    hard = positions(select(table(scores), settings("hard", count=2)))
    assert cluster[hard].tolist() == [0, 0]
    how = settings("d2", count=2, neighbours=9)
    assert cluster[positions(select(table(scores), how, embeddings=rows))].tolist() == [0, 1]
    # The more that are kept, the more of the hard clusters before any of the easiest.
    four = settings("d2", count=4, neighbours=9, gamma=30.0)
    assert cluster[positions(select(table(scores), four, embeddings=rows))].max() < 2


def test_d2_of_equal_scores_goes_where_examples_are() -> None:
    """Two crowds and four loners, all equally hard: each crowd's middle counts for more."""
    crowds = np.repeat([[0.0, 0], [50, 50]], 8, axis=0) + np.linspace(0, 0.7, 16)[:, None]
    rows = np.concatenate((crowds, [[0, 200], [200, 0], [-200, 0], [0, -200]])).astype(np.float32)
    how = settings("d2", count=2, neighbours=7)
    first, second = positions(select(table(np.full(20, 0.3)), how, embeddings=rows))
    assert first < 8 <= second < 16


def test_a_smaller_part_of_d2_lies_in_a_larger_one() -> None:
    rng = np.random.default_rng(0)
    rows, scored = rng.normal(size=(300, 4)).astype(np.float32), table(rng.random(300))
    parts = [
        set(positions(select(scored, settings("d2", keep=f), embeddings=rows)))
        for f in (0.1, 0.3, 0.9)
    ]
    assert parts[0] < parts[1] < parts[2]


@pytest.mark.parametrize(("offset", "apart"), [(0.0, 0.0), (1000.0, 0.0), (0.0, 10_000.0)])
def test_the_graph_is_the_one_of_all_distances(offset: float, apart: float) -> None:
    """Over the edges of tiles, and where products in float32 alone would not tell rows apart.

    That is where all rows share far more than they differ by, and in crowds (of 11) far apart.
    """
    n, k = 1100, 4
    rng = np.random.default_rng(0)
    crowds = apart * rng.normal(size=(100, 6))
    x = (rng.normal(size=(n, 6)) + offset + np.tile(crowds, (11, 1))).astype(np.float32)
    exact = x.astype(np.float64)
    away = np.sqrt(((exact[:, None] - exact[None]) ** 2).sum(axis=2))
    np.fill_diagonal(away, np.inf)
    joined = np.zeros((n, n), np.bool_)
    np.put_along_axis(joined, np.argsort(away, axis=1)[:, :k], True, axis=1)
    joined |= joined.T
    graph = neighbour_graph(x, k)
    begins, ends = np.nonzero(joined)
    assert (graph.begins.tolist(), graph.ends.tolist()) == (begins.tolist(), ends.tolist())
    np.testing.assert_allclose(graph.distances, away[joined], rtol=1e-12)


def test_the_graph_does_not_depend_on_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.random.default_rng(0).integers(0, 4, (1200, 3)).astype(np.float32)
    graphs = []
    for threads in (1, 3):
        monkeypatch.setattr("tamis.selection.neighbours.n_cores", lambda threads=threads: threads)
        graphs.append(neighbour_graph(x, 5))
    assert graphs[0].ends.tolist() == graphs[1].ends.tolist()
    assert graphs[0].distances.tolist() == graphs[1].distances.tolist()


@pytest.mark.parametrize(
    ("side", "options", "message"),
    [
        ("hard", {"strata": 50}, "--strata: expected none with --side hard.*--side stratified"),
        ("d2", {"strata": 50}, "--strata: expected none with --side d2"),
        ("moderate", {"hardest_cut": 0.0}, "--hardest-cut: .* pass --side stratified or d2"),
        ("random", {"neighbours": 5}, "--neighbours: expected none with --side random"),
        ("stratified", {"gamma": 0.5}, "--gamma: expected none with --side stratified"),
        ("stratified", {"hardest_cut": 0.6}, "--hardest-cut: expected at most 0.5.*found 0.6"),
        ("stratified", {"hardest_cut": 1.0}, "--hardest-cut: expected 0 ≤ cut < 1"),
        ("stratified", {"hardest_cut": -0.1}, "found -0.1"),
        ("stratified", {"hardest_cut": math.nan}, "found nan"),
        ("stratified", {"strata": 0}, "--strata: expected 1 to 1000"),
        ("stratified", {"strata": 1001}, "found 1001"),
        ("d2", {"neighbours": 0}, "--neighbours: expected 1 or more"),
        ("d2", {"gamma": -1.0}, "--gamma: expected 0 or more"),
        ("d2", {"gamma": math.inf}, "found inf"),
    ],
)
def test_options_out_of_place_or_range_are_refused(
    side: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        settings(side, keep=0.5, **options)


def test_settings_record_what_was_used() -> None:
    assert settings("stratified", keep=0.5).strata == 50
    used = settings("d2", keep=0.5)
    assert (used.hardest_cut, used.strata, used.neighbours, used.gamma) == (0.0, None, 10, 0.1)
    assert settings("hard", keep=0.5).hardest_cut is None


@pytest.mark.parametrize(("keep", "cut"), [(0.71, 0.29), (0.7, 0.3), (0.3, 0.7), (0.1, 0.9)])
def test_keep_and_cut_may_add_up_to_one(keep: float, cut: float) -> None:
    for n, share in itertools.product((1, 2, 5, 10, 15, 100, 101), (keep, 1 - cut)):
        how = settings("stratified", keep=share, hardest_cut=cut)
        n_kept = len(select(table(np.arange(n)), how).example_ids)
        assert n_kept == max(1, math.floor(share * n + 0.5))


def test_a_count_beyond_what_the_cut_leaves_is_refused() -> None:
    how = settings("stratified", count=8, hardest_cut=0.3)
    with pytest.raises(UsageError, match=r"--hardest-cut: .*leaves 7 of 10; drop less"):
        select(table(np.arange(10)), how)


@pytest.mark.parametrize(
    ("side", "rows", "message"),
    [
        ("d2", None, "found none; write them with: tamis embed"),
        ("d2", np.zeros((9, 2), np.float32), r"\(20, d\), one row per example.*\(9, 2\)"),
        ("d2", np.zeros(20, np.float32), r"found an array \(20,\)"),
        ("d2", np.zeros((20, 0), np.float32), r"found an array \(20, 0\)"),
        ("d2", np.full((20, 2), np.nan, np.float32), "found 20 rows that are not finite"),
        ("d2", np.full((20, 2), 1e300), "found 20 rows that are not finite, or beyond"),
        ("d2", np.full((20, 2), 1e18, np.float32), "found 20 rows"),
        ("hard", np.zeros((20, 2), np.float32), "expected none with --side hard"),
    ],
)
def test_embeddings_that_do_not_serve_are_refused(side: str, rows: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(table(np.arange(20)), settings(side, keep=0.5), embeddings=rows)


def test_too_few_examples_for_the_neighbours_are_refused() -> None:
    rows = np.zeros((12, 2), np.float32)
    with pytest.raises(UsageError, match="fewer than the 9 examples to choose from, found 10"):
        select(table(np.arange(12)), settings("d2", count=2, hardest_cut=0.25), embeddings=rows)
    assert select(table(np.arange(12)), settings("d2", count=2), embeddings=rows)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_embeddings_of_other_floats_count_alike(kind: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float16)
    scored, how = table(np.arange(50)), settings("d2", keep=0.3)
    expected = select(scored, how, embeddings=rows.astype(np.float32))
    found = select(scored, how, embeddings=rows.astype(kind))
    assert found.example_ids.tolist() == expected.example_ids.tolist()


@pytest.mark.parametrize(
    "content",
    [np.zeros((3, 2)), np.zeros(4), np.zeros((4, 2), np.int64), np.array([{}], object)],
)
def test_files_of_other_arrays_are_refused(content: NDArray[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", content, allow_pickle=True)
    with pytest.raises(ScoreTableError, match=r"expected an .npy of floats, \(4, d\)"):
        map_embeddings(tmp_path / "rows.npy", 4, "digest", of="it")


def test_embeddings_of_another_bundle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows = np.zeros((4, 2), np.float32)
    written = npy_header(rows.shape, "float32") + rows.tobytes()
    path.write_bytes(written + provenance_trailer({"bundle": "digest"}))
    assert np.array_equal(map_embeddings(path, 4, "digest", of="it").rows, rows)
    with pytest.raises(ScoreTableError, match="expected embeddings of it, found those of a bundle"):
        map_embeddings(path, 4, "other", of="it")


# The command line.


@pytest.fixture(scope="module")
def folder(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, its score table and embeddings; not to be written to."""
    root = tmp_path_factory.mktemp("sides")
    bundle = open_bundle(digits_bundle)
    rng = np.random.default_rng(0)
    scores = ScoreColumn(rng.random(bundle.n_examples).astype(np.float32))
    scored = ScoreTable(
        bundle.digest,
        bundle.example_ids,
        bundle.labels.astype(np.int32),
        [None] * bundle.n_examples,
        {"el2n": scores},
    )
    write_score_table(scored, root / "scores.parquet")
    np.save(root / "rows.npy", rng.normal(size=(bundle.n_examples, 4)).astype(np.float32))
    return root


def test_wrong_usage_is_one_line_and_leaves_no_trace(
    digits_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    scores, rows, out = folder / "scores.parquet", folder / "rows.npy", tmp_path / "out.parquet"
    np.save(tmp_path / "short.npy", np.zeros((7, 2)))
    chosen = ("select", scores, out, "--metric", "el2n", "--keep", 0.5)
    copied = ("cut", digits_bundle, tmp_path / "out.beton")
    scored = (*copied, "--scores", scores, "--metric", "el2n", "--keep", 0.5)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((*chosen, "--side", "stratified", "--hardest-cut", 0.6), "at most 0.5"),
        ((*chosen, "--side", "stratified", "--gamma", 1), "--gamma: expected none with"),
        ((*chosen, "--strata", 20), "--strata: expected none with --side hard"),
        ((*chosen, "--side", "moderate", "--neighbours", 2), "--neighbours: expected none"),
        ((*chosen, "--side", "moderate", "--embeddings", rows), "--embeddings: expected none"),
        ((*chosen, "--side", "d2"), "--embeddings: expected with --side d2"),
        ((*chosen, "--side", "d2", "--embeddings", tmp_path / "short.npy"), "array (7, 2)"),
        ((*chosen, "--side", "d2", "--embeddings", tmp_path / "none.npy"), "found no file"),
        ((*chosen, "--side", "middle"), "'moderate'"),
        ((*scored, "--side", "stratified", "--hardest-cut", 0.6), "at most 0.5"),
        ((*scored, "--side", "easy", "--embeddings", rows), "--embeddings: expected none"),
        ((*copied, "--side", "d2", "--keep", 0.5, "--metric", "el2n"), "found neither"),
        ((*copied, "--selection", scores, "--strata", 9, "--embeddings", rows),
         "found --strata and --embeddings"),
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in cases:
        assert message in refused(*arguments), arguments
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_the_commands_are_the_function(digits_bundle: Path, folder: Path, tmp_path: Path) -> None:
    """Select and cut keep the same, from the bundle and from one cut from it in another order."""
    bundle = open_bundle(digits_bundle)
    cut(bundle, tmp_path / "half.beton", bundle.example_ids[::2], order="shuffled", seed=3)
    scores, rows = folder / "scores.parquet", np.load(folder / "rows.npy")
    half = open_bundle(tmp_path / "half.beton")
    column = {"m": ScoreColumn(np.random.default_rng(0).random(1347).astype(np.float32))}
    everyone = ScoreTable(
        bundle.digest, bundle.example_ids, bundle.labels.astype(np.int32), [None] * 1347, column
    )
    at = bundle.positions(half.example_ids)
    for side, options in itertools.chain(
        [("stratified", {"hardest_cut": 0.2, "strata": 20}), ("moderate", {})],
        [("d2", {"neighbours": 5, "gamma": 1.0, "hardest_cut": 0.1})],
    ):
        given: list[object] = [
            x for name, v in options.items() for x in (f"--{name.replace('_', '-')}", v)
        ]
        given += ["--metric", "el2n", "--keep", 0.3, "--side", side, "--class-balance", 0.5]
        given += ["--embeddings", folder / "rows.npy"] if side == "d2" else []
        how = settings(side, keep=0.3, class_balance=0.5, **options)
        kept = tmp_path / f"{side}.parquet"
        answer("select", scores, kept, *given)
        answer("cut", bundle.path, tmp_path / f"{side}.beton", "--selection", kept)
        expected = select(everyone, how, embeddings=rows if side == "d2" else None)
        found = open_bundle(tmp_path / f"{side}.beton")
        assert found.example_ids.tolist() == expected.example_ids.tolist()
        out = tmp_path / f"half-{side}.beton"
        answer("cut", half.path, out, "--scores", scores, *given)
        expected = select(
            everyone.for_bundle(half), how, embeddings=rows[at] if side == "d2" else None
        )
        assert open_bundle(out).example_ids.tolist() == expected.example_ids.tolist()


def test_the_file_says_how(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    chosen = select(table(np.arange(30)), settings("d2", keep=0.5), embeddings=rows)
    write_selection(chosen, tmp_path / "kept.parquet")
    how = json.loads(pq.read_schema(tmp_path / "kept.parquet").metadata[b"tamis_selection"])
    assert (how["side"], how["neighbours"], how["gamma"], how["strata"]) == ("d2", 10, 0.1, None)
    assert how["embeddings"] == chosen.embeddings_digest is not None


# Sweeps.


def test_sweeps_take_stratified_and_moderate(
    digits_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    base: dict[str, Any] = {
        "train": digits_bundle,
        "test": digits_bundle,
        "scores": folder / "scores.parquet",
    }
    base |= {"metrics": ["random", "el2n"], "keep": [1.0, 0.3], "recipe": "digits", "seeds": 1}
    sweep = Sweep(SweepSpec(**base, side=["hard", "stratified", "moderate"], hardest_cut=0.7))
    sides = [trial.side for trial in sweep.trials]
    assert sides == ["full", "random", "hard", "stratified", "moderate"]
    for trial in sweep.trials:
        how = sweep.selection(trial)
        assert how.hardest_cut == (0.7 if trial.side == "stratified" else None)
        n_kept = len(select(sweep.table(1.0), how).example_ids)
        assert n_kept == math.floor(trial.keep * 1347 + 0.5)
    other = Sweep(SweepSpec(**base, side=["hard", "stratified", "moderate"], hardest_cut=0.5))
    changed = [trial.side for trial in sweep.trials if sweep.key(trial) != other.key(trial)]
    assert changed == ["stratified"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("side: [hard, d2]", "side: expected sides that need no embeddings"),
        ("side: d2", "for d2 run tamis select and train"),
        ("side: middle", "'moderate'"),
        ("side: hard\nstrata: 20", "strata: expected none unless side names stratified"),
        ("side: stratified\nhardest_cut: 0.8", "hardest_cut: expected at most 0.7"),
        ("side: stratified\nhardest_cut: 1.0", "hardest_cut: expected less than 1"),
        ("side: stratified\nstrata: 0", "strata: expected greater than or equal to 1"),
    ],
)
def test_wrong_sweep_files_name_the_key(lines: str, message: str, tmp_path: Path) -> None:
    names = "train: a.beton\ntest: a.beton\nscores: a.parquet\nmetrics: [el2n]\nkeep: [1, 0.3]\n"
    (tmp_path / "sweep.yaml").write_text(names + lines)
    with pytest.raises(UsageError, match=message):
        read_sweep_spec(tmp_path / "sweep.yaml")

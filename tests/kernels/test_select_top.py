from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.hashing import example_hash
from tamis_kernels.reference.select_top import select_top as by_lexsort
from tamis_kernels.reference.select_top import tie_hash
from tamis_kernels.select_top import select_top

INF, NAN = math.inf, math.nan


def by_tuples(
    scores: Any, ids: Any, count: int, labels: Any = None, quotas: Any = None, seed: int = 0
) -> NDArray[np.bool_]:
    """The rows one would take by hand, with the engine's hash."""
    ties = example_hash(np.asarray(ids, np.int64), seed, "tie").tolist()
    values = [float(score) for score in scores]
    ranked = sorted(
        range(len(values)),
        key=lambda i: (
            math.isnan(values[i]),
            0 if math.isnan(values[i]) else -values[i],
            ties[i],
            i,
        ),
    )
    left = [] if quotas is None else [int(quota) for quota in quotas]
    kept = set()
    for i in ranked:
        if left and left[labels[i]] > 0:
            left[labels[i]] -= 1
            kept.add(i)
    for i in ranked:
        if len(kept) < count:
            kept.add(i)
    return np.isin(np.arange(len(values)), list(kept))


def example(
    n: int, n_classes: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng((n, n_classes, seed))
    scores = rng.standard_normal(n).astype(np.float32)
    return scores, rng.permutation(10 * n)[:n] - 5 * n, rng.integers(0, n_classes, n)


def quotas_of(labels: NDArray[Any], n_classes: int, count: int) -> NDArray[np.int64]:
    """Half of what each class would keep of ``count`` if all kept the same share."""
    sizes = np.bincount(labels, minlength=n_classes)
    return sizes * count // (2 * len(labels))


# ---- the definition


def test_by_hand() -> None:
    scores = np.array([1, 5, 3, 4, 2], np.float32)
    ids = np.arange(5)
    assert select_top(scores, ids, 2).tolist() == [False, True, False, True, False]
    # Class 1 keeps its best, row 0; then the best of the others, row 1.
    found = select_top(scores, ids, 2, labels=np.array([1, 0, 0, 0, 1]), quotas=np.array([0, 1]))
    assert found.tolist() == [False, True, False, False, True]


def test_special_values_in_their_order() -> None:
    scores = np.array([NAN, -INF, -1, 0, 1e-45, 1, INF], np.float32)
    for count in range(8):
        found = select_top(scores, np.zeros(7, np.int64), count)
        assert found.tolist() == [False] * (7 - count) + [True] * count
    both = np.array([NAN, -NAN, -INF], np.float32)
    assert select_top(both, np.arange(3), 1).tolist() == [False, False, True]


def test_zeros_of_both_signs_are_one_score() -> None:
    plus, minus = np.zeros(500, np.float32), -np.zeros(500, np.float32)
    minus[::2] = 0.0
    ids = np.arange(500)
    assert np.array_equal(select_top(minus, ids, 100), select_top(plus, ids, 100))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, -(2**70) + 5])
def test_the_engine_breaks_ties_alike(seed: int) -> None:
    ids = np.concatenate([np.arange(-50, 50), [2**63 - 1, -(2**63)]])
    expected = example_hash(ids, seed, "tie")
    assert np.array_equal(tie_hash(ids, seed), expected)
    kept = select_top(np.zeros(len(ids), np.float32), ids, 17, seed=seed)
    assert np.flatnonzero(kept).tolist() == np.sort(np.argsort(expected)[:17]).tolist()


def test_ties_are_broken_by_the_seed_evenly() -> None:
    ids = np.arange(20_000)
    scores = np.zeros(20_000, np.float32)
    first, second = (select_top(scores, ids, 10_000, seed=seed) for seed in (0, 1))
    # Two independent halves share a quarter: 5000 ± 50 (hypergeometric), here within five of them.
    assert abs(int((first & second).sum()) - 5000) < 250
    assert abs(int(first[:10_000].sum()) - 5000) < 250


def test_equal_ids_and_scores_keep_the_lowest_position() -> None:
    scores = np.array([1, 0, 1, 1, 1, 0], np.float32)
    ids = np.array([7, 7, 7, 7, 7, 9])
    assert select_top(scores, ids, 2).tolist() == [True, False, True, False, False, False]
    found = select_top(scores, ids, 3, labels=np.array([0, 0, 1, 1, 1, 1]), quotas=np.array([0, 2]))
    assert found.tolist() == [True, False, True, True, False, False]


# ---- sizes and shapes


@pytest.mark.parametrize("kind", ["all differ", "few values", "one value", "one id"])
@pytest.mark.parametrize(
    ("n", "n_classes"),
    [
        (1, 1),
        (1, 3),  # one row, of a class that is not the first
        (2, 1),
        (1000, 1),
        (1000, 7),
        (5000, 1000),  # few rows a class: digits of four bits
        (150_000, 3),  # more than one thread, digits of sixteen bits
        (20_000, 3_000),
    ],
)
def test_against_the_reference(n: int, n_classes: int, kind: str) -> None:
    scores, ids, labels = example(n, n_classes)
    labels[:] = np.maximum(labels, (n_classes - 1) * (n == 1))
    if kind == "few values":
        scores = np.round(scores)
    elif kind != "all differ":
        scores[:] = 2.5
    if kind == "one id":
        ids[:] = -3
    for count in {0, 1, n // 3, n - 1, n}:
        quotas = quotas_of(labels, n_classes, count)
        found = select_top(scores, ids, count, seed=n)
        assert np.array_equal(found, by_lexsort(scores, ids, count, seed=n))
        assert found.sum() == count
        found = select_top(scores, ids, count, labels=labels, quotas=quotas, seed=n)
        expected = by_lexsort(scores, ids, count, labels=labels, quotas=quotas, seed=n)
        assert np.array_equal(found, expected)
        assert found.sum() == count


def test_no_rows() -> None:
    none = np.empty(0, np.float32)
    ids = np.empty(0, np.int32)
    assert select_top(none, ids, 0).tolist() == []
    assert select_top(none, ids, 0, labels=ids, quotas=np.zeros(0, np.int64)).tolist() == []
    assert select_top(none, ids, 0, labels=ids, quotas=np.zeros(3, np.int64)).tolist() == []


def test_classes_without_rows_and_without_quotas() -> None:
    scores, ids, labels = example(300, 4)
    labels[labels == 2] = 3
    quotas = np.array([10, 0, 20, 0])  # class 2 is empty, so its quota goes to the others
    found = select_top(scores, ids, 30, labels=labels, quotas=quotas)
    expected = by_tuples(scores, ids, 30, labels, quotas)
    assert np.array_equal(found, expected)
    assert found.sum() == 30


def test_any_memory_layout_and_integers(tmp_path: Path) -> None:
    scores, ids, labels = example(400, 5)
    quotas = quotas_of(labels, 5, 200)
    expected = by_tuples(scores, ids, 200, labels, quotas)
    np.save(tmp_path / "scores.npy", scores)
    wide = np.zeros((400, 3), np.float32)
    wide[:, 1] = scores
    frozen = scores.copy()
    frozen.setflags(write=False)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    layouts: list[NDArray[Any]] = [scores, wide[:, 1], frozen, mapped, scores[::-1].copy()[::-1]]
    for layout in layouts:
        assert np.array_equal(select_top(layout, ids, 200, labels=labels, quotas=quotas), expected)
    for kind in (np.int8, np.uint16, np.int32, np.uint64):
        found = select_top(
            scores,
            np.repeat(ids.astype(np.int32), 2)[::2],
            200,
            labels=np.repeat(labels.astype(kind), 2)[::2],
            quotas=quotas.astype(kind),
        )
        assert np.array_equal(found, expected)


def test_torch_tensors_stay_torch_tensors() -> None:
    scores, ids, labels = example(400, 5)
    quotas = quotas_of(labels, 5, 200)
    found = select_top(
        torch.from_numpy(scores).requires_grad_(),
        torch.from_numpy(ids),
        200,
        labels=torch.from_numpy(labels).int(),
        quotas=torch.from_numpy(quotas),
    )
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.bool
    assert np.array_equal(found.numpy(), by_tuples(scores, ids, 200, labels, quotas))


def test_the_input_is_left_alone() -> None:
    scores, ids, labels = example(300, 3)
    quotas = quotas_of(labels, 3, 100)
    arrays: list[NDArray[Any]] = [scores, ids, labels, quotas]
    copies = [array.copy() for array in arrays]
    select_top(scores, ids, 100, labels=labels, quotas=quotas)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


def test_the_number_of_threads_does_not_matter() -> None:
    scores, ids, labels = example(300_000, 11)
    scores = np.round(scores, 2)
    quotas = quotas_of(labels, 11, 100_000)
    before = numba.get_num_threads()
    results: list[NDArray[np.bool_]] = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(select_top(scores, ids, 100_000, labels=labels, quotas=quotas))
            assert numba.get_num_threads() == threads
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(results[0], results[1])


# ---- properties

values = st.sampled_from([NAN, -INF, -2.0, -0.0, 0.0, 1e-40, 1.0, 3.5, INF])
rows = st.lists(st.tuples(values, st.integers(-3, 3), st.integers(0, 2)), min_size=1, max_size=25)


@given(rows, st.data())
def test_any_rows_agree_with_sorting(
    drawn: list[tuple[float, int, int]], data: st.DataObject
) -> None:
    scores = np.array([row[0] for row in drawn], np.float32)
    ids = np.array([row[1] for row in drawn])
    labels = np.array([row[2] for row in drawn])
    quotas = np.array(data.draw(st.lists(st.integers(0, 9), min_size=3, max_size=3)))
    count = data.draw(st.integers(0, len(drawn)))
    seed = data.draw(st.integers(-(2**65), 2**65))
    assert np.array_equal(
        select_top(scores, ids, count, seed=seed), by_tuples(scores, ids, count, seed=seed)
    )
    if quotas.sum() <= count:
        found = select_top(scores, ids, count, labels=labels, quotas=quotas, seed=seed)
        assert np.array_equal(found, by_tuples(scores, ids, count, labels, quotas, seed))


@given(st.lists(values, min_size=1, max_size=30), st.data())
def test_a_permutation_keeps_the_same_examples(drawn: list[float], data: st.DataObject) -> None:
    scores, ids = np.array(drawn, np.float32), np.arange(len(drawn)) * 7
    labels = ids % 3
    order = np.array(data.draw(st.permutations(range(len(drawn)))))
    count = data.draw(st.integers(0, len(drawn)))
    quotas = np.full(3, count // 3)
    plain = select_top(scores, ids, count, labels=labels, quotas=quotas)
    permuted = select_top(scores[order], ids[order], count, labels=labels[order], quotas=quotas)
    assert np.array_equal(permuted, plain[order])


@given(st.lists(values, min_size=1, max_size=30), st.integers(0, 2**64))
def test_a_smaller_selection_lies_within_a_larger_one(drawn: list[float], seed: int) -> None:
    scores, ids = np.array(drawn, np.float32), np.arange(len(drawn))
    before = np.zeros(len(drawn), np.bool_)
    for count in range(len(drawn) + 1):
        kept = select_top(scores, ids, count, seed=seed)
        assert kept.sum() == count
        assert (kept | ~before).all()
        before = kept


# ---- what is refused

SCORES, IDS, LABELS = np.zeros(3, np.float32), np.arange(3), np.array([0, 1, 1])
QUOTAS = np.array([1, 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": SCORES.astype(float)}, TypeError, "scores: expected float32, found float64"),
        ({"scores": SCORES.astype(np.float16)}, TypeError, "expected float32, found float16"),
        ({"scores": SCORES.tolist()}, TypeError, "scores: .* found list"),
        ({"scores": SCORES[None]}, ValueError, r"scores: .* found \(1, 3\)"),
        (
            {"scores": np.broadcast_to(np.float32(0), (2**32,)), "ids": IDS},
            ValueError,
            "at most 4294967295 rows, found 4294967296",
        ),
        ({"ids": IDS.astype(np.uint64)}, TypeError, "ids: expected int64 or int32, found uint64"),
        ({"ids": IDS.astype(np.int16)}, TypeError, "ids: .* found int16"),
        ({"ids": IDS[:2]}, ValueError, r"ids: expected shape \(3,\), found \(2,\)"),
        ({"ids": torch.arange(3)}, TypeError, "ids: .* numpy as scores is, found one of torch"),
        ({"count": -1}, ValueError, "count: expected 0 to 3, found -1"),
        ({"count": 4}, ValueError, "count: expected 0 to 3, found 4"),
        ({"count": 2.0}, TypeError, "count: expected an integer, found 2.0"),
        ({"count": True}, TypeError, "count: expected an integer, found True"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer, found 0.5"),
        ({"scores": np.ma.masked_array(SCORES)}, TypeError, "scores: .* without a mask"),
        ({"quotas": None}, TypeError, "expected both or neither"),
        ({"labels": None}, TypeError, "expected both or neither"),
        ({"labels": LABELS.astype(float)}, TypeError, "labels: .* found float64"),
        ({"labels": LABELS[:2]}, ValueError, r"labels: expected shape \(3,\), found \(2,\)"),
        ({"labels": LABELS - 1}, ValueError, "labels: .* from 0 to 1, found -1 to 0"),
        ({"labels": LABELS + 1}, ValueError, r"labels: .* from 0 to 1, found 1 to 2 \(quotas: 2\)"),
        ({"quotas": QUOTAS > 0}, TypeError, "quotas: .* found bool"),
        ({"quotas": QUOTAS[None]}, ValueError, r"quotas: .* found \(1, 2\)"),
        ({"quotas": QUOTAS - 2}, ValueError, "quotas: .* from 0 to 2, found -1 to -1"),
        ({"quotas": QUOTAS + 1}, ValueError, "quotas: .* sum of at most count, 2, found 4"),
        ({"quotas": QUOTAS + 2**62}, ValueError, "quotas: .* from 0 to 2"),
        (
            {"quotas": np.broadcast_to(np.int64(0), (2**22 + 1,))},
            ValueError,
            "at most 4194304 classes, found 4194305",
        ),
    ],
)
def test_unusable_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    usable: dict[str, Any] = {
        "scores": SCORES,
        "ids": IDS,
        "count": 2,
        "labels": LABELS,
        "quotas": QUOTAS,
    }
    assert select_top(**usable).sum() == 2
    with pytest.raises(error, match=message):
        select_top(**usable | change)

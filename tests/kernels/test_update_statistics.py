from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis_kernels.reference.update_statistics import Presentation
from tamis_kernels.reference.update_statistics import update_statistics as exact_statistics
from tamis_kernels.row_scores import RowScores
from tamis_kernels.update_statistics import Statistics, new_statistics, update_statistics

QUANTITIES = ("loss", "el2n", "margin", "entropy", "p_label")
COUNTERS = ("count", "forgetting", "first_learned", "last_correct")
TRACKED = ("el2n", "margin", "p_label")


def scores(correct: Any, **values: Any) -> RowScores:
    """Only what is given; the other fields must not be looked at."""
    floats = {name: np.asarray(value, np.float32) for name, value in values.items()}
    fields: dict[str, Any] = dict.fromkeys(QUANTITIES) | floats
    return RowScores(**fields, correct=np.asarray(correct, bool))


def presented(rng: np.random.Generator, run: int, epoch: int, n: int, b: int) -> Presentation:
    values = {name: rng.standard_normal(b).astype(np.float32) for name in TRACKED}
    return Presentation(run, epoch, rng.integers(0, n, b), rng.random(b) < 0.6, values)


def replayed(state: Statistics, history: list[Presentation]) -> Statistics:
    run = history[0].run if history else 0
    for shown in history:
        if shown.run != run:
            state.begin_run()
            run = shown.run
        state.begin_epoch(shown.epoch)
        update_statistics(state, shown.example_ids, scores(shown.correct, **shown.values))
    return state


def check(state: Statistics, expected: dict[str, NDArray[Any]]) -> None:
    for name in COUNTERS:
        assert getattr(state, name).tolist() == expected[name].tolist(), name
    for name in state.tracked:
        mean, variance = expected[f"{name}_mean"], expected[f"{name}_variance"]
        slack = 1e-6 * np.nan_to_num(np.sqrt(variance)).max()  # of means that cancel
        found = state.mean(name)
        assert found.dtype == state.variance(name).dtype == state.sum(name).dtype == np.float32
        np.testing.assert_allclose(found, mean, 1e-6, slack, err_msg=name)
        np.testing.assert_allclose(state.variance(name), variance, 1e-4, 1e-12, err_msg=name)
        np.testing.assert_allclose(
            state.sum(name), mean * expected["count"], 1e-6, slack * expected["count"].max()
        )
    assert (state.claim == -1).all()


def same(a: Statistics, b: Statistics) -> None:
    for first, second in zip(a.arrays, b.arrays, strict=True):
        np.testing.assert_array_equal(first, second)  # NaN equals NaN


def test_by_hand() -> None:
    state = new_statistics(3, tracked=("margin",))
    # Example 0: learned, forgotten, learned, forgotten. Example 1: wrong, then learned in epoch 2.
    for epoch, (correct, margins) in enumerate(
        [([1, 0], [2, -1]), ([0, 0], [-1, -3]), ([1, 1], [3, 4]), ([0, 1], [-2, 4])]
    ):
        state.begin_epoch(epoch)
        update_statistics(state, np.array([0, 1]), scores(correct, margin=margins))
    assert state.count.tolist() == [4, 4, 0]
    assert state.forgetting.tolist() == [2, 0, 0]
    assert state.first_learned.tolist() == [0, 2, -1]
    assert state.last_correct.tolist() == [0, 1, 0]
    assert state.sum("margin").tolist()[:2] == [2, 4]
    assert state.mean("margin").tolist()[:2] == [0.5, 1]
    np.testing.assert_allclose(state.variance("margin")[:2], [17 / 4, 38 / 4], 1e-6)
    for values in (state.sum("margin"), state.mean("margin"), state.variance("margin")):
        assert math.isnan(values[2])  # never shown


def test_a_new_run_forgets_what_was_last_but_not_what_was_first() -> None:
    state = new_statistics(2, tracked=())
    ids = np.arange(2)
    state.begin_epoch(3)
    update_statistics(state, ids, scores([1, 1]))
    state.begin_run()
    assert state.epoch.tolist() == [0]
    update_statistics(state, ids, scores([0, 1]))  # wrong again, but in another run
    assert state.forgetting.tolist() == [0, 0]
    assert state.first_learned.tolist() == [3, 0]
    assert state.last_correct.tolist() == [0, 1]
    assert state.count.tolist() == [2, 2]


def test_the_last_row_of_an_id_counts() -> None:
    state = new_statistics(4, tracked=("el2n",))
    ids = np.array([2, 0, 2, 3, 2, 0])
    update_statistics(state, ids, scores([1, 1, 1, 0, 0, 0], el2n=[1, 2, 3, 4, 5, 6]))
    assert state.count.tolist() == [1, 0, 1, 1]
    assert state.mean("el2n")[[0, 2, 3]].tolist() == [6, 5, 4]
    assert state.first_learned.tolist() == [-1] * 4
    # The scratch is free again: a row before those of the last call.
    update_statistics(state, np.array([2]), scores([1], el2n=[7]))
    assert state.count.tolist() == [1, 0, 2, 1]
    assert state.mean("el2n")[2] == 6


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 30.0])
def test_a_thousand_presentations(spread: float) -> None:
    # Rounding to float32 a thousand times: measured 2.1e-6 and, of the narrowest, 1.3e-4.
    rng = np.random.default_rng(0)
    centres = rng.choice([-1, 1], 2000) * np.exp(rng.uniform(-20, 20, 2000))
    values = centres * (1 + spread * rng.standard_normal((1000, 2000)))
    values = values.astype(np.float32)
    state, ids = new_statistics(2000, tracked=("margin",)), np.arange(2000)
    for row in values:
        update_statistics(state, ids, scores(np.ones(2000), margin=row))
    exact = values.astype(np.float64)
    sizes = np.maximum(np.abs(exact.mean(0)), exact.std(0))
    assert (np.abs(state.mean("margin") - exact.mean(0)) / sizes).max() < 4e-6
    np.testing.assert_allclose(state.variance("margin"), exact.var(0), 1e-3)
    np.testing.assert_allclose(state.sum("margin"), exact.sum(0), 0, 4e-6 * sizes.max() * 1000)


def test_what_never_changes_has_no_variance() -> None:
    state, ids = new_statistics(5, tracked=("p_label",)), np.arange(5)
    values = np.array([0.1, 1 / 3, 0, 1e-30, 7e37], np.float32)
    for _ in range(50):
        update_statistics(state, ids, scores(np.ones(5), p_label=values))
    assert state.mean("p_label").tolist() == values.tolist()
    assert state.variance("p_label").tolist() == [0] * 5


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_value_that_is_not_finite_breaks_its_own_moments_only(broken: float, when: int) -> None:
    state = new_statistics(2, tracked=("margin", "el2n"))
    for turn in range(5):
        margin = [broken if turn == when else 1.0, 2.0]
        update_statistics(
            state, np.array([0, 1]), scores([turn % 2, 1], margin=margin, el2n=[turn, turn])
        )
    for values in (state.mean("margin"), state.variance("margin"), state.sum("margin")):
        assert np.isnan(values).tolist() == [True, False]
    assert state.mean("el2n").tolist() == state.variance("el2n").tolist() == [2, 2]
    assert state.forgetting.tolist() == [2, 0]


def test_a_variance_beyond_float32_is_infinite() -> None:
    state = new_statistics(1, tracked=("margin",))
    for value in (3e38, -3e38, 3e38):
        update_statistics(state, np.array([0]), scores([1], margin=[value]))
    assert state.variance("margin").tolist() == [math.inf]
    np.testing.assert_allclose(state.mean("margin"), [1e38], 1e-6)


def test_nothing_to_do() -> None:
    state = new_statistics(3)
    update_statistics(state, np.empty(0, np.int64), scores([], **{name: [] for name in TRACKED}))
    same(state, new_statistics(3))
    empty = new_statistics(0)
    update_statistics(empty, np.empty(0, np.int32), scores([], **{name: [] for name in TRACKED}))
    assert empty.mean("margin").shape == empty.variance("margin").shape == (0,)
    assert np.isnan([state.mean(name) for name in TRACKED]).all()


@pytest.mark.parametrize("tracked", [(), ("loss",), ("p_label", "loss"), QUANTITIES[::-1]])
def test_any_quantities_in_any_order(tracked: tuple[str, ...]) -> None:
    state = new_statistics(6, tracked)
    values = {name: np.arange(4) * 10.0 ** QUANTITIES.index(name) for name in tracked}
    for _ in range(2):
        update_statistics(state, np.array([3, 1, 5, 0]), scores([1, 0, 1, 0], **values))
    assert state.count.tolist() == [2, 2, 0, 2, 0, 2]
    for name, given_ in values.items():
        assert state.mean(name)[[3, 1, 5, 0]].tolist() == given_.tolist()
    assert sum(array.nbytes for array in state.arrays[:-1]) == 6 * state.bytes_per_example


def test_a_copy_goes_on_as_the_original_would() -> None:
    rng = np.random.default_rng(1)
    history = [presented(rng, 0, epoch, 20, 30) for epoch in range(8)]
    whole = replayed(new_statistics(20), history)
    first = replayed(new_statistics(20), history[:4])
    restored = new_statistics(20)
    for target, source in zip(restored.arrays, first.arrays, strict=True):
        target[:] = source
    same(replayed(restored, history[4:]), whole)


def test_results_are_copies() -> None:
    state, ids = new_statistics(1, tracked=("loss",)), np.array([0])
    update_statistics(state, ids, scores([1], loss=[1]))
    mean = state.mean("loss")
    update_statistics(state, ids, scores([1], loss=[3]))
    assert mean.tolist() == [1]
    assert state.mean("loss").tolist() == [2]


def test_any_memory_layout_and_id_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    shown = presented(rng, 0, 0, 50, 40)
    expected = replayed(new_statistics(50), [shown])
    table = np.zeros((40, 6), np.float32)
    table[:, ::2] = np.stack([shown.values[name] for name in TRACKED], axis=1)
    table.tofile(tmp_path / "scores")
    mapped = np.memmap(tmp_path / "scores", np.float32, "r", shape=(40, 6))
    wide = np.zeros((80,), np.int32)
    wide[::2] = shown.example_ids
    backwards = shown.correct[::-1].copy()[::-1]
    backwards.setflags(write=False)
    columns = {name: mapped[:, 2 * slot] for slot, name in enumerate(TRACKED)}
    state = new_statistics(50)
    fields: dict[str, Any] = dict.fromkeys(QUANTITIES) | columns
    update_statistics(state, wide[::2], RowScores(**fields, correct=backwards))
    same(state, expected)


def test_torch_tensors() -> None:
    rng = np.random.default_rng(3)
    shown = presented(rng, 0, 2, 50, 40)
    expected = replayed(new_statistics(50), [shown, shown])
    state = new_statistics(50, like=torch.zeros(1))
    for _ in range(2):
        state.begin_epoch(2)
        found = scores(shown.correct, **shown.values)
        tensors = {name: torch.from_numpy(getattr(found, name)) for name in (*TRACKED, "correct")}
        fields: dict[str, Any] = dict.fromkeys(QUANTITIES) | tensors
        update_statistics(state, torch.from_numpy(shown.example_ids), RowScores(**fields))
    for array, other in zip(state.arrays, expected.arrays, strict=True):
        assert isinstance(array, torch.Tensor)
        np.testing.assert_array_equal(array.numpy(), other)
    for name in TRACKED:
        for method in ("mean", "variance", "sum"):
            values = getattr(state, method)(name)
            assert values.dtype == torch.float32
            np.testing.assert_array_equal(values.numpy(), getattr(expected, method)(name))
    state.begin_run()
    assert not state.last_correct.any()


def test_the_number_of_threads_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    history = [presented(rng, 0, epoch, 9000, 20_000) for epoch in range(3)]  # several blocks
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(replayed(new_statistics(9000), history))
    finally:
        numba.set_num_threads(before)
    same(*results)
    check(results[0], exact_statistics(9000, history))


# ---- properties


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 15))
def test_any_history_agrees_with_the_reference(seed: int, n: int, b: int) -> None:
    rng = np.random.default_rng(seed)
    history = [
        presented(rng, run, epoch, n, int(rng.integers(0, b + 1)))
        for run in range(3)
        for epoch in range(4)
        for _ in range(rng.integers(0, 3))
    ]
    if history:
        check(replayed(new_statistics(n), history), exact_statistics(n, history))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_the_order_of_distinct_rows_does_not_matter(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    plain, permuted = new_statistics(n), new_statistics(n)
    for _ in range(3):
        ids, shown = rng.permutation(n), presented(rng, 0, 0, n, n)
        order = rng.permutation(n)
        update_statistics(plain, ids, scores(shown.correct, **shown.values))
        mixed = {name: values[order] for name, values in shown.values.items()}
        update_statistics(
            permuted, ids[order], scores(shown.correct[order], **mixed), distinct=True
        )
    same(plain, permuted)


@given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.integers(1, 30))
def test_repeated_ids_are_as_their_last_rows_alone(seed: int, n: int, b: int) -> None:
    rng = np.random.default_rng(seed)
    repeated, alone = new_statistics(n), new_statistics(n)
    for _ in range(3):
        shown = presented(rng, 0, 0, n, b)
        update_statistics(repeated, shown.example_ids, scores(shown.correct, **shown.values))
        last = [
            row for row in range(b) if shown.example_ids[row] not in shown.example_ids[row + 1 :]
        ]
        kept = {name: values[last] for name, values in shown.values.items()}
        update_statistics(alone, shown.example_ids[last], scores(shown.correct[last], **kept))
    same(repeated, alone)


# ---- what is refused

IDS = np.array([0, 2, 1])
GOOD = scores([1, 0, 1], el2n=[1, 2, 3], margin=[1, 2, 3], p_label=[0, 0, 1])


def changed(**fields: Any) -> RowScores:
    return RowScores(**{**GOOD.__dict__, **fields})


@pytest.mark.parametrize(
    ("ids", "given_scores", "error", "message"),
    [
        (
            IDS.astype(np.int16),
            GOOD,
            TypeError,
            "example_ids: expected int64 or int32, found int16",
        ),
        (IDS.astype(np.float32), GOOD, TypeError, "example_ids: .* found float32"),
        (IDS.tolist(), GOOD, TypeError, "example_ids: .* found list"),
        (torch.from_numpy(IDS), GOOD, TypeError, "example_ids: .* found one of torch"),
        (IDS[:, None], GOOD, ValueError, r"example_ids: expected shape \(3,\), found \(3, 1\)"),
        (np.array(1), GOOD, ValueError, r"example_ids: .* found \(\)"),
        (np.array([0, 4, 1]), GOOD, ValueError, "expected values from 0 to 3, found 0 to 4"),
        (np.array([0, -1, 1]), GOOD, ValueError, "expected values from 0 to 3, found -1 to 1"),
        (
            np.broadcast_to(np.int32(0), 2**31),
            GOOD,
            ValueError,
            "at most 2147483647 rows, found 2147483648",
        ),
        (IDS, GOOD.__dict__, TypeError, "scores: expected RowScores, found dict"),
        (IDS[:2], GOOD, ValueError, r"scores.el2n: expected shape \(2,\), found \(3,\)"),
        (IDS, changed(margin=None), TypeError, "scores.margin: .* found NoneType"),
        (IDS, changed(margin=np.ones(3)), TypeError, "scores.margin: .* found float64"),
        (IDS, changed(correct=np.ones(3, np.uint8)), TypeError, "scores.correct: .* found uint8"),
        (IDS, changed(correct=np.ones(2, bool)), ValueError, r"scores.correct: .* found \(2,\)"),
        (IDS, changed(p_label=torch.zeros(3)), TypeError, "scores.p_label: .* one of torch"),
    ],
)
def test_unusable_arguments_change_nothing(
    ids: Any, given_scores: Any, error: type[Exception], message: str
) -> None:
    state = new_statistics(4)
    with pytest.raises(error, match=message):
        update_statistics(state, ids, given_scores)
    same(state, new_statistics(4))


def test_a_state_of_another_kind_or_library() -> None:
    with pytest.raises(TypeError, match="state: expected Statistics, found dict"):
        update_statistics({}, IDS, GOOD)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected an array of torch as state\.count is"):
        update_statistics(new_statistics(4, like=torch.zeros(1)), IDS, GOOD)
    with pytest.raises(ValueError, match="example_ids: expected no value, found 0 to 2"):
        update_statistics(new_statistics(0), IDS, GOOD)


def test_unusable_statistics() -> None:
    with pytest.raises(ValueError, match="n_examples: expected 0 or more, found -1"):
        new_statistics(-1)
    with pytest.raises(TypeError, match=r"n_examples: expected an integer, found 1\.5"):
        new_statistics(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"like: .* found list"):
        new_statistics(3, like=[1.0])
    for tracked in (("margin", "gradient"), ("loss", "loss"), ("correct",)):
        with pytest.raises(ValueError, match="tracked: expected some of loss, el2n, margin"):
            new_statistics(3, tracked)
    with pytest.raises(TypeError, match="tracked: expected a tuple of names, found 'loss'"):
        new_statistics(3, "loss")
    state = new_statistics(3, tracked=("el2n",))
    for method in (state.mean, state.variance, state.sum):
        with pytest.raises(
            ValueError, match="expected one of el2n; found 'margin', which tracked="
        ):
            method("margin")
    for epoch in (-1, 2**31):
        with pytest.raises(ValueError, match=f"epoch: expected 0 to 2147483647, found {epoch}"):
            state.begin_epoch(epoch)
    with pytest.raises(TypeError, match=r"epoch: expected an integer, found 0\.5"):
        state.begin_epoch(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"forgetting": np.zeros(2, np.int32)}, ValueError, r"state.forgetting: .* found \(2,\)"),
        ({"means": np.zeros((1, 4), np.float32)}, ValueError, r"state.means: .* \(3, 4\), found"),
        ({"count": np.zeros(4)}, TypeError, "state.count: expected int32, found float64"),
        ({"m2": np.zeros((4, 3), np.float32).T}, ValueError, "state.m2: .* C-contiguous"),
        ({"count": torch.zeros(4, dtype=torch.int32)}, ValueError, "numpy on cpu, .* torch on cpu"),
        ({"epoch": np.zeros(2, np.int32)}, ValueError, r"state.epoch: expected shape \(1,\)"),
        ({"tracked": ("foo", "el2n", "margin")}, ValueError, "tracked: .* found 'foo'"),
    ],
)
def test_statistics_whose_arrays_do_not_fit_are_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        replace(new_statistics(4), **change)


def test_statistics_go_on_from_their_arrays_but_not_in_read_only_ones() -> None:
    state, again = new_statistics(4), new_statistics(4)
    update_statistics(state, IDS, GOOD)
    for array, saved in zip(again.arrays, state.arrays, strict=True):
        array[...] = saved
    for one in (state, again):
        update_statistics(one, IDS, GOOD)
    same(again, state)
    state.count.setflags(write=False)
    with pytest.raises(TypeError, match=r"state\.count: .* found a read-only one"):
        update_statistics(state, IDS, GOOD)

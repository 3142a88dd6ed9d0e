from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tamis_kernels import influence as public
from tamis_kernels.influence import influence_reduce, memorization
from tamis_kernels.reference import influence as reference

Flags = NDArray[np.bool_]

# One rounding to float32, plus what the reference's float64 means lose to cancellation.
RELATIVE, ABSOLUTE = 6.1e-8, 1e-13

SIZES = (
    (1, 3, 2),  # one model: every example is in all subsets or in none
    (2, 5, 1),
    (31, 130, 63),  # less than a word; two training examples more than a block
    (32, 128, 64),  # whole words, blocks and tiles
    (33, 7, 65),
    (256, 40, 130),  # eight words that are added up in registers
    (300, 257, 66),  # two words more
    (2085, 9, 70),  # more words than are counted in one go
)


def example(m: int, n: int, k: int, *, share: float = 0.7) -> tuple[Flags, Flags]:
    rng = np.random.default_rng((m, n, k))
    return rng.random((m, n)) < share, rng.random((m, k)) < rng.random(k)


def by_fractions(masks: Any, correct: Any) -> list[list[Fraction | None]]:
    """Influence of each training example on each test example, exactly; None without a mean."""
    rows: list[list[Fraction | None]] = []
    for i in range(masks.shape[1]):
        inside = [k for k in range(len(masks)) if masks[k, i]]
        outside = [k for k in range(len(masks)) if not masks[k, i]]
        rows.append([])
        for j in range(correct.shape[1]):
            if not inside or not outside:
                rows[-1].append(None)
                continue
            right_in, right_out = (
                Fraction(sum(int(correct[k, j]) for k in models), len(models))
                for models in (inside, outside)
            )
            rows[-1].append(right_in - right_out)
    return rows


def check(masks: Any, correct: Any, expected: tuple[NDArray[Any], NDArray[Any]]) -> None:
    found = influence_reduce(masks, correct)
    for values, wanted in zip((found.max, found.sum_abs), expected, strict=True):
        assert np.asarray(values).dtype == np.float32
        np.testing.assert_allclose(np.asarray(values), wanted, RELATIVE, ABSOLUTE)


# ---- the definition


def test_by_hand() -> None:
    # Models:      0  1  2  3
    masks = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], np.uint8)
    right = np.array([[1, 0], [1, 1], [0, 1], [0, 1]], np.uint8)
    found = influence_reduce(masks, right)
    # Example 0: both models that have it are right on test 0, neither of the others; on test 1 one
    # of two against two of two. Example 1: 1/2 − 1/2 and 1/2 − 1. Example 2 is in no subset.
    np.testing.assert_array_equal(found.max, np.array([1, 0, math.nan], np.float32))
    np.testing.assert_array_equal(found.sum_abs, np.array([1.5, 0.5, math.nan], np.float32))
    own = memorization(masks, np.array([[1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]], np.uint8))
    np.testing.assert_array_equal(own, np.array([0.5, -0.5, math.nan], np.float32))


@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_against_the_reference(m: int, n: int, k: int) -> None:
    masks, correct = example(m, n, k)
    check(masks, correct, reference.influence_reduce(masks, correct))
    own = example(m, n, n)[1]
    np.testing.assert_allclose(
        memorization(masks, own), reference.memorization(masks, own), RELATIVE, ABSOLUTE
    )


def test_memorization_is_the_influence_on_oneself() -> None:
    masks, correct = example(64, 20, 20)
    own = memorization(masks, correct)
    for i in range(20):
        alone = influence_reduce(masks[:, i : i + 1], correct[:, i : i + 1])
        assert alone.max[0] == own[i]
        assert alone.sum_abs[0] == abs(own[i])


def test_a_training_example_that_decides_a_test_example() -> None:
    masks, correct = example(400, 60, 90, share=0.5)
    correct[:, 33] = masks[:, 7]  # learned exactly where 7 was seen
    correct[:, 34] = ~masks[:, 8]  # and unlearned where 8 was
    found = influence_reduce(masks, correct)
    assert found.max[7] == 1
    assert (np.delete(found.max, 7) < 0.5).all()
    assert found.max[8] < 0.5  # the largest is signed …
    assert set(np.argsort(found.sum_abs)[-2:]) == {7, 8}  # … the sum is not


def test_every_model_the_same() -> None:
    masks = np.ones((40, 3), np.bool_)
    masks[:20, 0] = False
    for right in (False, True):
        found = influence_reduce(masks, np.full((40, 5), right))
        np.testing.assert_array_equal(found.max, np.array([0, math.nan, math.nan], np.float32))
        np.testing.assert_array_equal(found.sum_abs, np.array([0, math.nan, math.nan], np.float32))
        own = memorization(masks, np.full((40, 3), right))
        np.testing.assert_array_equal(own, np.array([0, math.nan, math.nan], np.float32))


def test_as_many_models_as_are_allowed() -> None:
    # The largest numerators: A·m and C·a beyond 2³¹, their difference just below 2³⁰.
    m = 65_535
    masks = np.zeros((m, 3), np.bool_)
    masks[: m // 2, 0], masks[: m - 1, 1], masks[:1, 2] = True, True, True
    correct = np.zeros((m, 130), np.bool_)
    correct[:, 0], correct[: m // 2, 1], correct[m // 2 :, 2] = True, True, True
    correct[:, 3:] = masks[:, :1]
    check(masks, correct, reference.influence_reduce(masks, correct))
    assert influence_reduce(masks, correct).max[0] == 1
    own = correct[:, [1, 0, 2]]
    np.testing.assert_allclose(
        memorization(masks, own), reference.memorization(masks, own), RELATIVE, ABSOLUTE
    )


# ---- sizes and shapes


def test_no_examples() -> None:
    masks, none = np.array([[1, 1], [0, 1]], np.uint8), np.empty((2, 0), np.bool_)
    found = influence_reduce(none, masks)
    assert found.max.shape == found.sum_abs.shape == (0,)
    assert memorization(none, none).shape == (0,)
    found = influence_reduce(masks, none)
    assert np.isnan(found.max).all()
    np.testing.assert_array_equal(found.sum_abs, np.array([0, math.nan], np.float32))
    largest, total = reference.influence_reduce(masks, none)
    assert np.isnan(largest).all()
    np.testing.assert_array_equal(total, [0, math.nan])


def test_any_memory_layout(tmp_path: Path) -> None:
    masks, correct = example(70, 140, 80)
    expected = reference.influence_reduce(masks, correct)
    own = reference.memorization(masks[:, :80], correct)
    np.save(tmp_path / "masks.npy", masks)
    frozen = masks.copy()
    frozen.setflags(write=False)
    mapped = np.load(tmp_path / "masks.npy", mmap_mode="r")
    wide = np.repeat(np.repeat(masks, 2, axis=0), 3, axis=1)[::2, ::3]
    layouts: list[NDArray[Any]] = [np.asfortranarray(masks), frozen, mapped, wide]
    for layout in (*layouts, masks[::-1][::-1], masks.view(np.uint8)):
        check(layout, np.asfortranarray(correct), expected)
        np.testing.assert_allclose(memorization(layout[:, :80], correct), own, RELATIVE, ABSOLUTE)


def test_torch_tensors_stay_torch_tensors() -> None:
    masks, correct = example(70, 40, 50)
    found = influence_reduce(torch.from_numpy(masks), torch.from_numpy(correct).byte())
    assert isinstance(found.max, torch.Tensor)
    expected = influence_reduce(masks, correct)
    assert np.array_equal(found.max.numpy(), expected.max)
    assert np.array_equal(found.sum_abs.numpy(), expected.sum_abs)
    own = memorization(torch.from_numpy(masks), torch.from_numpy(correct[:, :40]))
    assert isinstance(own, torch.Tensor)
    assert np.array_equal(own.numpy(), memorization(masks, correct[:, :40]))


def test_the_input_is_left_alone() -> None:
    masks, correct = example(50, 30, 30)
    copies = masks.copy(), correct.copy()
    influence_reduce(masks, correct)
    memorization(masks, correct)
    assert np.array_equal(masks, copies[0])
    assert np.array_equal(correct, copies[1])


def test_the_number_of_threads_does_not_matter() -> None:
    masks, correct = example(100, 700, 300)
    before = numba.get_num_threads()
    results: list[public.Influence] = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(influence_reduce(masks, correct))
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(results[0].max, results[1].max)
    assert np.array_equal(results[0].sum_abs, results[1].sum_abs)


# ---- properties


@st.composite
def flags(draw: st.DrawFn) -> tuple[Flags, Flags]:
    m = draw(st.integers(1, 9))
    shape = st.tuples(st.just(m), st.integers(1, 4))
    return draw(hnp.arrays(np.bool_, shape)), draw(hnp.arrays(np.bool_, shape))


@given(flags())
def test_any_flags_to_the_last_bit(drawn: tuple[Flags, Flags]) -> None:
    masks, correct = drawn
    found = influence_reduce(masks, correct)
    own = memorization(masks, np.resize(correct, masks.shape))
    exact_own = by_fractions(masks, np.resize(correct, masks.shape))
    for i, row in enumerate(by_fractions(masks, correct)):
        known = [value for value in row if value is not None]
        if not known:
            assert np.isnan([found.max[i], found.sum_abs[i], own[i]]).all()
            continue
        assert found.max[i] == np.float32(float(max(known)))
        assert found.sum_abs[i] == np.float32(float(sum(abs(value) for value in known)))
        alone = exact_own[i][i]
        assert alone is not None
        assert own[i] == np.float32(float(alone))


@given(flags(), st.data())
def test_the_order_of_models_and_test_examples_does_not_matter(
    drawn: tuple[Flags, Flags], data: st.DataObject
) -> None:
    masks, correct = drawn
    models = np.array(data.draw(st.permutations(range(len(masks)))))
    columns = np.array(data.draw(st.permutations(range(correct.shape[1]))))
    plain = influence_reduce(masks, correct)
    permuted = influence_reduce(masks[models], correct[models][:, columns])
    np.testing.assert_array_equal(permuted.max, plain.max)
    np.testing.assert_array_equal(permuted.sum_abs, plain.sum_abs)


@given(flags())
def test_wrong_for_right_turns_the_sign(drawn: tuple[Flags, Flags]) -> None:
    masks, correct = drawn
    same = np.resize(correct, masks.shape)
    np.testing.assert_array_equal(memorization(masks, ~same), -memorization(masks, same))
    np.testing.assert_array_equal(
        influence_reduce(masks, ~correct).sum_abs, influence_reduce(masks, correct).sum_abs
    )


# ---- what is refused

MASKS, RIGHT = np.zeros((4, 3), np.uint8), np.zeros((4, 3), np.bool_)


@pytest.mark.parametrize("function", [influence_reduce, memorization])
@pytest.mark.parametrize(
    ("masks", "right", "error", "message"),
    [
        (MASKS.astype(np.int8), RIGHT, TypeError, "masks: expected bool or uint8, found int8"),
        (MASKS.astype(np.float32), RIGHT, TypeError, "masks: .* found float32"),
        (MASKS.tolist(), RIGHT, TypeError, "masks: .* found list"),
        (MASKS, RIGHT.astype(np.int64), TypeError, "correct_.*: .* found int64"),
        (MASKS, torch.zeros(4, 3).bool(), TypeError, "correct_.*: .* numpy as masks is"),
        (MASKS[0], RIGHT, ValueError, r"masks: expected shape \(m, n_train\), found \(3,\)"),
        (MASKS, RIGHT[0], ValueError, r"correct_.*: expected shape \(m, n_.*\), found \(3,\)"),
        (MASKS, RIGHT[:3], ValueError, "correct_.*: expected 4 models as masks has, found 3"),
        (MASKS[:0], RIGHT[:0], ValueError, "masks: expected 1 to 65535 models, found 0"),
        (
            np.zeros((65_536, 1), np.bool_),
            np.zeros((65_536, 1), np.bool_),
            ValueError,
            "masks: expected 1 to 65535 models, found 65536",
        ),
        (MASKS + 2, RIGHT, ValueError, "masks: expected values 0 and 1, found 2"),
        (MASKS, MASKS + 255, ValueError, "correct_.*: expected values 0 and 1, found 255"),
    ],
)
def test_unusable_arguments(
    function: Any, masks: Any, right: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(masks, right)


def test_memorization_needs_the_same_examples() -> None:
    with pytest.raises(ValueError, match=r"correct_train: expected shape \(4, 3\) as masks has"):
        memorization(MASKS, RIGHT[:, :2])

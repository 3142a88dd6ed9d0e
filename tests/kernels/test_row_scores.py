from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from decimal import Decimal, localcontext
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

from compiled_loops import n_compiled
from tamis_kernels import reference, row_scores

SCORES = ("loss", "el2n", "margin", "entropy", "p_label")

# Relative error against float64 on the same (rounded) logits: what the public function promises.
TOLERANCE = dict.fromkeys(SCORES, 1e-6) | {"entropy": 6e-6}
# A unit in the last place of numbers below float32's smallest normal one, 1.2e-38.
SUBNORMAL = 1.5e-45


def smallest(name: str, n_classes: int) -> float:
    """Absolute error: a unit a class; and in the entropy p · log p of probabilities below e⁻⁸⁷."""
    return n_classes * (88 * math.exp(-87) if name == "entropy" else SUBNORMAL)


SIZES = (
    (1, 2),  # the smallest that is legal
    (2, 3),  # fewer rows than threads on most machines
    (257, 10),  # CIFAR-10; a prime number of rows does not divide among threads
    (64, 100),  # CIFAR-100
    (129, 1000),  # ImageNet
    (3, 21841),  # ImageNet-21k: a row larger than a first-level cache
    (5000, 2),  # many rows, least work in each
    (9000, 10),  # enough for several threads
    (700, 1000),
)


def example(
    n: int, c: int, dtype: type[np.floating[Any]] = np.float32, scale: float = 4.0
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    rng = np.random.default_rng((n, c))
    return (scale * rng.standard_normal((n, c))).astype(dtype), rng.integers(0, c, n)


def check(logits: Any, labels: Any, expected: dict[str, NDArray[Any]], slack: float = 1.0) -> None:
    found = row_scores(logits, labels)
    for name in SCORES:
        values = np.asarray(getattr(found, name))
        rtol = slack * TOLERANCE[name]
        assert values.dtype == np.float32
        atol = smallest(name, logits.shape[1])
        np.testing.assert_allclose(values, expected[name], rtol, atol, err_msg=name)
    correct = np.asarray(found.correct)
    assert correct.dtype == np.bool_
    assert correct.tolist() == np.asarray(expected["correct"]).tolist()


def by_torch(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The scores as one would write them in torch, in float64."""
    z, y = torch.from_numpy(logits).double(), torch.from_numpy(labels).long()
    p, one_hot = z.softmax(1), torch.nn.functional.one_hot(y, z.shape[1])
    rows = torch.arange(len(z))
    return {
        "loss": torch.nn.functional.cross_entropy(z, y, reduction="none").numpy(),
        "el2n": (p - one_hot).norm(dim=1).numpy(),
        "margin": (z[rows, y] - z.masked_fill(one_hot.bool(), -math.inf).amax(1)).numpy(),
        "entropy": -(p * z.log_softmax(1)).sum(1).numpy(),
        "p_label": p[rows, y].numpy(),
        "correct": (z.argmax(1) == y).numpy(),
    }


def by_decimal(row: list[float], label: int) -> dict[str, float]:
    """One row term by term, with so many digits that even 1 − exp(−1800) keeps sixty of them."""
    with localcontext() as context:
        context.prec = 900
        z = [Decimal(value) - Decimal(max(row)) for value in row]
        e = [value.exp() for value in z]
        total = sum(e, Decimal(0))
        p, log_p = [value / total for value in e], [value - total.ln() for value in z]
        squares = sum(((p[j] - (j == label)) ** 2 for j in range(len(z))), Decimal(0))
        return {
            "loss": float(-log_p[label]),
            "el2n": float(squares.sqrt()),
            "margin": float(z[label] - max(z[:label] + z[label + 1 :])),
            "entropy": float(-sum((a * b for a, b in zip(p, log_p, strict=True)), Decimal(0))),
            "p_label": float(p[label]),
            "correct": row.index(max(row)) == label,
        }


def stacked(rows: list[dict[str, float]]) -> dict[str, NDArray[Any]]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("n", "c"), SIZES)
def test_against_the_reference_and_torch(n: int, c: int, dtype: type[np.floating[Any]]) -> None:
    logits, labels = example(n, c, dtype)
    check(logits, labels, reference.row_scores(logits, labels))
    # Torch's p − onehot cancels in float64 too, but not at this scale of logits.
    check(logits, labels, by_torch(logits, labels), slack=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "c"), [(130, 10), (33, 1000)])
def test_torch_tensors_stay_torch_tensors(n: int, c: int, dtype: torch.dtype) -> None:
    logits, labels = example(n, c)
    tensor = torch.from_numpy(logits).to(dtype)
    expected = reference.row_scores(tensor.double().numpy(), labels)
    check(tensor, torch.from_numpy(labels), expected)
    assert isinstance(row_scores(tensor, torch.from_numpy(labels)).loss, torch.Tensor)
    # Of a training step, whose logits carry a gradient.
    check(tensor.requires_grad_(), torch.from_numpy(labels), expected)


@pytest.mark.parametrize("bits", [range(0x7C00), range(0x8000, 0xFC00)])
def test_every_half_precision_number(bits: range) -> None:
    # As the other logit of a row whose label has 0: its margin is minus the number, exactly.
    halves = np.array(bits, np.uint16).view(np.float16)
    logits = np.stack([np.zeros_like(halves), halves], axis=1)
    found = row_scores(logits, np.zeros(len(halves), np.int64))
    assert np.array_equal(found.margin, -halves.astype(np.float32))


def test_the_reference_itself_to_sixty_digits() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.1, 5.0, 60.0, 300.0):
        logits = (scale * rng.standard_normal((8, 7))).astype(np.float32)
        labels = rng.integers(0, 7, 8)
        labels[:4] = logits[:4].argmax(1)  # easy examples: where one minus p cancels
        expected = stacked(
            [by_decimal(row, y) for row, y in zip(logits.tolist(), labels, strict=True)]
        )
        found = reference.row_scores(logits, labels)
        for name in SCORES:  # 1e-60 is far below what the kernels' float32 can hold
            np.testing.assert_allclose(found[name], expected[name], 1e-13, 1e-60, err_msg=name)
        assert found["correct"].tolist() == expected["correct"].tolist()
        check(logits, labels, expected)


EDGES: dict[str, tuple[list[float], int]] = {
    "tie of two, label first": ([3.0, 3.0, 1.0], 0),
    "tie of two, label second": ([3.0, 3.0, 1.0], 1),
    "tie of all": ([0.5, 0.5, 0.5, 0.5], 2),
    "tie behind the label": ([1.0, 9.0, 1.0], 1),
    "huge and right": ([0.0, 3e38, 0.0], 1),
    "huge and wrong": ([1e30, -1e30], 1),
    "shifted far up": ([1e7, 1e7 + 1, 1e7 - 2], 1),
    "shifted far down": ([-1e7, -1e7 + 1, -1e7 - 2], 0),
    "confident and right": ([40.0, -40.0, 0.0], 0),
    "confident and wrong": ([40.0, -40.0, 0.0], 1),
    "nearly subnormal p": ([0.0, -87.0], 1),
    "p below float32": ([0.0, -200.0], 1),
    "zeros of both signs": ([0.0, -0.0], 1),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges_to_sixty_digits(edge: str) -> None:
    row, label = EDGES[edge]
    logits = np.array([row], np.float32)
    expected = by_decimal(logits[0].tolist(), label)
    check(logits, np.array([label]), stacked([expected]))


def test_by_hand() -> None:
    found = row_scores(np.log(np.array([[1, 2, 5], [4, 2, 2]], np.float32)), np.array([2, 1]))
    np.testing.assert_allclose(found.p_label, [5 / 8, 1 / 4], 1e-6)
    np.testing.assert_allclose(found.loss, [math.log(8 / 5), math.log(4)], 1e-6)
    np.testing.assert_allclose(found.el2n, [math.sqrt(14) / 8, math.sqrt(14) / 4], 1e-6)
    np.testing.assert_allclose(found.margin, [math.log(5 / 2), -math.log(2)], 1e-6)
    assert found.correct.tolist() == [True, False]


def test_the_first_of_equal_logits_is_the_prediction() -> None:
    logits = np.array([[1, 7, 7, 0]] * 4, np.float32)
    assert row_scores(logits, np.arange(4)).correct.tolist() == [False, True, False, False]


def test_very_easy_examples_do_not_tie() -> None:
    # Margins as trained networks show them; a selection among tied rows would be arbitrary.
    margins = np.linspace(20, 80, 400, dtype=np.float32)
    logits = np.zeros((400, 10), np.float32)
    logits[:, 3] = margins
    labels = np.full(400, 3)
    # In float32, log-softmax is zero for all of them, and ‖softmax − onehot‖ for every second.
    log_p = torch.from_numpy(logits).log_softmax(1)
    assert (log_p[:, 3] == 0).all()
    naive = (log_p.exp() - torch.eye(10)[3]).norm(dim=1)
    assert len(np.unique(naive.numpy())) < 250
    found = row_scores(logits, labels)
    for name in ("loss", "el2n", "entropy"):
        assert (np.diff(getattr(found, name)) < 0).all(), name
    # 9 wrong classes of probability q each: ‖·‖ = q √(9 + 81).
    np.testing.assert_allclose(found.el2n, np.exp(-margins.astype(float)) * math.sqrt(90), 1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("column", "c"), [(0, 5), (2, 5), (4, 5), (0, 100), (99, 100)])
def test_broken_rows_score_nan_and_leave_the_others_alone(
    value: float, column: int, c: int
) -> None:
    logits, labels = example(50, c)
    whole = row_scores(logits, labels)
    logits = logits.copy()
    logits[[7, 49], column] = value
    broken = row_scores(logits, labels)
    others = ~np.isin(np.arange(50), [7, 49])
    for name in SCORES:
        assert np.isnan(getattr(broken, name)[~others]).all(), name
        assert np.array_equal(getattr(broken, name)[others], getattr(whole, name)[others]), name
    assert not broken.correct[~others].any()
    assert np.array_equal(broken.correct[others], whole.correct[others])


@pytest.mark.parametrize("bits", [0x7FC00001, 0xFFC00001, 0x7F800001, 0xFFFFFFFF])
@pytest.mark.parametrize("c", [5, 100])
def test_a_nan_of_any_bits_is_a_nan(c: int, bits: int) -> None:
    logits, labels = example(6, c)
    logits.view(np.uint32)[2, c // 2] = bits
    found = row_scores(logits, labels)
    assert np.isnan(found.loss).tolist() == [False, False, True, False, False, False]
    assert not found.correct[2]


@pytest.mark.parametrize("c", [1_000, 5_000, 100_003])
def test_like_logits_do_not_drift(c: int) -> None:
    """However many lanes the CPU has: roundings of equal terms all go to one side."""
    others = np.repeat(np.linspace(-3, 0.9, 20), 2).astype(np.float32)
    logits, labels = np.tile(others[:, None], (1, c)), np.tile([1, 0], 20)
    logits[:, 0] = np.tile([1.0, 9.0], 20)
    check(logits, labels, reference.row_scores(logits, labels))


NARROWER = """
import sys
import numpy as np
from tamis_kernels import row_scores
from tamis_kernels.cpu.row_sums import STEP
with np.load(sys.argv[1]) as given:
    scores = row_scores(given["logits"], given["labels"])
np.savez(sys.argv[2], step=STEP, **vars(scores))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names CPUs of x86")
@pytest.mark.parametrize(
    ("cpu", "features", "step"), [("generic", "", 8), ("haswell", "+avx2,+fma", 16)]
)
def test_cpus_with_narrower_vectors(cpu: str, features: str, step: int, tmp_path: Path) -> None:
    logits, labels = example(40, 1000, scale=20)
    given, found = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(given, logits=logits, labels=labels)
    settings = {"CPU_NAME": cpu, "CPU_FEATURES": features, "CACHE_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", NARROWER, given, found],
        env=os.environ | {f"NUMBA_{name}": value for name, value in settings.items()},
        check=True,
    )
    expected = reference.row_scores(logits, labels)
    with np.load(found) as scores:
        assert scores["step"] == step
        for name in SCORES:
            atol = smallest(name, logits.shape[1])
            np.testing.assert_allclose(scores[name], expected[name], TOLERANCE[name], atol)


@pytest.mark.parametrize("c", [3, 100])
def test_rows_without_a_finite_logit(c: int) -> None:
    found = row_scores(np.full((2, c), -np.inf, np.float32), np.array([0, 2]))
    assert all(np.isnan(getattr(found, name)).all() for name in SCORES)
    assert not found.correct.any()


@pytest.mark.parametrize("c", [3, 100])
def test_classes_that_are_masked_out(c: int) -> None:
    # −∞ is how a class is excluded: probability 0, and nothing else changes.
    logits = np.full((3, c), -np.inf, np.float32)
    logits[:, 0], logits[:2, 1] = [1, 1, 5], 2
    labels = np.array([0, 2, 0])
    two = row_scores(logits[:1, :2], labels[:1])
    found = row_scores(logits, labels)
    for name in SCORES:
        np.testing.assert_allclose(getattr(found, name)[0], getattr(two, name)[0], 1e-7)
    assert found.loss.tolist()[1:] == [math.inf, 0]
    assert found.margin.tolist()[1:] == [-math.inf, math.inf]
    assert found.p_label.tolist()[1:] == [0, 1]
    assert found.entropy.tolist()[2] == found.el2n.tolist()[2] == 0
    assert found.correct.tolist() == [False, False, True]
    reference_scores = reference.row_scores(logits, labels)
    for name in SCORES:
        np.testing.assert_allclose(getattr(found, name), reference_scores[name], 1e-6)


def test_no_rows() -> None:
    found = row_scores(np.empty((0, 10), np.float32), np.empty(0, np.int64))
    for name in (*SCORES, "correct"):
        assert getattr(found, name).shape == (0,)


def test_any_memory_layout_and_label_type() -> None:
    logits, labels = example(40, 6)
    expected = reference.row_scores(logits, labels)
    wide = np.zeros((80, 12), np.float32)
    wide[::2, ::2] = logits
    for layout in (np.asfortranarray(logits), wide[::2, ::2], logits[::-1][::-1]):
        check(layout, labels, expected)
    for kind in (np.int8, np.uint8, np.int32, np.uint64):
        check(logits, labels.astype(kind), expected)


def test_nothing_is_compiled_again_for_read_only_arrays() -> None:
    logits, labels = example(40, 6)
    expected = reference.row_scores(logits, labels)
    check(logits, labels, expected)
    before = n_compiled()
    for array in (logits, labels):
        array.setflags(write=False)
    check(logits, labels, expected)
    assert n_compiled() == before


def test_the_input_is_left_alone() -> None:
    logits, labels = example(30, 4)
    copies = logits.copy(), labels.copy()
    row_scores(logits, labels)
    assert np.array_equal(logits, copies[0])
    assert np.array_equal(labels, copies[1])


def test_the_number_of_threads_does_not_matter() -> None:
    logits, labels = example(3001, 37)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(row_scores(logits, labels))
    finally:
        numba.set_num_threads(before)
    for name in (*SCORES, "correct"):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name)), name


@pytest.mark.parametrize("shape", [(9001, 10), (701, 100), (130, 1000)])
def test_a_row_scores_alike_in_small_and_large_batches(shape: tuple[int, int]) -> None:
    """Of little one thread takes care, by a loop that is compiled apart."""
    logits, labels = example(*shape)
    whole = row_scores(logits, labels)
    for start in range(0, len(logits), 60):
        part = row_scores(logits[start : start + 60], labels[start : start + 60])
        for name in (*SCORES, "correct"):
            expected = getattr(whole, name)[start : start + 60]
            assert np.array_equal(getattr(part, name), expected), name


# ---- properties

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(2, 9)),
    elements=st.floats(-90, 90, width=32),
)


def drawn_labels(data: st.DataObject, logits: NDArray[Any]) -> NDArray[np.int64]:
    n, c = logits.shape
    return np.array(data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)), np.int64)


@given(matrices, st.data())
def test_any_logits_agree_with_the_reference(logits: NDArray[Any], data: st.DataObject) -> None:
    labels = drawn_labels(data, logits)
    check(logits, labels, reference.row_scores(logits, labels))


@given(matrices, st.data())
def test_scores_stay_in_their_ranges(logits: NDArray[Any], data: st.DataObject) -> None:
    found = row_scores(logits, drawn_labels(data, logits))
    c = logits.shape[1]
    assert (found.loss >= 0).all()
    assert (found.el2n >= 0).all()
    assert (found.el2n <= np.float32(math.sqrt(2))).all()
    assert (found.entropy >= 0).all()
    assert (found.entropy <= math.log(c) * (1 + 1e-6)).all()
    assert (found.p_label >= 0).all()
    assert (found.p_label <= 1).all()
    assert (found.margin[found.correct] >= 0).all()
    assert (found.margin[~found.correct] <= 0).all()


@given(matrices, st.data())
def test_permuted_rows_give_permuted_scores(logits: NDArray[Any], data: st.DataObject) -> None:
    labels = drawn_labels(data, logits)
    order = np.array(data.draw(st.permutations(range(len(logits)))))
    plain, permuted = row_scores(logits, labels), row_scores(logits[order], labels[order])
    for name in (*SCORES, "correct"):
        assert np.array_equal(getattr(permuted, name), getattr(plain, name)[order]), name


@given(matrices, st.data())
def test_permuted_classes_give_the_same_scores(logits: NDArray[Any], data: st.DataObject) -> None:
    labels = drawn_labels(data, logits)
    order = np.array(data.draw(st.permutations(range(logits.shape[1]))))
    plain = row_scores(logits, labels)
    permuted = row_scores(logits[:, order], np.argsort(order)[labels])
    for name in SCORES:
        np.testing.assert_allclose(
            getattr(permuted, name),
            getattr(plain, name),
            TOLERANCE[name],
            smallest(name, 9),
            err_msg=name,
        )
    alone = (logits == logits.max(1, keepdims=True)).sum(1) == 1  # else the first one wins
    assert np.array_equal(permuted.correct[alone], plain.correct[alone])


@given(
    hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(2, 9))),
    st.integers(-1000, 1000),
    st.data(),
)
def test_a_shift_of_all_logits_changes_nothing(
    eighths: NDArray[np.int8], shift: int, data: st.DataObject
) -> None:
    # Eighths and whole shifts add up without rounding, so the scores are the same bits.
    logits = eighths.astype(np.float32) / 8
    labels = drawn_labels(data, logits)
    plain, shifted = row_scores(logits, labels), row_scores(logits + np.float32(shift), labels)
    for name in (*SCORES, "correct"):
        assert np.array_equal(getattr(shifted, name), getattr(plain, name)), name


# ---- what is refused

LOGITS, LABELS = np.zeros((3, 4), np.float32), np.array([0, 1, 3])


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (
            LOGITS.astype(np.float64),
            LABELS,
            TypeError,
            "float32 or float16 or bfloat16, found float64",
        ),
        (LOGITS.astype(np.int32), LABELS, TypeError, "logits: .* found int32"),
        (LOGITS.tolist(), LABELS, TypeError, "logits: .* found list"),
        (torch.zeros(3, 4), LABELS, TypeError, "labels: .* torch as logits is, found one of numpy"),
        (LOGITS, LABELS.astype(np.float32), TypeError, "labels: .* found float32"),
        (LOGITS, LABELS > 0, TypeError, "labels: .* found bool"),
        (LOGITS, LABELS.tolist(), TypeError, "labels: .* found list"),
        (LOGITS[0], LABELS, ValueError, r"logits: .* found \(4,\)"),
        (LOGITS[:, :1], LABELS * 0, ValueError, r"c ≥ 2.* found \(3, 1\)"),
        (LOGITS, LABELS[:2], ValueError, r"labels: expected shape \(3,\), found \(2,\)"),
        (LOGITS, LABELS[:, None], ValueError, r"labels: expected shape \(3,\), found \(3, 1\)"),
        (LOGITS[None], LABELS, ValueError, r"logits: .* found \(1, 3, 4\)"),
        (LOGITS, np.array([0, 4, 1]), ValueError, "expected values from 0 to 3, found 0 to 4"),
        (LOGITS, np.array([-1, 2, 1]), ValueError, "expected values from 0 to 3, found -1 to 2"),
        (
            LOGITS,
            np.array([2**64 - 1, 0, 0], np.uint64),
            ValueError,
            "expected values from 0 to 3, found 0 to 18446744073709551615",
        ),
    ],
)
def test_unusable_arguments(logits: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        row_scores(logits, labels)

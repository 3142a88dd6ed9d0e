from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis_kernels import reference
from tamis_kernels.reference.update_statistics import Presentation
from tamis_kernels.reference.update_statistics import update_statistics as exact_statistics
from tamis_kernels.score_and_update import score_and_update
from tamis_kernels.update_statistics import Statistics, new_statistics

TRACKED = ("el2n", "margin", "p_label")
Batch = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]


def batch(rng: np.random.Generator, n: int, b: int, c: int) -> Batch:
    logits = (3 * rng.standard_normal((b, c))).astype(np.float32)
    labels = np.where(rng.random(b) < 0.5, logits.argmax(1), rng.integers(0, c, b))
    return logits, labels, rng.integers(0, n, b)


def check(state: Statistics, epochs: list[Batch]) -> None:
    """Against the float64 definitions of both halves."""
    history = []
    for epoch, (logits, labels, ids) in enumerate(epochs):
        exact = reference.row_scores(logits, labels)
        values = {name: exact[name] for name in TRACKED}
        history.append(Presentation(0, epoch, ids, exact["correct"], values))
    expected = exact_statistics(state.n_examples, history)
    for name in ("count", "forgetting", "first_learned", "last_correct"):
        assert getattr(state, name).tolist() == expected[name].tolist(), name
    for name in TRACKED:
        np.testing.assert_allclose(state.mean(name), expected[f"{name}_mean"], 2e-6, 2e-6)
        variance = expected[f"{name}_variance"]
        np.testing.assert_allclose(state.variance(name), variance, 1e-4, 1e-11)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 15), st.integers(2, 9))
def test_any_epochs_agree_with_both_references(seed: int, n: int, b: int, c: int) -> None:
    rng = np.random.default_rng(seed)
    epochs = [batch(rng, n, b, c) for _ in range(4)]
    state = new_statistics(n)
    for epoch, (logits, labels, ids) in enumerate(epochs):
        state.begin_epoch(epoch)
        found = score_and_update(logits, labels, state, ids)
        expected = reference.row_scores(logits, labels)
        np.testing.assert_allclose(found.el2n, expected["el2n"], 2e-6)
        assert found.correct.tolist() == expected["correct"].tolist()
    check(state, epochs)


def test_one_row_and_none() -> None:
    state = new_statistics(2)
    found = score_and_update(
        np.array([[0, 2]], np.float32), np.array([1]), state, np.array([1]), distinct=True
    )
    assert found.margin.tolist() == [2]
    assert state.count.tolist() == [0, 1]
    assert state.mean("margin")[1] == 2
    empty = np.empty(0, np.int64)
    found = score_and_update(np.empty((0, 5), np.float32), empty, state, empty)
    assert found.loss.shape == found.correct.shape == (0,)
    assert state.count.tolist() == [0, 1]


def test_a_broken_row_breaks_its_own_example() -> None:
    logits = np.array([[0, 1], [0, math.nan], [0, 1]], np.float32)
    state = new_statistics(3)
    score_and_update(logits, np.array([1, 1, 0]), state, np.arange(3))
    assert np.isnan(state.mean("el2n")).tolist() == [False, True, False]
    assert state.count.tolist() == [1, 1, 1]
    assert state.first_learned.tolist() == [0, -1, -1]


def test_any_memory_layout(tmp_path: Path) -> None:
    logits, labels, ids = batch(np.random.default_rng(0), 20, 30, 6)
    expected = new_statistics(20)
    score_and_update(logits, labels, expected, ids)
    logits.tofile(tmp_path / "logits")
    mapped = np.memmap(tmp_path / "logits", np.float32, "r", shape=(30, 6))
    pairs = np.stack([labels, ids], axis=1).astype(np.int32)
    for layout in (mapped, np.asfortranarray(logits), logits[::-1][::-1]):
        state = new_statistics(20)
        score_and_update(layout, pairs[:, 0], state, pairs[:, 1])
        for first, second in zip(state.arrays, expected.arrays, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_tensors(dtype: torch.dtype) -> None:
    logits, labels, ids = batch(np.random.default_rng(1), 20, 30, 6)
    tensor = torch.from_numpy(logits).to(dtype)
    expected = new_statistics(20)
    score_and_update(tensor.float().numpy(), labels, expected, ids)
    state = new_statistics(20, like=tensor)
    found = score_and_update(
        tensor.requires_grad_(), torch.from_numpy(labels), state, torch.from_numpy(ids)
    )
    assert isinstance(found.loss, torch.Tensor)
    for first, second in zip(state.arrays, expected.arrays, strict=True):
        np.testing.assert_array_equal(first.numpy(), second)


LOGITS, LABELS, IDS = np.zeros((3, 4), np.float32), np.array([0, 1, 3]), np.array([4, 0, 2])


@pytest.mark.parametrize(
    ("logits", "labels", "ids", "error", "message"),
    [
        (LOGITS.astype(np.float64), LABELS, IDS, TypeError, "logits: .* found float64"),
        (LOGITS[0], LABELS, IDS, ValueError, r"logits: .* found \(4,\)"),
        (LOGITS[:2], LABELS, IDS, ValueError, r"example_ids \(b,\); found \(2, 4\), \(3,\)"),
        (LOGITS[:, :1], LABELS * 0, IDS, ValueError, r"logits \(b, c ≥ 2\).*; found \(3, 1\), "),
        (LOGITS, LABELS[:2], IDS, ValueError, r"labels: expected shape \(3,\), found \(2,\)"),
        (LOGITS, LABELS.astype(np.uint8), IDS, TypeError, "labels: expected int64 or int32"),
        (LOGITS, np.array([0, 4, 1]), IDS, ValueError, "labels: .* 0 to 3, found 0 to 4"),
        (LOGITS, LABELS, np.array([0, 5, 1]), ValueError, "example_ids: .* 0 to 4, found 0 to 5"),
        (LOGITS, LABELS, IDS.astype(np.int8), TypeError, "example_ids: .* found int8"),
        (torch.zeros(3, 4), LABELS, IDS, TypeError, "logits: expected an array of numpy"),
        (LOGITS, torch.zeros(3), IDS, TypeError, "labels: expected an array of numpy"),
        (LOGITS, LABELS, torch.zeros(3), TypeError, "example_ids: expected an array of numpy"),
    ],
)
def test_unusable_arguments_change_nothing(
    logits: Any, labels: Any, ids: Any, error: type[Exception], message: str
) -> None:
    state = new_statistics(5)
    with pytest.raises(error, match=message):
        score_and_update(logits, labels, state, ids)
    assert state.count.tolist() == [0] * 5
    assert (state.claim == -1).all()


def test_a_state_of_another_kind() -> None:
    with pytest.raises(TypeError, match="state: expected Statistics, found NoneType"):
        score_and_update(LOGITS, LABELS, None, IDS)  # type: ignore[arg-type]

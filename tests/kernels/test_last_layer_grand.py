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
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from compiled_loops import n_compiled
from tamis_kernels.last_layer_grand import last_layer_grand
from tamis_kernels.reference.last_layer_grand import last_layer_grand as exact_grand

TOLERANCE = 2e-6  # relative: what the public function promises

SIZES = (
    (1, 2, 1),  # the smallest that is legal
    (257, 10, 3),  # rows shorter than a vector
    (65, 100, 64),  # one row more than a thread takes at once
    (33, 1000, 513),  # a length that no vector divides
    (3, 10, 2048),  # ResNet-50
)


def example(n: int, c: int, d: int) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    rng = np.random.default_rng((n, c, d))
    logits = (4 * rng.standard_normal((n, c))).astype(np.float32)
    labels = rng.integers(0, c, n)
    labels[::2] = logits[::2].argmax(1)
    return logits, labels, rng.standard_normal((n, d)).astype(np.float32)


def by_autograd(
    weights: torch.Tensor, offsets: torch.Tensor | None, features: torch.Tensor, labels: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logits of a linear layer in float64, and the norm of each example's whole gradient."""
    logits, norms = [], []
    parameters = [weights] if offsets is None else [weights, offsets]
    for parameter in parameters:
        parameter.requires_grad_()
    for row, label in zip(features, torch.as_tensor(labels), strict=True):
        z = torch.nn.functional.linear(row, weights, offsets)
        loss = torch.nn.functional.cross_entropy(z[None], label[None])
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        logits.append(z.detach().numpy())
    return np.stack(logits), np.array(norms)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "c", "d"), [(40, 10, 7), (25, 3, 100), (10, 200, 1)])
def test_the_norm_of_the_whole_gradient(n: int, c: int, d: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(n)

    def normal(*shape: int) -> torch.Tensor:
        # Few digits, so that float32 holds the logits that float64 computes.
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (values * 16).round() / 16

    features, weights = normal(n, d), normal(c, d) / 4
    labels = torch.randint(0, c, (n,), generator=generator).numpy()
    logits, expected = by_autograd(weights, normal(c) if bias else None, features, labels)
    assert (logits.astype(np.float32) == logits).all()
    found = last_layer_grand(
        logits.astype(np.float32), labels, features.numpy().astype(np.float32), bias=bias
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, TOLERANCE)
    exact = exact_grand(logits, labels, features.numpy(), bias=bias)
    np.testing.assert_allclose(exact, expected, 1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("n", "c", "d"), SIZES)
def test_against_the_reference(
    n: int, c: int, d: int, dtype: type[np.floating[Any]], bias: bool
) -> None:
    logits, labels, features = example(n, c, d)
    features = features.astype(dtype)
    found = last_layer_grand(logits.astype(dtype), labels, features, bias=bias)
    expected = exact_grand(logits.astype(dtype), labels, features, bias=bias)
    np.testing.assert_allclose(found, expected, TOLERANCE)


def test_by_hand() -> None:
    logits = np.log(np.array([[1, 2, 5], [4, 2, 2]], np.float32))
    labels = np.array([2, 1])
    el2n = np.array([math.sqrt(14) / 8, math.sqrt(14) / 4])
    features = np.array([[3, 4], [0, 2]], np.float32)
    with_bias = last_layer_grand(logits, labels, features)
    np.testing.assert_allclose(with_bias, el2n * [math.sqrt(26), math.sqrt(5)], 1e-6)
    np.testing.assert_allclose(
        last_layer_grand(logits, labels, features, bias=False), el2n * [5, 2], 1e-6
    )


def test_very_easy_examples_do_not_tie() -> None:
    logits = np.zeros((60, 10), np.float32)
    logits[:, 3] = np.linspace(20, 60, 60)
    found = last_layer_grand(logits, np.full(60, 3), np.ones((60, 4), np.float32))
    assert (np.diff(found) < 0).all()


@pytest.mark.parametrize("size", [1e30, 3e38, 1e19, 1e-19, 1e-30, 1e-38])
def test_features_whose_squares_float32_does_not_hold(size: float) -> None:
    logits = np.array([[0, 1], [2, 0]], np.float32)
    labels = np.array([0, 0])
    features = np.full((2, 3), size, np.float32)
    features[1] = [-size / 2, 0, size / 4]
    for bias in (True, False):
        expected = exact_grand(logits, labels, features, bias=bias)
        with np.errstate(over="ignore"):
            rounded = expected.astype(np.float32)  # infinite only where the result itself is
        found = last_layer_grand(logits, labels, features, bias=bias)
        np.testing.assert_allclose(found, rounded, TOLERANCE)


def test_values_that_are_not_finite() -> None:
    logits = np.array([[0, 1], [0, math.nan], [0, 1], [0, 1], [0, -np.inf]], np.float32)
    features = np.ones((5, 2), np.float32)
    features[2, 1], features[3, 0], features[4, 0] = math.nan, -math.inf, math.inf
    found = last_layer_grand(logits, np.array([0, 0, 0, 0, 0]), features)
    assert np.isfinite(found).tolist() == [True, False, False, False, False]
    assert np.isnan(found).tolist() == [False, True, True, False, True]  # the last: 0 · infinity
    assert found[3] == math.inf


def test_no_rows_and_no_features_that_count() -> None:
    empty = last_layer_grand(
        np.empty((0, 5), np.float32), np.empty(0, np.int64), np.empty((0, 3), np.float32)
    )
    assert empty.shape == (0,)
    logits, labels, features = example(4, 3, 2)
    zeros = last_layer_grand(logits, labels, features * 0, bias=False)
    assert zeros.tolist() == [0] * 4


def test_any_memory_layout(tmp_path: Path) -> None:
    logits, labels, features = example(30, 6, 20)
    expected = last_layer_grand(logits, labels, features)
    wide = np.zeros((60, 60), np.float32)
    wide[::2, ::3] = features
    features.tofile(tmp_path / "features")
    mapped = np.memmap(tmp_path / "features", np.float32, "r", shape=(30, 20))
    before = n_compiled()
    assert last_layer_grand(logits, labels, mapped).tolist() == expected.tolist()
    assert n_compiled() == before
    for layout in (np.asfortranarray(features), wide[::2, ::3], features[::-1][::-1]):
        found = last_layer_grand(logits, labels, layout)
        np.testing.assert_allclose(found, expected, 2e-7)  # sums in another order, in float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_tensors(dtype: torch.dtype) -> None:
    logits, labels, features = (torch.from_numpy(array) for array in example(30, 6, 20))
    logits, features = logits.to(dtype), features.to(dtype)
    found = last_layer_grand(logits.requires_grad_(), labels, features)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    expected = exact_grand(
        logits.detach().double().numpy(), labels.numpy(), features.double().numpy()
    )
    np.testing.assert_allclose(found.numpy(), expected, TOLERANCE)


def test_the_number_of_threads_does_not_matter() -> None:
    arguments = example(1001, 10, 37)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(last_layer_grand(*arguments))
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(*results)


# ---- properties


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 8), st.integers(1, 9)),
        elements=st.floats(-(2.0**99), 2.0**99, width=32),
    ),
    st.booleans(),
    st.data(),
)
def test_any_features_agree_with_the_reference(
    features: NDArray[Any], bias: bool, data: st.DataObject
) -> None:
    n = len(features)
    logits, _, _ = example(n, 4, 1)
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.int64)
    found = last_layer_grand(logits, labels, features, bias=bias)
    expected = exact_grand(logits, labels, features, bias=bias)
    np.testing.assert_allclose(found, expected, TOLERANCE, 2e-45)
    order = np.array(data.draw(st.permutations(range(n))))
    permuted = last_layer_grand(logits[order], labels[order], features[order], bias=bias)
    assert np.array_equal(permuted, found[order])


# ---- what is refused

LOGITS, LABELS, FEATURES = np.zeros((3, 4), np.float32), np.arange(3), np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("logits", "labels", "features", "error", "message"),
    [
        (LOGITS, LABELS, FEATURES.astype(np.float64), TypeError, "features: .* found float64"),
        (LOGITS, LABELS, FEATURES.tolist(), TypeError, "features: .* found list"),
        (LOGITS, LABELS, torch.ones(3, 2), TypeError, "features: expected an array of numpy"),
        (LOGITS, LABELS, FEATURES[0], ValueError, r"features: expected shape \(3, d ≥ 1\), found"),
        (LOGITS, LABELS, FEATURES[:2], ValueError, r"\(3, d ≥ 1\), found \(2, 2\)"),
        (LOGITS, LABELS, FEATURES[:, :0], ValueError, r"\(3, d ≥ 1\), found \(3, 0\)"),
        (LOGITS[0], LABELS, FEATURES, ValueError, r"logits: .* found \(4,\)"),
        (LOGITS[:, :1], LABELS * 0, FEATURES, ValueError, r"logits: .* found \(3, 1\)"),
        (LOGITS.astype(np.float64), LABELS, FEATURES, TypeError, "logits: .* found float64"),
        (LOGITS, LABELS + 2, FEATURES, ValueError, "labels: .* 0 to 3, found 2 to 4"),
        (LOGITS, LABELS[:2], FEATURES, ValueError, r"labels: .* found \(2,\)"),
    ],
)
def test_unusable_arguments(
    logits: Any, labels: Any, features: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        last_layer_grand(logits, labels, features)

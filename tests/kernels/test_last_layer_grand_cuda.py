"""The CUDA source of last_layer_grand: on a CPU through the shim, and on a GPU if there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import nothing_may_wait, on_gpu, to_host
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels.cuda.last_layer_grand import launch
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.last_layer_grand import last_layer_grand
from tamis_kernels.reference.last_layer_grand import last_layer_grand as exact_grand

DTYPES = ("float32", "float16", "bfloat16")

# Rows and widths at the edges of a block (8 rows) and of a warp's step, with 16-byte loads and
# without.
SIZES = (
    (1, 1), (9, 2), (7, 8), (8, 31), (17, 32), (3, 33), (5, 127), (5, 128), (5, 136), (4, 256),
    (4, 264), (2, 1000), (2, 2049),
)  # fmt: skip


def example(n: int, d: int, dtype: str = "float32") -> NDArray[Any]:
    """Features as the kernel takes them: bfloat16 as its bits."""
    features = np.random.default_rng((n, d)).standard_normal((n, d)).astype(np.float32)
    if dtype == "bfloat16":
        return (features.view(np.uint32) >> 16).astype(np.uint16)
    return features.astype(dtype)


def as_float(features: NDArray[Any]) -> NDArray[Any]:
    if features.dtype == np.uint16:
        return (features.astype(np.uint32) << 16).view(np.float32)
    return features


def run(
    runtime: Runtime, features: NDArray[Any], dtype: str, bias: bool = True
) -> NDArray[np.float32]:
    norms: NDArray[np.float32] = runtime.empty((len(features),), "float32")
    launch(runtime, features, dtype, el2n(len(features)), norms, bias=bias)
    return norms


def el2n(n: int) -> NDArray[np.float32]:
    return np.linspace(0, 1.4, n, dtype=np.float32)


def expected(features: NDArray[Any], bias: bool = True) -> NDArray[Any]:
    h = as_float(features).astype(np.float64)
    norms: NDArray[Any] = el2n(len(h)) * np.sqrt((h**2).sum(1) + bias)
    return norms


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_every_variant_against_the_definition(n: int, d: int, dtype: str, bias: bool) -> None:
    features = example(n, d, dtype)
    forwards = run(HostRuntime(order=0), features, dtype, bias)
    np.testing.assert_allclose(forwards, expected(features, bias), 1e-7)
    for order in (1, 2):  # nothing may depend on which thread runs first
        assert np.array_equal(run(HostRuntime(order), features, dtype, bias), forwards)


@pytest.mark.parametrize("size", [1e30, 3e38, 1e-30])
def test_squares_that_float32_does_not_hold(size: float) -> None:
    features = example(9, 40)
    features *= np.float32(size) / np.abs(features).max()
    for bias in (True, False):
        with np.errstate(over="ignore"):
            rounded = expected(features, bias).astype(np.float32)
        np.testing.assert_allclose(run(HostRuntime(), features, "float32", bias), rounded, 2e-7)


def test_values_that_are_not_finite() -> None:
    features = example(5, 40)
    features[1, 3], features[2, 39], features[0, 0] = np.nan, -np.inf, np.inf  # el2n[0] is 0
    found = run(HostRuntime(), features, "float32")
    assert np.isnan(found).tolist() == [True, True, False, False, False]
    assert np.isinf(found).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("d", [7, 64])
def test_rows_that_lie_apart(d: int) -> None:
    features = example(9, d)
    wide = np.full((9, d + 4), np.nan, np.float32)
    wide[:, 1 : d + 1] = features  # not aligned to 16 bytes
    for layout in (wide[:, 1 : d + 1], np.repeat(features, 2, axis=0)[::2]):
        np.testing.assert_allclose(run(HostRuntime(), layout, "float32"), expected(features), 1e-7)


SEEDED_BUGS = (
    ("x += __shfl_xor_sync(ALL_LANES, x, step);", "x += __shfl_xor_sync(1u, x, step);", "lanes"),
    ("step = WARP / 2; step > 0", "step = WARP / 2; step > 1", "a step of the sum too few"),
    ("start < n; start += WARP * VECTOR", "start < n; start += WARP", "columns read twice"),
    ("start < n; start", "start + VECTOR < n; start", "columns left out"),
    ("sqrt(squares + more)", "sqrt(float(squares) + more)", "squares in float32"),
    ("if (lane == 0) norms[row]", "if (lane == 0 && row) norms[row]", "a row not written"),
)


@pytest.mark.parametrize(
    ("old", "new"), [bug[:2] for bug in SEEDED_BUGS], ids=[bug[2] for bug in SEEDED_BUGS]
)
def test_the_shim_shows_a_seeded_bug(old: str, new: str) -> None:
    features = example(9, 136) * np.float32(1e25)
    with pytest.raises((AssertionError, ShimError)):
        np.testing.assert_allclose(
            run(HostRuntime(edit=(old, new)), features, "float32"), expected(features), 1e-7
        )


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for dtype in DTYPES:
        for n, d in SIZES:
            features = example(n, d, dtype)
            np.testing.assert_allclose(run(runtime, features, dtype), expected(features), 1e-7)


# ---- on a GPU


def batch(n: int, d: int, dtype: str = "float32") -> tuple[NDArray[Any], ...]:
    rng = np.random.default_rng((n, d))
    logits = (4 * rng.standard_normal((n, 10))).astype(np.float32)
    labels = rng.integers(0, 10, n)
    labels[::2] = logits[::2].argmax(1)
    return logits, labels, example(n, d, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize(("n", "d"), [*SIZES, (3001, 512), (3001, 513)])
def test_on_a_gpu(n: int, d: int, library: str, dtype: str, bias: bool) -> None:
    if (library, dtype) == ("cupy", "bfloat16"):
        pytest.skip("CuPy arrays of bfloat16 need ml_dtypes")
    logits, labels, features = batch(n, d, dtype)
    found = last_layer_grand(
        on_gpu(library, logits),
        on_gpu(library, labels),
        on_gpu(library, features),
        bias=bias,
    )
    assert type(found).__module__.partition(".")[0] == library
    exact = exact_grand(logits, labels, as_float(features), bias=bias)
    np.testing.assert_allclose(to_host(found), exact, 2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_layouts_and_edges_on_a_gpu(library: str) -> None:
    logits, labels, features = batch(50, 64)
    features[1] *= np.float32(1e30)
    features[2] *= np.float32(1e-30)
    expected_ = exact_grand(logits, labels, features)
    at, labels_at = on_gpu(library, logits), on_gpu(library, labels)
    columns = on_gpu(library, np.ascontiguousarray(features.T)).T
    wide = on_gpu(library, np.pad(features, ((0, 0), (1, 3))))[:, 1:65]
    for layout in (columns, wide):
        found = last_layer_grand(at, labels_at, layout)
        np.testing.assert_allclose(to_host(found), expected_, 2e-6)
    none = last_layer_grand(at[:0], labels_at[:0], columns[:0])
    assert tuple(none.shape) == (0,)


@pytest.mark.gpu
def test_in_a_cuda_graph_without_waiting() -> None:
    import torch

    arrays = batch(512, 768)
    logits, labels, features = (on_gpu("torch", array) for array in arrays)
    last_layer_grand(logits, labels, features)  # compiles
    with nothing_may_wait():
        last_layer_grand(logits, labels, features)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = last_layer_grand(logits, labels, features)
    for target, source in zip((logits, labels, features), arrays, strict=True):
        target.copy_(torch.from_numpy(source[::-1].copy()))
    graph.replay()
    exact = exact_grand(*(array[::-1] for array in arrays))
    np.testing.assert_allclose(to_host(found), exact, 2e-6)

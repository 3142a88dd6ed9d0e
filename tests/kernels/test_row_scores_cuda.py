"""The CUDA source of row_scores: on a CPU through the shim, and on a GPU where there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpu_arrays
from gpu_arrays import nothing_may_wait, on_gpu
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels import reference, row_scores
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.cuda.row_scores import launch

SCORES = ("loss", "el2n", "margin", "entropy", "p_label")
TOLERANCE = dict.fromkeys(SCORES, 1e-6) | {"entropy": 6e-6}

# Numbers of classes at the edges of the variants, with and without loads of 16 bytes.
CLASSES = (2, 10, 16, 17, 32, 33, 100, 128, 129, 255, 256, 257, 1000, 1024, 1025, 4000, 21841)
DTYPES = ("float32", "float16", "bfloat16")


def example(n: int, c: int, dtype: str = "float32") -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Logits as the kernel takes them (bfloat16 as its bits), and labels, half of them right."""
    rng = np.random.default_rng((n, c))
    logits = (4 * rng.standard_normal((n, c))).astype(np.float32)
    labels = rng.integers(0, c, n)
    labels[::2] = logits[::2].argmax(1)
    logits[n // 2] = logits[n // 2, 0]  # a tie of all classes
    if dtype == "bfloat16":
        return (logits.view(np.uint32) >> 16).astype(np.uint16), labels
    return logits.astype(dtype), labels


def as_float(logits: NDArray[Any]) -> NDArray[Any]:
    if logits.dtype == np.uint16:
        return (logits.astype(np.uint32) << 16).view(np.float32)
    return logits


def run(runtime: Runtime, logits: NDArray[Any], labels: NDArray[Any], dtype: str) -> Any:
    outputs = [runtime.empty((len(logits),), "float32") for _ in SCORES]
    correct = runtime.empty((len(logits),), "bool")
    launch(runtime, logits, dtype, labels, (*outputs, correct))
    return SimpleNamespace(**dict(zip(SCORES, outputs, strict=True)), correct=correct)


def check(found: Any, logits: NDArray[Any], labels: NDArray[Any]) -> None:
    expected = reference.row_scores(as_float(logits), labels)
    for name in SCORES:
        np.testing.assert_allclose(
            getattr(found, name), expected[name], TOLERANCE[name], 1e-37, err_msg=name
        )
    assert found.correct.tolist() == expected["correct"].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", CLASSES)
def test_every_variant_against_the_reference(c: int, dtype: str) -> None:
    logits, labels = example(37 if c < 300 else 5, c, dtype)
    forwards = run(HostRuntime(order=0), logits, labels, dtype)
    check(forwards, logits, labels)
    for order in (1, 2):  # nothing may depend on which thread runs first
        again = run(HostRuntime(order), logits, labels, dtype)
        for name in (*SCORES, "correct"):
            assert np.array_equal(getattr(again, name), getattr(forwards, name)), name


@pytest.mark.parametrize("c", [10, 30, 100, 200, 1000, 2000])
def test_rows_that_are_not_numbers_or_have_no_label(c: int) -> None:
    logits, labels = example(12, c)
    expected = run(HostRuntime(), logits, labels, "float32")
    logits[1, c // 2] = np.nan
    logits[2, 0] = np.inf
    logits[3] = -np.inf
    logits[4, labels[4]] = np.nan
    labels[5], labels[7] = -1, c
    found = run(HostRuntime(), logits, labels, "float32")
    broken = np.isin(np.arange(12), [1, 2, 3, 4, 5, 7])
    for name in SCORES:
        assert np.isnan(getattr(found, name)[broken]).all(), name
        assert np.array_equal(getattr(found, name)[~broken], getattr(expected, name)[~broken])
    assert not found.correct[broken].any()


def test_a_hundred_thousand_like_logits() -> None:
    # Sums of like terms, one by one, drift in float32.
    logits, labels = np.full((3, 100_003), -0.2, np.float32), np.array([1, 0, 5])
    logits[:, 0] = [1.0, 9.0, 1.0]
    logits[2, 99_000:] = 4.0
    check(run(HostRuntime(), logits, labels, "float32"), logits, labels)


@pytest.mark.parametrize("c", [10, 200, 2000])
def test_classes_that_are_masked_out(c: int) -> None:
    logits, labels = example(4, c)
    logits[:, 1:] = -np.inf
    labels[:] = [0, 1, 0, c - 1]
    logits[0, c - 1] = 2.0
    check(run(HostRuntime(), logits, labels, "float32"), logits, labels)


@pytest.mark.parametrize("c", [10, 100, 1000, 3000])
def test_rows_that_lie_apart_and_small_labels(c: int) -> None:
    logits, labels = example(9, c)
    wide = np.full((9, c + 4), np.nan, np.float32)
    wide[:, 1 : c + 1] = logits  # not aligned to 16 bytes
    for stride in (wide[:, 1 : c + 1], np.repeat(logits, 2, axis=0)[::2]):
        check(run(HostRuntime(), stride, labels.astype(np.int32), "float32"), logits, labels)


SEEDED_BUGS = (
    ("    __syncthreads();\n    constexpr int N_WARPS", "    constexpr int N_WARPS", "a barrier"),
    ("raise_peak(sums, group_max<WARP>(sums.peak));", "", "the warp's largest logit"),
    ("(i / VECTOR * LANES + lane) * VECTOR", "(i / VECTOR * LANES + lane + 1) * VECTOR", "by one"),
    ("if (lane == 0) of_warp", "if (lane == 0 && threadIdx.x) of_warp", "shared memory unset"),
    (
        "    if (threadIdx.x == 0) finish(sums, row, out);",
        "    if (threadIdx.x > 99) return;\n    __syncthreads();\n"
        "    if (threadIdx.x == 0) finish(sums, row, out);",
        "threads that leave before a barrier",
    ),
    ("row < in.n_rows ? row : in.n_rows - 1, lane);", "row, lane);", "rows past the end"),
)


@pytest.mark.parametrize(("old", "new", "what"), SEEDED_BUGS[:-1])
def test_the_shim_shows_a_seeded_bug(old: str, new: str, what: str) -> None:
    logits, labels = example(5, 4000)
    found = False
    for order in (0, 1, 2):
        try:
            check(run(HostRuntime(order, (old, new)), logits, labels, "float32"), logits, labels)
        except (ShimError, AssertionError):
            found = True
    assert found, what


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for dtype in DTYPES:
        for c in (10, 30, 100, 128, 200, 256, 1000, 1001, 1500, 1501):
            logits, labels = example(3, c, dtype)
            check(run(runtime, logits, labels, dtype), logits, labels)


# ---- on a GPU


def to_host(scores: Any) -> Any:
    names = (*SCORES, "correct")
    return SimpleNamespace(**{name: gpu_arrays.to_host(getattr(scores, name)) for name in names})


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("c", CLASSES)
def test_on_a_gpu(c: int, library: str, dtype: str) -> None:
    if (library, dtype) == ("cupy", "bfloat16"):
        pytest.skip("CuPy arrays of bfloat16 need ml_dtypes")
    n = 3001 if c < 4000 else 301  # different ones, for the reference's sake
    logits, labels = example(n, c, dtype)
    rows, of_rows = np.resize(logits, (3001, c)), np.resize(labels, 3001)  # over and over
    found = row_scores(on_gpu(library, rows), on_gpu(library, of_rows))
    assert type(found.loss).__module__.partition(".")[0] == library
    everything = vars(to_host(found))
    for array in everything.values():
        assert np.array_equal(array, np.resize(array[:n], 3001), equal_nan=True)
    check(SimpleNamespace(**{name: a[:n] for name, a in everything.items()}), logits, labels)


@pytest.mark.gpu
def test_long_rows_that_rise() -> None:
    # Each value is a new largest one, and what was summed so far is scaled anew each time.
    logits, labels = example(9, 100_000)
    logits.sort(axis=1)
    check(to_host(row_scores(on_gpu("torch", logits), on_gpu("torch", labels))), logits, labels)


@pytest.mark.gpu
def test_in_a_cuda_graph_on_a_stream_of_its_own() -> None:
    import torch

    logits, labels = example(512, 1000)
    at, labels_at = on_gpu("torch", logits), on_gpu("torch", labels)
    row_scores(at, labels_at)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = row_scores(at, labels_at)
    at.copy_(torch.from_numpy(logits[::-1].copy()))
    labels_at.copy_(torch.from_numpy(labels[::-1].copy()))
    graph.replay()
    check(to_host(found), logits[::-1], labels[::-1])


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:

    logits, labels = example(512, 1000)
    at, labels_at = on_gpu("torch", logits), on_gpu("torch", labels)
    row_scores(at, labels_at)
    with nothing_may_wait():
        row_scores(at, labels_at)

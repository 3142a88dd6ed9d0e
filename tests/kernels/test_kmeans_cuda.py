"""The CUDA source of kmeans' update: on a CPU through the shim, and on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import nothing_may_wait, on_gpu
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels.cuda import kmeans as module
from tamis_kernels.cuda.kmeans import label_sums, row_norms, scratch_for
from tamis_kernels.cuda.launching import Runtime

DTYPES = ("float32", "float16", "bfloat16")

# Rows, columns, labels.
SIZES = (
    (1, 1, 1),
    (33, 4, 100),  # more labels than rows
    (512, 31, 3),  # one whole piece; columns and weights fill a warp
    (513, 32, 5),  # and one row more; the weights open a second warp
    (1500, 3, 40),  # two tiles
    (700, 257, 30),  # two blocks of columns
    (2600, 2, 1300),  # tiles grow with the labels; two steps of the scan over labels
)

Sums = tuple[NDArray[Any], NDArray[Any]]


def example(
    n: int, d: int, k: int, dtype: str = "float32"
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    """Rows as the kernel takes them (bfloat16 as its bits), labels of which some are out of range
    or used by none, and weights."""
    rng = np.random.default_rng((n, d, k))
    x = rng.standard_normal((n, d)).astype(np.float32)
    labels = rng.integers(-1, k + 1, n)
    labels[labels == k // 2] = k // 3
    labels[n // 5 : n // 2] = k - 1
    weights = rng.random(n).astype(np.float32)
    if dtype == "bfloat16":
        return (x.view(np.uint32) >> 16).astype(np.uint16), labels, weights
    return x.astype(dtype), labels, weights


def decoded(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def run(
    runtime: Runtime,
    x: NDArray[Any],
    labels: NDArray[Any],
    weights: NDArray[Any] | None,
    k: int,
    dtype: str = "float32",
) -> Sums:
    sums, totals = runtime.empty((k, x.shape[1]), "float64"), runtime.empty((k,), "float64")
    label_sums(runtime, x, dtype, labels, weights, k, sums, totals)
    return sums, totals


def check(
    found: Sums, x: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None, k: int
) -> None:
    factors = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    rows = factors[:, None] * decoded(x)
    known = (labels >= 0) & (labels < k)
    sums, sizes, totals = np.zeros((k, x.shape[1])), np.zeros((k, x.shape[1])), np.zeros(k)
    np.add.at(sums, labels[known], rows[known])
    np.add.at(sizes, labels[known], np.abs(rows[known]))
    np.add.at(totals, labels[known], factors[known])
    # Two orders of n additions in float64 differ by n·2^-53 of the sum of magnitudes at most.
    assert (np.abs(found[0] - sums) <= len(x) * 2.0**-53 * sizes).all()
    np.testing.assert_allclose(found[1], totals, len(x) * 2.0**-53)


def same(a: Sums, b: Sums) -> bool:
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "k"), SIZES)
def test_against_numpy(n: int, d: int, k: int, dtype: str) -> None:
    x, labels, weights = example(n, d, k, dtype)
    for factors in (None, weights):
        first = run(HostRuntime(0), x, labels, factors, k, dtype)
        check(first, x, labels, factors, k)
        for order in (1, 2):  # not even the last bit depends on which thread runs first
            assert same(run(HostRuntime(order), x, labels, factors, k, dtype), first)


@pytest.mark.parametrize("n", [1500, 3001])
def test_more_tiles_than_warps_that_scan_them(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels, weights = example(n, 4, 30)
    expected = run(HostRuntime(), x, labels, weights, 30)
    monkeypatch.setattr(module, "_TILE_ROWS", 32)  # 47 and 94 tiles; a GPU's count 1024 rows
    for order in (0, 1, 2):
        assert same(run(HostRuntime(order), x, labels, weights, 30), expected)


@pytest.mark.parametrize("n", [511, 1025, 3000])
@pytest.mark.parametrize("label", [0, 6])
def test_one_label_has_all_rows(n: int, label: int) -> None:
    x, labels, weights = example(n, 5, 7)
    labels[:] = label
    sums, totals = found = run(HostRuntime(2), x, labels, weights, 7)
    check(found, x, labels, weights, 7)
    others = np.arange(7) != label
    assert not sums[others].any()
    assert not totals[others].any()


def test_no_row_has_a_label() -> None:
    x, labels, weights = example(600, 5, 7)
    labels[::2], labels[1::2] = -1, 7
    sums, totals = run(HostRuntime(), x, labels, weights, 7)
    assert not sums.any()
    assert not totals.any()


def test_labels_far_out_of_range_and_gaps() -> None:
    x, labels, weights = example(1100, 3, 900)
    labels[:] = 0
    labels[600:] = 899  # both within one piece, with all the empty ones between
    labels[7], labels[8] = 2**40, -(2**63)
    check(run(HostRuntime(1), x, labels, weights, 900), x, labels, weights, 900)


def test_rows_that_lie_apart_and_small_labels() -> None:
    x, labels, weights = example(530, 20, 6)
    wide = np.full((530, 25), np.nan, np.float32)
    wide[:, 3:23] = x
    expected = run(HostRuntime(), x, labels, weights, 6)
    for rows in (wide[:, 3:23], np.repeat(x, 2, axis=0)[::2]):
        assert same(run(HostRuntime(), rows, labels.astype(np.int32), weights, 6), expected)


def test_a_piece_is_summed_in_the_order_of_the_rows() -> None:
    x = np.array([[1.0], [1e30], [-1e30], [1.0]], np.float32)
    labels = np.zeros(4, np.int64)
    for order in (0, 1, 2):
        assert run(HostRuntime(order), x, labels, None, 1)[0].tolist() == [[1.0]]
        assert run(HostRuntime(order), x[[1, 2, 0, 3]], labels, None, 1)[0].tolist() == [[2.0]]


def test_a_row_that_is_no_number_spoils_its_label_alone() -> None:
    x, labels, _ = example(700, 9, 4)
    expected = run(HostRuntime(), x, labels, None, 4)[0]
    row = int(np.flatnonzero(labels == 3)[5])
    x[row, 2] = np.nan
    sums, _ = run(HostRuntime(), x, labels, None, 4)
    assert np.isnan(sums[3, 2])
    sums[3, 2] = expected[3, 2]
    assert np.array_equal(sums, expected)


def test_scratch_is_good_for_many_calls() -> None:
    runtime = HostRuntime()
    scratch = scratch_for(runtime, 1100, 6, 50)
    sums, totals = runtime.empty((50, 6), "float64"), runtime.empty((50,), "float64")
    for seed in range(3):
        x, labels, weights = example(1100, 6, 50)
        labels = np.random.default_rng(seed).permutation(labels)
        label_sums(runtime, x, "float32", labels, weights, 50, sums, totals, scratch)
        assert same((sums, totals), run(runtime, x, labels, weights, 50))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (9, 32), (20, 257)])
def test_norms_of_rows(n: int, d: int, dtype: str) -> None:
    x, _, _ = example(n, d, 2, dtype)
    norms = HostRuntime().empty((n,), "float64")
    row_norms(HostRuntime(2), np.repeat(x, 2, axis=0)[::2], dtype, norms)
    np.testing.assert_allclose(norms, np.linalg.norm(decoded(x), axis=1), d * 2.0**-52)


# None that would write outside of its arrays: those are the sanitizers' to find.
SEEDED_BUGS = (
    ("own[j] = 0;\n    __syncthreads();", "own[j] = 0;", "a barrier: counts set to 0 too late"),
    (
        "    __syncthreads();\n    const int column",
        "    const int column",
        "a barrier: no rows yet",
    ),
    ("__popc(same & ((1u << lane) - 1))", "__popc(same >> lane) - 1", "the order within a step"),
    ("own[label] = before + __popc(same)", "own[label] = before + 1", "rows of a step"),
    ("        before += count;\n", "", "the scan over tiles"),
    ("(warp > 0 ? others : 0) +", "0 +", "the scan over labels"),
    ("starts[middle + 1] > place", "starts[middle + 1] >= place", "the label of a place"),
    ("base += AT_ONCE)", "base += AT_ONCE + 1)", "rows passed over"),
    ("(end - 1) / PIECE", "end / PIECE", "a piece too many"),
)


@pytest.mark.parametrize(("old", "new", "what"), SEEDED_BUGS)
def test_the_shim_shows_a_seeded_bug(
    old: str, new: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TILE_ROWS", 32)
    x, labels, weights = example(2400, 3, 70)
    labels[:1024] = 0  # two pieces end where the label does
    labels[1024:] = labels[1024:].clip(1)
    expected = run(HostRuntime(), x, labels, weights, 70)
    check(expected, x, labels, weights, 70)
    for order in (2, 1, 0):
        try:
            if not same(run(HostRuntime(order, (old, new)), x, labels, weights, 70), expected):
                return
        except ShimError:
            return
    pytest.fail(what)


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for dtype in DTYPES:
        for n, d, k in ((1, 1, 1), (33, 4, 100), (513, 32, 5), (1300, 257, 3), (1400, 2, 1300)):
            x, labels, weights = example(n, d, k, dtype)
            for factors in (None, weights):
                check(run(runtime, x, labels, factors, k, dtype), x, labels, factors, k)
            norms = runtime.empty((n,), "float64")
            row_norms(runtime, x, dtype, norms)
            np.testing.assert_allclose(norms, np.linalg.norm(decoded(x), axis=1), d * 2.0**-52)


# ---- on a GPU


def gpu_runtime(array: Any) -> Runtime:
    from tamis_kernels.arrays import place_of
    from tamis_kernels.cuda.cupy_door import CupyRuntime

    return CupyRuntime(place_of(array=array))


def host(array: Any) -> NDArray[Any]:
    copied: NDArray[Any] = array.get() if hasattr(array, "get") else array.cpu().numpy()
    return copied


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize(("n", "d", "k"), [*SIZES, (200_003, 70, 1000), (50_000, 2048, 10)])
def test_on_a_gpu_the_same_bits_as_on_the_cpu(
    n: int, d: int, k: int, library: str, dtype: str
) -> None:
    x, labels, weights = example(n, d, k, dtype)
    rows = on_gpu(library, x)
    runtime = gpu_runtime(rows)
    for factors in (None, weights):
        on_device = None if factors is None else on_gpu(library, factors)
        sums, totals = run(runtime, rows, on_gpu(library, labels), on_device, k, dtype)
        found = host(sums), host(totals)
        check(found, x, labels, factors, k)
        again = run(runtime, rows, on_gpu(library, labels), on_device, k, dtype)
        assert same(found, (host(again[0]), host(again[1])))
        if n * d < 200_000:
            assert same(found, run(HostRuntime(), x, labels, factors, k, dtype))


@pytest.mark.gpu
def test_in_a_cuda_graph() -> None:
    import torch

    x, labels, weights = example(5000, 40, 30)
    rows, of_rows, factors = (on_gpu("torch", array) for array in (x, labels, weights))
    runtime = gpu_runtime(rows)
    scratch = scratch_for(runtime, 5000, 40, 30)
    sums, totals = runtime.empty((30, 40), "float64"), runtime.empty((30,), "float64")

    def update() -> None:
        label_sums(runtime, rows, "float32", of_rows, factors, 30, sums, totals, scratch)

    update()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    rows.copy_(torch.from_numpy(x[::-1].copy()))
    graph.replay()
    check((host(sums), host(totals)), x[::-1], labels, weights, 30)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:

    x, labels, weights = example(5000, 40, 30)
    rows, of_rows, factors = (on_gpu("torch", array) for array in (x, labels, weights))
    runtime = gpu_runtime(rows)
    run(runtime, rows, of_rows, factors, 30)
    with nothing_may_wait():
        run(runtime, rows, of_rows, factors, 30)

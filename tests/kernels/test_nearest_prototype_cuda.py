"""The CUDA source of nearest_prototype: on a CPU through the shim, and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpu_arrays
from gpu_arrays import nothing_may_wait, on_gpu
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels import nearest_prototype, reference
from tamis_kernels.cuda import nearest_prototype as module
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.cuda.nearest_prototype import launch

METRICS = ("euclidean", "cosine")
PRECISIONS = ("bfloat16", "float32")
DTYPES = ("float32", "float16", "bfloat16")
RTOL = 1e-6

# Rows, prototypes, columns.
SIZES = (
    (37, 1, 3),  # the centre is the only prototype
    (19, 2, 1),  # one column: with cosine all is a tie
    (40, 3, 64),
    (20, 33, 100),  # loads of 16 bytes, 36 columns in the second tile of a lane
    (3, 1100, 64),  # each lane looks at more than 32 prototypes
    (9, 17, 513),  # loads of 4 bytes, a third tile of one column
    (1, 8, 512),
)

Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def example(n: int, k: int, d: int, kind: str = "iid") -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng((n, k, d))
    if kind == "iid":
        return (
            rng.standard_normal((n, d)).astype(np.float32),
            rng.standard_normal((k, d)).astype(np.float32),
        )
    # Clusters far from the origin: what a product loses without centring. Two prototypes twice.
    prototypes = 20 + rng.standard_normal((k, d)) * rng.uniform(0.1, 2, d)
    prototypes[k // 2] = prototypes[0]
    x = prototypes[rng.integers(0, k, n)] + 0.5 * rng.standard_normal((n, d))
    return x.astype(np.float32), prototypes.astype(np.float32)


def encoded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """As the kernel takes them: bfloat16 as its bits."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def decoded(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def run(
    runtime: Runtime,
    x: NDArray[Any],
    prototypes: NDArray[Any],
    metric: Any,
    precision: Any = "bfloat16",
    dtypes: tuple[str, str] = ("float32", "float32"),
) -> Found:
    n = len(x)
    outputs = (
        runtime.empty((n,), "int64"),
        runtime.empty((n,), "float32"),
        runtime.empty((n,), "float32"),
    )
    launch(runtime, x, dtypes[0], prototypes, dtypes[1], metric, outputs, precision)
    return outputs


def distances(x: NDArray[Any], prototypes: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """All of them, one prototype at a time, by the reference."""
    one = [reference.nearest_prototype(x, p[None], metric)[1] for p in prototypes]  # type: ignore[arg-type]
    return np.stack(one, axis=1)


def check(
    found: Sequence[NDArray[Any]], x: NDArray[Any], prototypes: NDArray[Any], metric: str
) -> None:
    """The index is float64's; only where float64 sees no difference, another may be as near."""
    index, distance, second = found
    table = distances(decoded(x), decoded(prototypes), metric)
    expected = np.sort(table, axis=1)
    noise = 1e-13 * expected[:, 0] + 1e-30
    assert ((index >= 0) & (index < len(prototypes))).all()
    chosen = table[np.arange(len(x)), index]
    assert (chosen <= expected[:, 0] + noise).all()
    np.testing.assert_allclose(distance, expected[:, 0], RTOL, 1e-30)
    if len(prototypes) == 1:
        assert np.isinf(second).all()
    else:
        np.testing.assert_allclose(second, expected[:, 1], RTOL, 1e-30)
    # Of equal prototypes the first.
    for j in set(index.tolist()):
        assert (decoded(prototypes[:j]) != decoded(prototypes[j])).any(axis=1).all(), j


def same(a: Found, b: Found) -> bool:
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "k", "d"), SIZES)
def test_every_size_against_the_reference(n: int, k: int, d: int, metric: str) -> None:
    for kind in ("iid", "clusters") if k < 1000 else ("clusters",):
        x, prototypes = example(n, k, d, kind)
        first = run(HostRuntime(0), x, prototypes, metric)
        check(first, x, prototypes, metric)
        for order in (1, 2) if k < 1000 else (2,):  # nothing may depend on which thread runs first
            assert same(run(HostRuntime(order), x, prototypes, metric), first)
        # Products propose, they do not decide.
        assert k >= 1000 or same(run(HostRuntime(), x, prototypes, metric, "float32"), first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("of_prototypes", DTYPES)
def test_every_pair_of_dtypes(dtype: str, of_prototypes: str) -> None:
    x, prototypes = example(11, 21, 67 if dtype == of_prototypes else 64, "clusters")
    x, prototypes = encoded(x, dtype), encoded(prototypes, of_prototypes)
    for metric in METRICS:
        found = run(HostRuntime(2), x, prototypes, metric, dtypes=(dtype, of_prototypes))
        check(found, x, prototypes, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_lie_apart(metric: str) -> None:
    x, prototypes = example(9, 12, 32)
    wide = np.full((9, 37), np.nan, np.float32)
    wide[:, 1:33] = x  # not aligned to 16 bytes
    far = np.full((12, 50), np.nan, np.float32)
    far[:, 3:35] = prototypes
    expected = run(HostRuntime(), x, prototypes, metric)
    for rows in (wide[:, 1:33], np.repeat(x, 3, axis=0)[::3]):
        for columns in (prototypes, far[:, 3:35]):
            found = run(HostRuntime(), rows, columns, metric)
            check(found, x, prototypes, metric)
            assert np.array_equal(found[0], expected[0])


@pytest.mark.parametrize("metric", METRICS)
def test_chunks(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, prototypes = example(23, 10, 20, "clusters")
    expected = run(HostRuntime(), x, prototypes, metric)
    for chunk_bytes in (1, 700, 2000):  # rows one by one, five and a remainder, …
        monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
        assert same(run(HostRuntime(), x, prototypes, metric), expected)


# ---- what products cannot tell


class WorstProduct(HostRuntime):
    """Products as wrong as their bound allows, against the nearest two prototypes of each row.

    Args:
        table: (n, k) distances.
        factor: Of the error.
    """

    def __init__(self, table: NDArray[Any], factor: float) -> None:
        super().__init__()
        self._signs = np.where(table <= np.sort(table, axis=1)[:, 1:2], -factor, factor)

    def product(self, a: Any, b: Any, out: Any) -> None:
        super().product(a, b, out)
        left, right = decoded(a).astype(np.float64), decoded(b).astype(np.float64)
        sizes = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
        k = self._signs.shape[1]
        # 1.25·d truncations; the bound's other 24 are the kernel's own roundings.
        out[:, :k] += self._signs * 1.25 * a.shape[1] * 2.0**-23 * sizes[:, :k]


def graded(d: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows far from the centre, each with 24 prototypes at distances that grow in small steps."""
    rng = np.random.default_rng(5)
    x = np.concatenate([np.full((1, d), 1.0), np.full((1, d), -1.0)])
    x += 0.1 * rng.standard_normal((2, d))
    away = rng.standard_normal((2, 24, d))
    away /= np.linalg.norm(away, axis=2, keepdims=True)
    squares = 1 + np.linspace(0, 0.05, 24)
    prototypes = x[:, None] + away * np.sqrt(squares)[:, None]
    return x.astype(np.float32), prototypes.reshape(48, d).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_worst_product_changes_nothing(metric: str, precision: str) -> None:
    x, prototypes = graded(256)
    exact = run(HostRuntime(), x, prototypes, metric, precision)
    check(exact, x, prototypes, metric)
    table = distances(x, prototypes, metric)
    assert same(run(WorstProduct(table, 1), x, prototypes, metric, precision), exact)
    if precision == "float32":  # whose bound is little else: twice the error is beyond it
        assert not same(run(WorstProduct(table, 2), x, prototypes, metric, precision), exact)


@pytest.mark.parametrize("metric", METRICS)
def test_gaps_below_float32(metric: str) -> None:
    # Pairs of prototypes at ± the same step from a row, the later nearer by one part in 1e8.
    rng = np.random.default_rng(1)
    x = rng.integers(-3000, 3000, (6, 24)).astype(np.float32)
    prototypes = np.concatenate([x - 1024.0, x + 1024.0]).astype(np.float32)
    prototypes[6:, 0] -= np.float32(2**-12)
    index, distance, second = found = run(HostRuntime(), x, prototypes, metric)
    check(found, x, prototypes, metric)
    expected = distances(x, prototypes, metric).argmin(axis=1)
    assert index.tolist() == expected.tolist()
    if metric == "euclidean":
        assert index.tolist() == list(range(6, 12))
        np.testing.assert_array_equal(distance, second)  # in float32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [2, 40, 200])
def test_prototypes_that_are_all_equal(k: int, metric: str) -> None:
    x, prototypes = example(3, k, 10)
    prototypes[:] = prototypes[0]
    found = run(HostRuntime(), x, prototypes, metric)
    assert found[0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(found[1], found[2])
    check(found, x, prototypes, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_prototypes(metric: str) -> None:
    _, prototypes = example(1, 30, 50, "clusters")
    index, distance, _ = run(HostRuntime(), prototypes.copy(), prototypes, metric)
    assert index.tolist() == [*range(15), 0, *range(16, 30)]  # the one in the middle is the first
    assert not distance.any()


def test_exact_ties_go_to_the_lowest_index() -> None:
    # Corners of a cube around the row: all distances are the same sum of the same squares.
    corners = np.array([[i >> bit & 1 for bit in range(5)] for i in range(32)], np.float32) * 2 - 1
    x = np.zeros((3, 5), np.float32)
    x[1, 2] = 0.5  # ties within one half of the corners
    x[2, 4] = -0.25
    index, distance, second = run(HostRuntime(), x, corners, "euclidean")
    assert index.tolist() == [0, 4, 0]
    np.testing.assert_array_equal(distance, second)
    # The axes: 1 − cos is the same for all of a row's positive coordinates.
    index, *_ = run(
        HostRuntime(), np.ones((2, 7), np.float32), np.eye(7, dtype=np.float32), "cosine"
    )
    assert index.tolist() == [0, 0]


def test_directions_of_any_length() -> None:
    _, directions = example(1, 6, 12)
    prototypes = np.concatenate([directions, 2 * directions])
    x = np.concatenate([directions * 8, directions * np.float32(1e-4)])
    index, distance, second = run(HostRuntime(), x, prototypes, "cosine")
    assert index.tolist() == [*range(6), *range(6)]
    assert (distance < 1e-14).all()
    assert (second < 1e-14).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-20, 1e-8, 1e8, 1e15, 1e18, 1e37])
def test_any_magnitude(scale: float, metric: str) -> None:
    x, prototypes = example(6, 9, 21)
    x, prototypes = x * np.float32(scale), prototypes * np.float32(scale)
    found = run(HostRuntime(), x, prototypes, metric)
    if metric == "euclidean" and scale < 1e-37:  # the distances are subnormal in float32
        assert found[0].tolist() == distances(x, prototypes, metric).argmin(axis=1).tolist()
    else:
        check(found, x, prototypes, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_far_outliers(metric: str) -> None:
    x, prototypes = example(12, 20, 30)
    x[3] *= 1e12
    x[5, 7] = 3e38
    x[6] *= 1e-30
    x[7] *= 1e-42
    prototypes[4] *= 1e6
    prototypes[9, 0] = 1e18
    check(run(HostRuntime(), x, prototypes, metric), x, prototypes, metric)
    prototypes[11] *= 1e-30  # with cosine, products are of no use any more
    check(run(HostRuntime(), x, prototypes, metric), x, prototypes, metric)
    prototypes[12, 1] = -3e38  # nor with the other, whose centre is 1e37 away
    check(run(HostRuntime(), x, prototypes, metric), x, prototypes, metric)


def test_float16_at_its_limits() -> None:
    x, prototypes = example(8, 9, 700)
    x, prototypes = x * 20000, prototypes * 20000
    np.clip(x, -65504, 65504, out=x)
    np.clip(prototypes, -65504, 65504, out=prototypes)
    halves, table = x.astype(np.float16), prototypes.astype(np.float16)
    for metric in METRICS:
        found = run(HostRuntime(), halves, table, metric, dtypes=("float16", "float16"))
        check(found, halves, table, metric)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_no_vectors(metric: str, k: int) -> None:
    x, prototypes = example(10, k, 40)
    expected = run(HostRuntime(), x, prototypes, metric)
    x[1, 39] = np.nan
    x[2, 0], x[2, 5] = np.inf, np.nan
    x[4, 3] = -np.inf
    x[7] = 0
    index, distance, second = run(HostRuntime(), x, prototypes, metric)
    nothing = [1, 2, 4, 7] if metric == "cosine" else [1, 2]
    others = np.setdiff1d(np.arange(10), [1, 2, 4, 7])
    assert not index[[1, 2, 4]].any()
    assert np.isnan(distance[nothing]).all()
    assert (np.isinf(second) if k == 1 else np.isnan(second))[nothing].all()
    if metric == "euclidean":
        assert distance[4] == second[4] == np.inf
        check([index[7:8], distance[7:8], second[7:8]], x[7:8], prototypes, metric)
    for a, b in zip((index, distance, second), expected, strict=True):
        assert np.array_equal(a[others], b[others])


@pytest.mark.parametrize(("metric", "value"), [("euclidean", np.nan), ("cosine", np.inf)])
def test_a_prototype_that_is_no_vector(metric: str, value: float) -> None:
    x, prototypes = example(6, 7, 8)
    prototypes[3, 2] = value
    index, distance, second = run(HostRuntime(), x, prototypes, metric)
    assert not index.any()
    assert np.isnan(distance).all()
    assert np.isnan(second).all()


def test_a_prototype_without_a_direction() -> None:
    x, prototypes = example(6, 7, 8)
    prototypes[3] = 0
    check(run(HostRuntime(), x, prototypes, "euclidean"), x, prototypes, "euclidean")
    assert np.isnan(run(HostRuntime(), x, prototypes, "cosine")[1]).all()


SEEDED_BUGS = (
    ("chunk.rows[row].slope, -INF,", "0.0f, -INF,", "the bound"),
    ("    query.threshold = second;", "    query.threshold = best;", "the second's bound"),
    ("column < n_columns ? to_float(row[column])", "true ? to_float(row[column])", "a row's end"),
    ("[lane] = total;\n    __syncthreads();", "[lane] = total;", "a barrier"),
    ("            if (j + i >= n_prototypes) continue;", "", "prototypes of the padding"),
    ("value == found.first && j < found.index", "false", "the lowest index"),
    ("__float_as_uint(v[i + k]) >> 16", "__float_as_uint(v[i + k]) >> 17", "bfloat16"),
    ("j += WARP * OWNED) {", "j += 2 * WARP * OWNED) {", "prototypes passed over"),
    ("start += WARP * WARP) {", "start += 2 * WARP * WARP) {", "candidates passed over"),
)


def telling_cases() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Inputs that need every line: near ties, equal prototypes far apart, the last one nearest."""
    rng = np.random.default_rng(8)
    prototypes = (rng.standard_normal(45) + 0.01 * rng.standard_normal((190, 45))).astype(
        np.float32
    )
    prototypes[130] = prototypes[5]  # the later one is looked at first
    prototypes[0] += 100
    x = prototypes[[5, 189, 7, 8, 9, 10, 11, 12, 13]]
    x[1:] += (0.01 * rng.standard_normal((8, 45))).astype(np.float32)
    x[8] = prototypes.mean(axis=0)  # nearer to the centre, as the padding is, than to prototypes
    yield x, prototypes
    x, prototypes = example(2, 1100, 3)
    x[1] = prototypes[1099]
    yield x, prototypes


@pytest.mark.parametrize(("old", "new", "what"), SEEDED_BUGS)
def test_the_shim_shows_a_seeded_bug(old: str, new: str, what: str) -> None:
    for x, prototypes in telling_cases():
        expected = run(HostRuntime(), x, prototypes, "euclidean")
        check(expected, x, prototypes, "euclidean")
        for order in (2, 1, 0):
            try:
                result = run(HostRuntime(order, (old, new)), x, prototypes, "euclidean")
            except ShimError:
                return
            if not same(result, expected):
                return
    pytest.fail(what)


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for dtype in DTYPES:
        for n, k, d in ((3, 1, 1), (9, 13, 8), (5, 35, 259), (1, 8, 264)):
            x, prototypes = (encoded(a, dtype) for a in example(n, k, d, "clusters"))
            for metric, precision in zip(METRICS, PRECISIONS, strict=True):
                found = run(runtime, x, prototypes, metric, precision, (dtype, dtype))
                check(found, x, prototypes, metric)
    x, prototypes = example(2, 1100, 3)
    prototypes[:100] = prototypes[0]
    x[0] = prototypes[50]
    for metric in METRICS:
        check(run(runtime, x, prototypes, metric), x, prototypes, metric)
    x[0, 0], x[1] = np.nan, 0
    run(runtime, x, prototypes[:5], "cosine")


# ---- on a GPU


def to_host(found: Any) -> Found:
    host = gpu_arrays.to_host
    return host(found.index), host(found.distance), host(found.second_distance)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), [(1, 3), (10, 64), (100, 513), (1000, 384), (300, 2048)])
def test_on_a_gpu(k: int, d: int, metric: Any, library: str, dtype: str) -> None:
    if (library, dtype) == ("cupy", "bfloat16"):
        pytest.skip("CuPy arrays of bfloat16 need ml_dtypes")
    for kind in ("iid", "clusters"):
        n = 701 if k * d < 100_000 else 101  # different ones, for the reference's sake
        x, prototypes = (encoded(a, dtype) for a in example(n, k, d, kind))
        rows = np.resize(x, (701, d))  # over and over
        found = nearest_prototype(on_gpu(library, rows), on_gpu(library, prototypes), metric)
        assert type(found.index).__module__.partition(".")[0] == library
        everything = to_host(found)
        for array in everything:
            assert np.array_equal(array, np.resize(array[:n], 701), equal_nan=True)
        check([array[:n] for array in everything], x, prototypes, metric)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("metric", METRICS)
def test_on_a_gpu_neither_product_nor_chunk_changes_the_result(
    library: str, metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis_kernels.arrays import place_of
    from tamis_kernels.cuda.cupy_door import CupyRuntime

    x, prototypes = example(20_011, 100, 200, "clusters")
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1 << 20)
    x[:9000] = x[:1]  # equal rows have equal results, in whichever chunk and tile they are
    rows, table = on_gpu(library, x), on_gpu(library, prototypes)
    runtime = CupyRuntime(place_of(x=rows))
    results = []
    for precision in PRECISIONS:
        outputs = (
            runtime.empty((len(x),), "int64"),
            runtime.empty((len(x),), "float32"),
            runtime.empty((len(x),), "float32"),
        )
        launch(runtime, rows, "float32", table, "float32", metric, outputs, precision)  # type: ignore[arg-type]
        results.append([a.get() if library == "cupy" else a.cpu().numpy() for a in outputs])
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)
        assert (one[:9000] == one[0]).all()
    check([a[8990:9500] for a in results[0]], x[8990:9500], prototypes, metric)


@pytest.mark.gpu
def test_tf32_of_the_caller_is_left_alone() -> None:
    import torch

    from tamis_kernels.arrays import place_of
    from tamis_kernels.cuda.cupy_door import CupyRuntime

    a, b = example(64, 40, 512)
    left, right = on_gpu("torch", a), on_gpu("torch", b)
    out = torch.empty((64, 40), device="cuda")
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        CupyRuntime(place_of(a=left)).product(left, right, out)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    # Sums of 512 products of float32, one after the other, are off by 6e-5; of TF32 by 2e-2.
    np.testing.assert_allclose(out.cpu().numpy(), exact, 0, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("metric", METRICS)
def test_in_a_cuda_graph(metric: Any) -> None:
    import torch

    x, prototypes = example(3000, 50, 96, "clusters")
    at, table = on_gpu("torch", x), on_gpu("torch", prototypes)
    nearest_prototype(at, table, metric)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = nearest_prototype(at, table, metric)
    at.copy_(torch.from_numpy(x[::-1].copy()))
    table.copy_(torch.from_numpy(prototypes[::-1].copy()))
    graph.replay()
    check(to_host(found), x[::-1], prototypes[::-1], metric)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:

    x, prototypes = example(3000, 50, 96)
    at, table = on_gpu("torch", x), on_gpu("torch", prototypes)
    nearest_prototype(at, table)
    with nothing_may_wait():
        nearest_prototype(at, table)

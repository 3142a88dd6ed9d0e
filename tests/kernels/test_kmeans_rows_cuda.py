"""The whole of k-means on a GPU's rows: with the shim's launches on a CPU, and on a GPU."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import on_gpu
from host_cuda.runtime import HostRuntime
from tamis_kernels import Lloyd, kmeans
from tamis_kernels.arrays import Place
from tamis_kernels.cuda.kmeans_rows import GpuRows
from tamis_kernels.kmeans import _lloyd

Metric = Literal["cosine", "euclidean"]
HOST = Place("numpy", "cpu")


def groups(n: int, k: int, d: int) -> NDArray[np.float32]:
    rng = np.random.default_rng((n, k, d))
    centres = rng.standard_normal((k, d))
    return (centres[rng.integers(0, k, n)] + 0.7 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [(350,), (1, 150, 199)])
def test_the_cpu_s_iterations(sizes: tuple[int, ...], weighted: bool, metric: Metric) -> None:
    x, how = 3 + groups(350, 9, 20), Lloyd(n_iterations=5, metric=metric)
    weights = np.random.default_rng(1).uniform(0.1, 3, 350) if weighted else None
    blocks = np.split(x, np.cumsum(sizes)[:-1])
    rows = GpuRows(blocks, HOST, HostRuntime(), unit=how.unit, weights=weights)
    found, objective, _ = _lloyd(rows, x[:9], how, None)
    expected = kmeans(x, 9, how, start=x[:9], weights=weights)
    assert np.array_equal(rows.labels, expected.labels)
    np.testing.assert_allclose(found, expected.centres, 1e-5, 1e-6)
    np.testing.assert_allclose(objective, expected.objective, 2e-5)
    some = np.array([0, 5, 349])
    norms = np.linalg.norm(x[some], axis=1, keepdims=True) if how.unit else 1
    np.testing.assert_allclose(rows.take(some), x[some] / norms, 1e-6)


def test_rows_that_do_not_fit_are_refused() -> None:
    x = groups(50, 3, 4)
    with pytest.raises(ValueError, match="weights: expected 50 of them, found 4"):
        GpuRows([x], HOST, HostRuntime(), unit=False, weights=np.ones(4))
    x[7] = np.nan
    with pytest.raises(ValueError, match="found 1 others, the first is row 7"):
        GpuRows([x], HOST, HostRuntime(), unit=False, weights=None)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("metric", get_args(Metric))
def test_on_a_gpu(metric: Metric, library: str) -> None:
    x, how = groups(20_000, 50, 64), Lloyd(n_iterations=8, metric=metric)
    start = x[:50]
    rows = on_gpu(library, x)
    found = kmeans(rows, 50, how, start=start)
    expected = kmeans(x, 50, how, start=start)
    assert type(found.labels).__module__.partition(".")[0] == library
    np.testing.assert_allclose(found.objective, expected.objective, 1e-5)
    labels = found.labels.get() if library == "cupy" else found.labels.cpu().numpy()
    assert (labels == expected.labels).mean() > 0.999
    blocks = [rows[:7], rows[7:12_000], rows[12_000:]]
    again = kmeans(blocks, 50, how, start=start)
    np.testing.assert_allclose(again.objective, found.objective, 1e-6)
    drawn = kmeans(rows, 50, how)
    assert drawn.objective[-1] < 1.2 * found.objective[-1]

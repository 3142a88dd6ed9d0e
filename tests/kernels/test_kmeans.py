from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compiled_loops import n_compiled
from tamis_kernels import KMeans, Lloyd, kmeans, nearest_prototype, reference

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = get_args(Metric)
metrics = pytest.mark.parametrize("metric", METRICS)


def groups(n: int, k: int, d: int, spread: float = 0.7) -> NDArray[np.float32]:
    rng = np.random.default_rng((n, k, d))
    centres = rng.standard_normal((k, d))
    return (centres[rng.integers(0, k, n)] + spread * rng.standard_normal((n, d))).astype(
        np.float32
    )


@metrics
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "k", "d"), [(400, 7, 5), (3000, 40, 33), (200, 1, 3)])
def test_every_iteration_is_the_definitions(
    n: int, k: int, d: int, weighted: bool, metric: Metric
) -> None:
    x, start = groups(n, k, d), groups(n, k, d)[:k]
    weights = np.random.default_rng(1).uniform(0.1, 3, n) if weighted else None
    found = kmeans(x, k, Lloyd(n_iterations=8, metric=metric), start=start, weights=weights)
    n_done = len(found.objective)
    centres, labels, objectives = reference.kmeans(x, start, n_done, metric, weights)
    np.testing.assert_allclose(found.objective, objectives, 1e-6)
    assert np.array_equal(found.labels, labels)
    np.testing.assert_allclose(found.centres, centres, 1e-5, 1e-6)
    assert found.centres.dtype == np.float32


@metrics
def test_until_no_label_changes(metric: Metric) -> None:
    x = groups(2000, 10, 16, spread=0.3)
    found = kmeans(x, 10, Lloyd(n_iterations=200, metric=metric))
    assert found.converged
    assert (np.diff(found.objective) <= 1e-9 * found.objective[0]).all()
    # Spared searches or not, the labels are those of a full search among the centres returned.
    assert np.array_equal(found.labels, nearest_prototype(x, found.centres, metric).index)


def test_planted_groups_are_found() -> None:
    # Eight groups far apart: from a random start, k-means finds half of them.
    rng = np.random.default_rng(0)
    corners = 20 * rng.standard_normal((8, 16))
    x = (np.repeat(corners, 250, axis=0) + rng.standard_normal((2000, 16))).astype(np.float32)
    for seed in range(5):
        found = kmeans(x, 8, Lloyd(seed=seed))
        assert sorted(np.bincount(found.labels)) == [250] * 8


def test_same_seed_same_bits_with_any_number_of_threads() -> None:
    x = groups(3000, 20, 130)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, before, before):
            numba.set_num_threads(threads)
            results.append(kmeans(x, 20, Lloyd(n_iterations=5, seed=3)))
    finally:
        numba.set_num_threads(before)
    for other in results[1:]:
        assert np.array_equal(other.centres, results[0].centres)
        assert np.array_equal(other.labels, results[0].labels)
        assert other.objective == results[0].objective
    assert not np.array_equal(
        kmeans(x, 20, Lloyd(n_iterations=5, seed=4)).centres, results[0].centres
    )


@metrics
@pytest.mark.parametrize("sizes", [(3000,), (1, 999, 2000), (1500, 1500)])
def test_blocks_give_the_bits_of_one_array(
    sizes: tuple[int, ...], metric: Metric, tmp_path: Path
) -> None:
    x = groups(3000, 20, 24)
    whole = kmeans(x, 20, Lloyd(n_iterations=6, metric=metric))
    blocks = np.split(x, np.cumsum(sizes)[:-1])
    files = []
    for number, block in enumerate(blocks):
        np.save(tmp_path / f"{number}.npy", block)
        files.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))

    class Stream:  # reads again for every pass, as from a disk that holds more than the memory
        def __iter__(self) -> Iterator[NDArray[np.float32]]:
            for file in files:
                yield np.array(file)

    for source in (files, Stream()):
        found = kmeans(source, 20, Lloyd(n_iterations=6, metric=metric))
        assert np.array_equal(found.centres, whole.centres)
        assert np.array_equal(found.labels, whole.labels)


def test_a_stream_that_ends_early_is_refused() -> None:
    x = groups(300, 3, 4)
    lengths = iter([300, 300, 200, 200, 200])

    class Shrinking:
        def __iter__(self) -> Iterator[NDArray[np.float32]]:
            yield x[: next(lengths)]

    with pytest.raises(ValueError, match="expected 300 rows in every pass, found 200"):
        kmeans(Shrinking(), 3, start=x[:3])


@metrics
def test_weights_are_repeated_rows(metric: Metric) -> None:
    x = groups(300, 6, 9)
    times = np.random.default_rng(0).integers(0, 4, 300)
    how = Lloyd(n_iterations=10, metric=metric)
    weighted = kmeans(x, 6, how, start=x[:6], weights=times.astype(np.float64))
    repeated = kmeans(np.repeat(x, times, axis=0), 6, how, start=x[:6])
    # A label of a row without weight may change once more, which moves nothing.
    both = min(len(weighted.objective), len(repeated.objective))
    np.testing.assert_allclose(weighted.objective[:both], repeated.objective[:both], 1e-9)
    np.testing.assert_allclose(weighted.centres, repeated.centres, 1e-5, 1e-6)


@metrics
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_torch_tensors_stay_torch_tensors(dtype: torch.dtype, metric: Metric) -> None:
    x = torch.from_numpy(groups(500, 5, 12)).to(dtype)
    found = kmeans(x, 5, Lloyd(n_iterations=5, metric=metric))
    same = kmeans(x.float().numpy(), 5, Lloyd(n_iterations=5, metric=metric))
    assert isinstance(found.centres, torch.Tensor)
    assert np.array_equal(found.labels.numpy(), same.labels)
    np.testing.assert_allclose(found.centres.numpy(), same.centres, 1e-6)


def test_any_memory_layout() -> None:
    x = groups(400, 5, 12)
    plain = kmeans(x, 5)
    wide = np.zeros((800, 24), np.float32)
    wide[::2, ::2] = x
    for layout in (np.asfortranarray(x), wide[::2, ::2]):
        assert np.array_equal(kmeans(layout, 5).centres, plain.centres)


def test_nothing_is_compiled_again_for_a_memory_map(tmp_path: Path) -> None:
    x = groups(400, 5, 12)
    plain = kmeans(x, 5)
    before = n_compiled()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(kmeans(mapped, 5).centres, plain.centres)
    assert n_compiled() == before


# ---- empty clusters


def test_an_empty_cluster_takes_half_of_the_heaviest() -> None:
    x = np.concatenate([np.full((30, 2), 1.0), np.full((10, 2), 9.0)]).astype(np.float32)
    x += 0.01 * np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    start = np.array([[1, 1], [9, 9], [100, 100]], np.float32)
    found = kmeans(x, 3, Lloyd(), start=start)
    sizes = np.bincount(found.labels, minlength=3)
    assert sizes[1] == 10  # the lighter group keeps its centre
    assert sizes[0] + sizes[2] == 30
    assert sizes.min() > 0


def test_an_empty_cluster_can_stay_or_be_an_error() -> None:
    x = groups(50, 2, 3)
    start = np.concatenate([x[:2], np.full((1, 3), 1e3, np.float32)])
    kept = kmeans(x, 3, Lloyd(empty="keep"), start=start)
    assert np.array_equal(kept.centres[2], start[2])
    assert 2 not in kept.labels
    with pytest.raises(ValueError, match="rows in every cluster, found 1 empty"):
        kmeans(x, 3, Lloyd(empty="error"), start=start)


@metrics
def test_the_same_centre_twice_and_fewer_rows_than_values(metric: Metric) -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    found = kmeans(x, 5, Lloyd(metric=metric), start=np.ones((5, 3), np.float32))
    assert np.isfinite(found.centres).all()
    assert np.isfinite(found.objective).all()
    drawn = kmeans(x, 3, Lloyd(metric=metric, seed=1))
    assert drawn.objective[-1] == pytest.approx(0, abs=1e-12)
    assert sorted(np.bincount(drawn.labels)) == [10, 10, 10]


def test_opposite_rows_have_no_mean_direction() -> None:
    x = np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]], np.float32)
    found = kmeans(x, 1, Lloyd(metric="cosine"), start=np.array([[0, 1]], np.float32))
    assert np.array_equal(found.centres, [[0, 1]])


def test_as_many_clusters_as_rows() -> None:
    x = groups(20, 4, 3)
    found = kmeans(x, 20)
    assert found.objective[-1] == pytest.approx(0, abs=1e-9)
    assert sorted(found.labels) == list(range(20))


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_refilled_cluster_does_not_end_it(offset: float) -> None:
    rng = np.random.default_rng(0)
    corners = offset + 20 * rng.standard_normal((4, 4))
    x = (corners[rng.integers(0, 4, 400)] + rng.standard_normal((400, 4))).astype(np.float32)
    start = np.concatenate([corners, np.full((1, 4), 1e5)]).astype(np.float32)
    found = kmeans(x, 5, Lloyd(n_iterations=300), start=start)
    assert found.converged
    assert np.bincount(found.labels, minlength=5).min() > 0
    for cluster in range(5):
        mean = x[found.labels == cluster].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found.centres[cluster], mean, 1e-6, 1e-5)


@metrics
def test_rows_that_cannot_be_split_leave_their_mean_alone(metric: Metric) -> None:
    x = np.repeat(np.array([[1000, 1000], [1001, 1003]], np.float32), 10, axis=0)
    found = kmeans(x, 3, Lloyd(metric=metric))
    directions = found.centres / np.linalg.norm(found.centres, axis=1, keepdims=True)
    own = found.centres if metric == "euclidean" else directions
    rows = x if metric == "euclidean" else x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(own[found.labels], rows, 1e-6)
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1, 1e-6)


# ---- peers and callbacks


@metrics
def test_faiss_from_the_same_start_ends_at_the_same_objective(metric: Metric) -> None:
    pytest.importorskip("faiss")
    x, how = groups(4000, 30, 24), Lloyd(n_iterations=10, metric=metric)
    start = x[:30] / np.linalg.norm(x[:30], axis=1, keepdims=True) if how.unit else x[:30]
    ours, theirs = (kmeans(x, 30, how, start=start, backend=b) for b in ("tamis", "faiss"))

    def cost(found: KMeans) -> float:
        distance = nearest_prototype(x, found.centres, metric).distance.astype(np.float64)
        return float((distance if how.unit else distance**2).sum())

    assert cost(ours) == pytest.approx(cost(theirs), rel=1e-4)
    assert ours.objective[0] == pytest.approx(theirs.objective[0], rel=1e-5)
    same = (theirs.labels == nearest_prototype(x, theirs.centres, metric).index).all()
    assert same


def test_progress_is_told() -> None:
    seen: list[tuple[int, float, int]] = []
    found = kmeans(groups(500, 5, 4), 5, on_iteration=lambda *told: seen.append(told))
    assert [told[0] for told in seen] == list(range(len(found.objective)))
    assert [told[1] for told in seen] == found.objective
    assert seen[0][2] == 500
    assert seen[-1][2] == 0


def test_a_tolerance_stops_early() -> None:
    x = groups(3000, 30, 8, spread=2.0)
    patient = kmeans(x, 30, Lloyd(n_iterations=100))
    hasty = kmeans(x, 30, Lloyd(n_iterations=100, tolerance=0.01))
    assert len(hasty.objective) < len(patient.objective)
    assert not hasty.converged


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6), st.data())
def test_any_rows(seed: int, n: int, d: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (n, d)).astype(np.float32)  # many duplicates and ties
    k = data.draw(st.integers(1, n))
    found = kmeans(x, k, Lloyd(n_iterations=30, seed=seed))
    assert np.isfinite(found.centres).all()
    expected = ((x - found.centres[found.labels].astype(np.float64)) ** 2).sum()
    if found.converged:
        assert found.objective[-1] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        squares = ((x[:, None].astype(np.float64) - found.centres) ** 2).sum(axis=2)
        np.testing.assert_allclose(
            squares[np.arange(n), found.labels], squares.min(axis=1), 1e-6, 1e-12
        )


# ---- what is refused

X = np.ones((5, 4), np.float32)


@pytest.mark.parametrize(
    ("x", "k", "options", "error", "message"),
    [
        (X, 0, {}, ValueError, "expected 1 to 5 clusters, found 0"),
        (X, 6, {}, ValueError, "expected 1 to 5 clusters, found 6"),
        (X[:0], 1, {}, ValueError, "at least one row, found none"),
        ([], 1, {}, ValueError, "at least one row, found no block"),
        (X[0], 1, {}, ValueError, r"x: expected shape \(n, d\), found \(4,\)"),
        (X.astype(np.int32), 1, {}, TypeError, "x: .* found int32"),
        ([X, X[:, :2]], 1, {}, ValueError, r"expected blocks \(n, 4\) .* found \(5, 2\)"),
        ([X, torch.ones(5, 4)], 1, {}, ValueError, "expected blocks .* numpy"),
        (X * np.float32(np.nan), 1, {}, ValueError, "finite rows .*, found 5 others"),
        (
            X * 0,
            1,
            {"how": Lloyd(metric="cosine")},
            ValueError,
            "with a direction .*, found 5 others",
        ),
        (X * np.float32(1e20), 1, {}, ValueError, "norms up to 1e18"),
        ((X for _ in range(3)), 1, {}, TypeError, "generator, which ends after one pass"),
        (X, 1, {"start": [[1, 1, 1, 1]]}, TypeError, "start: .* found list"),
        (X, 1, {"weights": np.float64(1)}, TypeError, "weights: .* found float64"),
        (
            X,
            1,
            {"start": X[:1] * 0, "how": Lloyd(metric="cosine")},
            ValueError,
            "start: .* direction",
        ),
        (
            X,
            1,
            {"weights": np.ones(5), "backend": "faiss"},
            ValueError,
            "weights: .* found faiss, which has no such",
        ),
        (X, 1, {"on_iteration": print, "backend": "faiss"}, ValueError, "on_iteration: .* faiss"),
        (
            X,
            1,
            {"how": Lloyd(tolerance=0.5), "backend": "faiss"},
            ValueError,
            "tolerance: .* faiss",
        ),
        (X, 1, {"how": Lloyd(empty="error"), "backend": "faiss"}, ValueError, "empty='error': "),
        (X, 2, {"start": X[:1]}, ValueError, r"start: expected shape \(2, 4\), found \(1, 4\)"),
        (X, 1, {"start": X[:1] * np.float32(np.inf)}, ValueError, "start: expected finite rows"),
        (X, 1, {"start": torch.ones(1, 4)}, TypeError, "start: .* numpy on cpu .* torch on cpu"),
        (X, 1, {"weights": np.ones(4)}, ValueError, "weights: expected 5 of them, found 4"),
        (X, 1, {"how": "cosine"}, TypeError, "how: expected Lloyd.*, found 'cosine'"),
        (X, 1.0, {}, TypeError, "k: expected an integer, found 1.0"),
        (X, True, {}, TypeError, "k: expected an integer, found True"),
        (X[:, :0], 1, {}, ValueError, r"x: .* d ≥ 1.* found \(5, 0\)"),
        ({"a": X}, 1, {}, TypeError, "x: expected an array or blocks, found dict"),
        (None, 1, {}, TypeError, "x: expected an array or blocks, found NoneType"),
        (X, 1, {"weights": -np.ones(5)}, ValueError, "weights: expected numbers of 0 to"),
        (X, 1, {"weights": np.zeros(5)}, ValueError, "weights: .* positive sum"),
        (X, 1, {"weights": torch.ones(5)}, TypeError, "weights: .* numpy"),
        (X, 1, {"backend": "cuml"}, ValueError, "tamis or faiss, found 'cuml'"),
    ],
)
def test_unusable_arguments(
    x: Any, k: int, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kmeans(x, k, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "manhattan"}, "euclidean or cosine, found 'manhattan'"),
        ({"empty": "drop"}, "split or keep or error, found 'drop'"),
        ({"n_iterations": 0}, "n_iterations: expected at least 1, found 0"),
        ({"n_iterations": 2.5}, "n_iterations: expected an integer, found 2.5"),
        ({"seed": -1}, "seed: expected 0 or more, found -1"),
        ({"seed": None}, "seed: expected an integer, found None"),
        ({"tolerance": -1.0}, "tolerance: .* found -1.0"),
        ({"tolerance": "a"}, "tolerance: .* found 'a'"),
    ],
)
def test_unusable_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Lloyd(**options)

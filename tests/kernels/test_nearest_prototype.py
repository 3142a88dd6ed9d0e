from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import tamis_kernels.cpu.nearest_prototype as search
from tamis_kernels import Nearest, nearest_prototype, reference
from tamis_kernels.cpu.products import Precision

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = get_args(Metric)
metrics = pytest.mark.parametrize("metric", METRICS)

# Relative error of the distances against float64 on the same (rounded) rows.
TOLERANCE: dict[type[np.floating[Any]], float] = {
    np.float64: 1e-6,
    np.float32: 1e-6,
    np.float16: 1e-6,
}
# float64's own rounding of a distance between unit vectors.
ZERO = 1e-15

SIZES = (
    (1, 1, 1),  # n, k, d: the smallest that is legal
    (1, 7, 64),  # one row
    (300, 1, 5),  # one prototype: no second distance
    (257, 2, 3),  # two prototypes: the runner-up is the other one
    (500, 10, 64),  # digits: pixels
    (203, 100, 384),  # a small encoder, a prototype a class
    (9000, 2048, 8),  # more rows than one chunk of distances holds
    (40, 3, 4096),  # long products
)


def distances_of(x: NDArray[Any], prototypes: NDArray[Any], metric: Metric) -> NDArray[np.float64]:
    """All distances by torch in float64, without products of x and p."""
    a, b = (torch.from_numpy(array).double() for array in (x, prototypes))
    if metric == "euclidean":
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    # For unit vectors ‖a − b‖² / 2 = 1 − cos.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square().numpy() / 2


def distance(a: list[float], b: list[float], metric: Metric) -> float:
    """One distance by loops with exact sums."""
    if metric == "euclidean":
        return math.dist(a, b)
    length, other = math.hypot(*a), math.hypot(*b)
    return math.fsum((x / length - y / other) ** 2 for x, y in zip(a, b, strict=True)) / 2


def check(found: Nearest, distances: NDArray[np.float64], rtol: float = 1e-6) -> None:
    """Compare with all distances; where two are equal to 1e-6, either may be the nearest."""
    rows = np.arange(len(distances))
    ordered = np.sort(distances, axis=1)
    second = ordered[:, 1] if distances.shape[1] > 1 else np.full(len(distances), np.inf)
    assert found.index.dtype == np.int64
    assert found.distance.dtype == found.second_distance.dtype == np.float32
    clear = second > ordered[:, 0] * (1 + 1e-6) + ZERO
    assert np.array_equal(found.index[clear], distances.argmin(axis=1)[clear])
    # Also where it is not clear, the index given has the distance given.
    np.testing.assert_allclose(found.distance, distances[rows, found.index], rtol, ZERO)
    np.testing.assert_allclose(found.distance, ordered[:, 0], rtol, ZERO)
    np.testing.assert_allclose(found.second_distance, second, rtol, ZERO)
    assert (found.distance >= 0).all()
    assert (found.second_distance >= found.distance).all()


def example(n: int, k: int, d: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows around prototypes, as k-means leaves them."""
    rng = np.random.default_rng((n, k, d))
    prototypes = rng.standard_normal((k, d))
    x = prototypes[rng.integers(0, k, n)] + 0.5 * rng.standard_normal((n, d))
    return x.astype(np.float32), prototypes.astype(np.float32)


@metrics
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "k", "d"), SIZES)
def test_against_torch_and_the_reference(
    n: int, k: int, d: int, dtype: type[np.floating[Any]], metric: Metric
) -> None:
    x, prototypes = (array.astype(dtype) for array in example(n, k, d))
    found = nearest_prototype(x, prototypes, metric)
    distances = distances_of(x, prototypes, metric)
    check(found, distances, TOLERANCE[dtype])
    few = slice(0, 100)
    index, best, second = reference.nearest_prototype(x[few], prototypes, metric)
    check(Nearest(index, best.astype(np.float32), second.astype(np.float32)), distances[few])


@metrics
def test_against_loops(metric: Metric) -> None:
    x, prototypes = example(23, 6, 9)
    distances = [
        [distance(row, prototype, metric) for prototype in prototypes.tolist()]
        for row in x.tolist()
    ]
    check(nearest_prototype(x, prototypes, metric), np.array(distances))


def test_by_hand() -> None:
    x = np.array([[3, 4], [-2, 0], [0, 10]], np.float32)
    prototypes = np.array([[1, 0], [0, 1]], np.float32)
    found = nearest_prototype(x, prototypes, "euclidean")
    assert found.index.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.distance, [math.sqrt(18), math.sqrt(5), 9], 1e-6)
    np.testing.assert_allclose(found.second_distance, [math.sqrt(20), 3, math.sqrt(101)], 1e-6)
    found = nearest_prototype(x, prototypes)  # cosine is the default
    assert found.index.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.distance, [0.2, 1, 0], 1e-6, 1e-12)
    np.testing.assert_allclose(found.second_distance, [0.4, 2, 1], 1e-6)


@metrics
def test_no_rows(metric: Metric) -> None:
    found = nearest_prototype(np.empty((0, 4), np.float32), np.ones((3, 4), np.float32), metric)
    assert found.index.shape == found.distance.shape == found.second_distance.shape == (0,)


@metrics
def test_one_prototype_has_no_second(metric: Metric) -> None:
    x, prototypes = example(5, 1, 3)
    found = nearest_prototype(x, prototypes, metric)
    assert found.index.tolist() == [0] * 5
    assert found.second_distance.tolist() == [math.inf] * 5


@metrics
@pytest.mark.parametrize("k", [2, 5, 33, 100])
@pytest.mark.parametrize("d", [1, 7, 64, 300])
def test_exact_ties_go_to_the_lowest_index(k: int, d: int, metric: Metric) -> None:
    # Every prototype stands three times, far apart in the table: matrix products treat columns
    # at different places differently in the last bit.
    x, prototypes = example(100, k, d)
    found = nearest_prototype(x, np.concatenate([prototypes] * 3), metric)
    once = nearest_prototype(x, prototypes, metric)
    assert found.index.max() < k
    np.testing.assert_allclose(found.distance, once.distance, 1e-6, ZERO)
    np.testing.assert_allclose(found.second_distance, found.distance, 1e-6, ZERO)


@metrics
def test_rows_that_are_prototypes(metric: Metric) -> None:
    _, prototypes = example(1, 50, 64)
    found = nearest_prototype(prototypes, prototypes, metric)
    assert found.index.tolist() == list(range(50))
    assert (found.distance <= ZERO).all()
    # And with the prototype there twice, so that the two best are both at distance zero.
    twice = np.concatenate([prototypes, prototypes])
    found = nearest_prototype(prototypes, twice, metric)
    assert found.index.tolist() == list(range(50))
    assert (found.distance >= 0).all()
    assert (found.distance <= ZERO).all()
    assert (found.second_distance <= ZERO).all()


@metrics
@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_prototypes_in_tight_groups(spread: float, metric: Metric) -> None:
    # Groups of four close together: float32 products cannot rank a group's second and third.
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 64))
    prototypes = np.repeat(centres, 4, axis=0) + spread * rng.standard_normal((32, 64))
    x = prototypes[rng.integers(0, 32, 400)] + 0.3 * spread * rng.standard_normal((400, 64))
    check(nearest_prototype(x, prototypes, metric), distances_of(x, prototypes, metric))


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_rows_far_from_the_origin(offset: float) -> None:
    # Squares of the offset would swallow all differences; ResNet features are never centred.
    rng = np.random.default_rng(1)
    prototypes = offset + rng.standard_normal((20, 32))
    x = prototypes[rng.integers(0, 20, 300)] + 0.1 * rng.standard_normal((300, 32))
    check(nearest_prototype(x, prototypes, "euclidean"), distances_of(x, prototypes, "euclidean"))


def test_a_prototype_far_from_the_others() -> None:
    # One outlier moves the mean: the others are then far from it and close to each other.
    rng = np.random.default_rng(2)
    prototypes = rng.standard_normal((12, 16))
    prototypes[5] += 1e5
    x = prototypes[rng.integers(0, 12, 300)] + 0.2 * rng.standard_normal((300, 16))
    check(nearest_prototype(x, prototypes, "euclidean"), distances_of(x, prototypes, "euclidean"))


@metrics
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e18, 1e25])
def test_rows_of_any_size(scale: float, metric: Metric) -> None:
    # float32 holds the rows, but not their squares.
    x, prototypes = ((scale * array.astype(np.float64)) for array in example(100, 10, 16))
    found = nearest_prototype(x, prototypes, metric)
    distances = distances_of(x, prototypes, metric)
    clear = np.sort(distances, axis=1)
    assert (clear[:, 1] > clear[:, 0] * (1 + 1e-6)).all()
    assert np.array_equal(found.index, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, clear[:, 0], 1e-6, ZERO * scale)
    np.testing.assert_allclose(found.second_distance, clear[:, 1], 1e-6, ZERO * scale)


def test_opposite_directions_are_at_distance_two() -> None:
    x, _ = example(10, 3, 20)
    found = nearest_prototype(x, -x[:1], "cosine")
    assert found.distance[0] == pytest.approx(2, rel=1e-6)
    assert (found.distance <= np.float32(2 + 1e-6)).all()


@metrics
def test_any_memory_layout(metric: Metric) -> None:
    x, prototypes = example(60, 8, 10)
    plain = nearest_prototype(x, prototypes, metric)
    wide = np.zeros((120, 20), np.float32)
    wide[::2, ::2] = x
    frozen = x.copy()
    frozen.setflags(write=False)
    for layout in (np.asfortranarray(x), wide[::2, ::2], frozen):
        found = nearest_prototype(layout, np.asfortranarray(prototypes), metric)
        assert np.array_equal(found.index, plain.index)
        np.testing.assert_allclose(found.distance, plain.distance, 1e-6, ZERO)
    assert np.array_equal(x, example(60, 8, 10)[0])


def test_a_nan_row_stays_its_own_affair() -> None:
    x, prototypes = example(20, 4, 6)
    plain = nearest_prototype(x, prototypes, "euclidean")
    x[7, 2] = np.nan
    found = nearest_prototype(x, prototypes, "euclidean")
    assert math.isnan(found.distance[7])
    assert math.isnan(found.second_distance[7])
    others = np.arange(20) != 7
    assert np.array_equal(found.index[others], plain.index[others])
    np.testing.assert_allclose(found.distance[others], plain.distance[others], 1e-6)
    with pytest.raises(ValueError, match="found 1 of 20 that are all zero, not finite"):
        nearest_prototype(x, prototypes, "cosine")


# ---- products in few bits: whatever they exclude, float64 excludes too

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def stretched(rng: np.random.Generator, n: int, k: int, d: int) -> tuple[Any, Any]:
    """One coordinate 200 times the others: eight bits leave nothing of the rest."""
    x, prototypes = rng.standard_normal((n, d)), rng.standard_normal((k, d))
    x[:, 3] *= 200
    prototypes[:, 3] *= 200
    return x, prototypes


def of_all_sizes(rng: np.random.Generator, n: int, k: int, d: int) -> tuple[Any, Any]:
    x, prototypes = rng.standard_normal((n, d)), rng.standard_normal((k, d))
    return x * np.exp(3 * rng.standard_normal((n, 1))), prototypes * np.exp(
        3 * rng.standard_normal((k, 1))
    )


def far_ones(rng: np.random.Generator, n: int, k: int, d: int) -> tuple[Any, Any]:
    x, prototypes = rng.standard_normal((n, d)), rng.standard_normal((k, d))
    prototypes[k // 2 :] *= 1e5
    return x, prototypes


def small_whole_numbers(rng: np.random.Generator, n: int, k: int, d: int) -> tuple[Any, Any]:
    """Ties everywhere."""
    return rng.integers(1, 4, (n, d)), rng.integers(1, 4, (k, d))


def shifted(rng: np.random.Generator, n: int, k: int, d: int) -> tuple[Any, Any]:
    return 1e4 + rng.standard_normal((n, d)), 1e4 + rng.standard_normal((k, d))


def all_alike(rng: np.random.Generator, n: int, k: int, d: int) -> tuple[Any, Any]:
    return rng.standard_normal((n, d)), np.repeat(rng.standard_normal((1, d)), k, axis=0)


@metrics
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "make", [stretched, of_all_sizes, far_ones, small_whole_numbers, shifted, all_alike]
)
def test_data_made_to_mislead_products(
    make: Any, precision: Precision, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "precisions", lambda _: PRECISIONS)  # whatever this CPU has
    x, prototypes = (a.astype(np.float32) for a in make(np.random.default_rng(1), 700, 150, 96))
    index, best, second = np.empty(700, np.int64), np.empty(700), np.empty(700)
    # One worker takes all rows as one chunk, so that no finer precision is tried.
    searcher = search.ProductSearch(
        prototypes, unit=metric == "cosine", workers=1, finest=precision
    )
    searcher.search(x, 0, np.arange(700), index, best, second)
    assert searcher.table.precision == precision
    found = Nearest(index, best.astype(np.float32), second.astype(np.float32))
    check(found, distances_of(x, prototypes, metric))


def test_a_finer_precision_is_taken_where_a_coarse_one_leaves_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "precisions", lambda _: PRECISIONS)
    x, prototypes = (
        a.astype(np.float32) for a in stretched(np.random.default_rng(1), 5000, 1000, 96)
    )
    index, best, second = np.empty(5000, np.int64), np.empty(5000), np.empty(5000)
    searcher = search.ProductSearch(prototypes, unit=False, workers=2)
    searcher.search(x, 0, np.arange(5000), index, best, second)
    assert searcher.table.precision != "int8"
    exact = reference.nearest_prototype(x[::50], prototypes, "euclidean")
    assert np.array_equal(index[::50], exact[0])
    np.testing.assert_allclose(second[::50], exact[2], 1e-12)


def test_long_rows_do_not_take_more_memory() -> None:
    _, prototypes = example(64, 3, 20_000)
    searcher = search.ProductSearch(prototypes, unit=False, workers=16)
    assert 16 * searcher._most_rows() * 4 * 20_000 <= 64 << 20


@metrics
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_torch_tensors_stay_torch_tensors(dtype: torch.dtype, metric: Metric) -> None:
    x, prototypes = (torch.from_numpy(array).to(dtype) for array in example(200, 20, 33))
    found = nearest_prototype(x, prototypes, metric)
    assert isinstance(found.index, torch.Tensor)
    distances = distances_of(x.double().numpy(), prototypes.double().numpy(), metric)
    check(Nearest(*(a.numpy() for a in vars(found).values())), distances)


def test_rows_from_a_file(tmp_path: Path) -> None:
    x, prototypes = example(500, 20, 32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = nearest_prototype(mapped, prototypes)
    assert np.array_equal(found.index, nearest_prototype(x, prototypes).index)


# ---- properties: coordinates are eighths, so that sums and shifts of them are exact

eighths = hnp.arrays(
    np.int16,
    st.tuples(st.integers(1, 12), st.just(4)),
    elements=st.integers(-80, 80),
    unique=False,
).map(lambda array: array.astype(np.float32) / 8)
directions = eighths.filter(lambda array: bool((np.abs(array).sum(axis=1) > 0).all()))


@given(directions, directions)
def test_any_rows(x: NDArray[np.float32], prototypes: NDArray[np.float32]) -> None:
    for metric in METRICS:
        found = nearest_prototype(x, prototypes, metric)
        # Squares of eighths are exact; cosine distances are those of loops to 1e-15.
        check(found, distances_of(x, prototypes, metric))


@given(eighths, eighths)
def test_exact_euclidean_ties(x: NDArray[np.float32], prototypes: NDArray[np.float32]) -> None:
    squares = ((x[:, None].astype(np.float64) - prototypes) ** 2).sum(axis=2)
    found = nearest_prototype(x, prototypes, "euclidean")
    assert found.index.tolist() == squares.argmin(axis=1).tolist()  # argmin: the lowest index


@given(directions, directions, st.data())
def test_permutations(
    x: NDArray[np.float32], prototypes: NDArray[np.float32], data: st.DataObject
) -> None:
    row_order = np.array(data.draw(st.permutations(range(len(x)))))
    order = np.array(data.draw(st.permutations(range(len(prototypes)))))
    for metric in METRICS:
        plain = nearest_prototype(x, prototypes, metric)
        permuted = nearest_prototype(x[row_order], prototypes[order], metric)
        np.testing.assert_allclose(permuted.distance, plain.distance[row_order], 1e-6, ZERO)
        np.testing.assert_allclose(
            permuted.second_distance, plain.second_distance[row_order], 1e-6, ZERO
        )
        clear = plain.second_distance > plain.distance * (1 + 1e-5) + ZERO
        same = order[permuted.index] == plain.index[row_order]
        assert same[clear[row_order]].all()


@given(directions, directions, st.integers(-30, 30), st.integers(-500, 500))
def test_invariances(
    x: NDArray[np.float32], prototypes: NDArray[np.float32], power: int, shift: int
) -> None:
    moved = nearest_prototype(x + shift, prototypes + shift, "euclidean")
    plain = nearest_prototype(x, prototypes, "euclidean")
    assert np.array_equal(moved.index, plain.index)
    np.testing.assert_allclose(moved.distance, plain.distance, 1e-6)
    scaled = nearest_prototype(x * np.float32(2.0**power), prototypes, "cosine")
    plain = nearest_prototype(x, prototypes, "cosine")
    np.testing.assert_allclose(scaled.distance, plain.distance, 1e-6, ZERO)
    np.testing.assert_allclose(scaled.second_distance, plain.second_distance, 1e-6, ZERO)


# ---- what is refused

X, P = np.ones((5, 4), np.float32), np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("x", "prototypes", "metric", "message"),
    [
        (X[0], P, "cosine", r"x: .* found \(4,\)"),
        (X, P[0], "cosine", r"prototypes: .* found \(4,\)"),
        (X, P[:, :3], "euclidean", r"found \(5, 4\), \(3, 3\)"),
        (X[None], P, "euclidean", r"x: .* found \(1, 5, 4\)"),
        (X[:, :0], P[:, :0], "euclidean", r"d ≥ 1.* found \(5, 0\), \(3, 0\)"),
        (X, P[:0], "euclidean", "prototypes: expected at least one, found none"),
        (X, P, "manhattan", "metric: expected cosine or euclidean, found 'manhattan'"),
        (X * 0, P, "cosine", "x: expected rows with a direction .* found 5 of 5"),
        (
            X,
            P * 0,
            "cosine",
            "prototypes: .* with a direction.* found 3 others, the first is row 0",
        ),
        (X, P * np.float32(np.inf), "euclidean", "prototypes: .* numbers up to 1e100, found 3"),
        (X, P * np.float32(np.nan), "cosine", "prototypes: .* found 3 others"),
    ],
)
def test_unusable_arguments(x: Any, prototypes: Any, metric: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_prototype(x, prototypes, metric)


def test_distances_beyond_float32_are_infinite() -> None:
    x = np.array([[1e60, 0], [3e60, 0]])
    found = nearest_prototype(x, np.array([[1e60, 0], [2.9e60, 0]]), "euclidean")
    assert found.index.tolist() == [0, 1]
    assert found.distance.tolist() == [0, np.inf]


def test_zero_rows_are_fine_for_euclidean_distances() -> None:
    found = nearest_prototype(X * 0, P, "euclidean")
    assert found.index.tolist() == [0] * 5
    np.testing.assert_allclose(found.distance, 2)

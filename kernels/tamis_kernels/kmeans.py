"""Lloyd's k-means on all rows: exact assignments, reproducible sums, blocks from anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.arrays import (
    check_integer,
    check_matrix,
    check_norms,
    check_vector,
    place_of,
    strides_of,
)

__all__ = ["KMeans", "Lloyd", "kmeans"]

_Metric = Literal["euclidean", "cosine"]
_Empty = Literal["split", "keep", "error"]
_DTYPES = ("float32", "float64", "float16", "bfloat16")
_GPU_DTYPES = ("float32", "float16", "bfloat16")
_START_ROWS = 32  # a cluster, to draw the starting centres from
_SPLIT = 1 / 16  # how far the halves of a cluster are set apart, of the rows' spread


@dataclass(frozen=True)
class KMeans:
    """k clusters of n rows.

    Attributes:
        centres: (k, d) float32, of the rows' library and on their device; with the cosine metric
            unit vectors.
        labels: (n,) int64: the nearest of the centres that the last iteration began with; of the
            returned ones once ``converged``.
        objective: Σ w · squared distance (cosine: Σ w · (1 − cos)) of every iteration's labels to
            the centres they were found with; never rises but where an empty cluster was refilled.
        converged: Whether the last iteration changed no label.
    """

    centres: Any
    labels: Any
    objective: list[float]
    converged: bool


@dataclass(frozen=True)
class Lloyd:
    """How k-means runs.

    Attributes:
        n_iterations: At most so many; it stops earlier when no label changes.
        metric: "euclidean", or "cosine" for spherical k-means: rows are normalised, centres too.
        empty: What becomes of a cluster without rows: "split" takes half of the heaviest cluster
            (a second centre close to its own), "keep"
            leaves the centre where it was, "error" raises.
        tolerance: Stops when the objective falls by less than this share of itself.
        seed: Of the starting centres, 0 or more.
    """

    n_iterations: int = 50
    metric: _Metric = "euclidean"
    empty: _Empty = "split"
    tolerance: float = 0.0
    seed: int = 0

    @property
    def unit(self) -> bool:
        """Whether rows and centres are unit vectors."""
        return self.metric == "cosine"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("metric", self.metric, ("euclidean", "cosine")),
            ("empty", self.empty, ("split", "keep", "error")),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected {' or '.join(choices)}, found {value!r}")
        if check_integer("n_iterations", self.n_iterations) < 1:
            raise ValueError(f"n_iterations: expected at least 1, found {self.n_iterations}")
        if check_integer("seed", self.seed) < 0:
            raise ValueError(f"seed: expected 0 or more, found {self.seed}")
        if not isinstance(self.tolerance, float | int) or not self.tolerance >= 0:
            raise ValueError(f"tolerance: expected a share of 0 or more, found {self.tolerance!r}")


class _Rows(Protocol):
    """The rows and their state on one device."""

    n_rows: int
    total_squares: float  # Σ w‖x‖²; of normalised rows Σ w
    total_weight: float  # Σ w
    labels: Any

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]: ...

    def assign(
        self, centres: NDArray[np.float32], exact: NDArray[np.float64], drift: NDArray[Any] | None
    ) -> int: ...

    def sums(self, n_centres: int, n_dimensions: int) -> tuple[NDArray[Any], NDArray[Any]]: ...


def kmeans(
    x: Any,
    k: int,
    how: Lloyd | None = None,
    *,
    start: Any = None,
    weights: Any = None,
    backend: Literal["tamis", "faiss"] = "tamis",
    on_iteration: Callable[[int, float, int], object] | None = None,
) -> KMeans:
    """Cluster rows by Lloyd's algorithm.

    Assignments are exact (:func:`tamis_kernels.nearest_prototype`), sums run in float64 in the
    order of the rows: the same input gives the same bits on one machine, with any number of
    threads. On the CPU rows whose label cannot change are passed over (Hamerly 2010), with the same
    result.

    Without ``start``, centres are drawn by k-means++ (Arthur & Vassilvitskii 2007) from 32·k rows,
    chosen at random, with sums of D² in float64.

    Args:
        x: (n, d) float32, float64 (not on a GPU), float16 or bfloat16: an array, which may be
            memory-mapped; or something that gives blocks of rows each time it is iterated over (a
            list of memory-mapped files, an object that reads a stream again), for more rows than
            fit. Norms up to 1e18, for cosine from 1e-30. Centres are float32: data of float64 whose
            spread is below a millionth of their size need their mean subtracted first.
        k: Clusters, 1 ≤ k ≤ n.
        how: Iterations, metric, empty clusters, seed.
        start: (k, d) float32 or float64 to start from, of the same library and device; duplicates
            are allowed (the later ones start empty).
        weights: (n,) of the rows, ≥ 0, not all zero.
        backend: "faiss" runs faiss's k-means without subsampling, from the same start, for
            comparison: on a float32 copy of all rows; exactly ``n_iterations``, after which labels
            are those of the centres returned. It takes no weights, ``on_iteration``, tolerance, or
            policy for empty clusters.
        on_iteration: Called after each iteration with its number from 0, the objective and how many
            labels changed.

    Returns:
        The clusters. O(n · k · d) an iteration at worst; 48 bytes a row beside the data (20 on a
        GPU, and 16 of the largest block), and a few times k · d.

    Raises:
        TypeError: Another dtype or library.
        ValueError: Shapes or values that do not fit; an empty cluster where ``how`` says "error".
        ImportError: faiss is not installed.
    """
    how = Lloyd() if how is None else how
    if not isinstance(how, Lloyd):
        raise TypeError(f"how: expected Lloyd(…), found {how!r}")
    if backend == "faiss":
        _check_for_faiss(how, weights, on_iteration)
    elif backend != "tamis":
        raise ValueError(f"backend: expected tamis or faiss, found {backend!r}")
    k = check_integer("k", k)
    blocks = _Blocks(x)
    rows = _rows_of(blocks, how, weights)
    if not 1 <= k <= rows.n_rows:
        raise ValueError(f"k: expected 1 to {rows.n_rows} clusters, found {k}")
    centres = _plus_plus(rows, k, how.seed) if start is None else _given(start, k, blocks, how.unit)
    if backend == "tamis":
        centres, objective, converged = _lloyd(rows, centres, how, on_iteration)
    else:
        from tamis_kernels.faiss_door import faiss_kmeans

        every = rows.take(np.arange(rows.n_rows))
        centres, objective = faiss_kmeans(every, centres, how.n_iterations, how.unit)
        rows.assign(centres, _exact(centres, how.unit), None)
        converged = False
    # Of a GPU they lie there already.
    labels = rows.labels if blocks.place.on_gpu else blocks.place.from_host(rows.labels)
    return KMeans(blocks.place.from_host(centres), labels, objective, converged)


def _check_for_faiss(how: Lloyd, weights: Any, on_iteration: Any) -> None:
    """Refuse what faiss's k-means does not know."""
    for name, given in (
        ("weights", weights is not None),
        ("on_iteration", on_iteration is not None),
        ("tolerance", how.tolerance > 0),
        (f"empty={how.empty!r}", how.empty != "split"),
    ):
        if given:
            raise ValueError(f"{name}: expected the backend tamis, found faiss, which has no such")


class _Blocks:
    """What was given as x, as blocks of rows of one place, checked in every pass."""

    def __init__(self, x: Any) -> None:
        self._given = [x] if hasattr(x, "dtype") else x
        if not isinstance(self._given, Iterable) or isinstance(x, str | bytes | Mapping):
            raise TypeError(f"x: expected an array or blocks, found {type(x).__qualname__}")
        if iter(self._given) is self._given:
            raise TypeError(
                "x: expected an array or something to iterate over again and again, found "
                f"{type(x).__qualname__}, which ends after one pass"
            )
        first = next(iter(self._given), None)
        if first is None:
            raise ValueError("x: expected at least one row, found no block")
        self.place = place_of(x=first)
        self._dtypes = _GPU_DTYPES if self.place.on_gpu else _DTYPES
        check_matrix("x", first, self._dtypes)
        self.n_dimensions = int(first.shape[1])
        if not self.n_dimensions:
            raise ValueError(f"x: expected shape (n, d ≥ 1), found {tuple(first.shape)}")

    def __iter__(self) -> Iterator[Any]:
        for block in self._given:
            check_matrix("x", block, self._dtypes)
            if place_of(x=block) != self.place or block.shape[1] != self.n_dimensions:
                raise ValueError(
                    f"x: expected blocks (n, {self.n_dimensions}) of {self.place}, found "
                    f"{tuple(block.shape)} of {place_of(x=block)}"
                )
            yield self._with_neighbouring_columns(block)

    def _with_neighbouring_columns(self, block: Any) -> Any:
        """On a GPU kernels need them; a copy only where they lie apart."""
        if not self.place.on_gpu or strides_of(block)[1] == 1:
            return block
        from tamis_kernels.cuda.cupy_door import contiguous

        return contiguous(block)

    def on_host(self) -> Iterator[tuple[NDArray[Any], int]]:
        """NumPy blocks that share memory, with the kind that the CPU's kernels go by."""
        for block in self:
            yield self.place.rows(block)


def _rows_of(blocks: _Blocks, how: Lloyd, weights: Any) -> _Rows:
    of_row = None
    if weights is not None:
        place = place_of(weights=weights)
        if place != blocks.place:
            raise TypeError(f"weights: expected an array of {blocks.place} as x is, found {place}")
        n_weights = int(weights.shape[0]) if weights.ndim else 0
        check_vector("weights", weights, ("float32", "float64"), n_weights)
        of_row = place.to_host(weights).astype(np.float64)
        bad = ~((of_row >= 0) & (of_row <= 1e18))
        if bad.any() or not of_row.sum() > 1e-18:
            raise ValueError(
                "weights: expected numbers of 0 to 1e18 with a positive sum, found "
                f"{int(bad.sum())} others and a sum of {of_row.sum():g}"
            )
    if blocks.place.on_gpu:
        from tamis_kernels.cuda.cupy_door import CupyRuntime
        from tamis_kernels.cuda.kmeans_rows import GpuRows

        runtime = CupyRuntime(blocks.place)
        return GpuRows(blocks, blocks.place, runtime, unit=how.unit, weights=of_row)
    from tamis_kernels.cpu.kmeans_rows import CpuRows

    return CpuRows(blocks.on_host, unit=how.unit, weights=of_row)


def _given(start: Any, k: int, blocks: _Blocks, unit: bool) -> NDArray[np.float32]:
    place = place_of(start=start)
    if place != blocks.place:
        raise TypeError(f"start: expected an array of {blocks.place} as x is, found {place}")
    check_matrix("start", start, ("float32", "float64"), "(k, d)")
    centres = place.to_host(start).astype(np.float32)
    if centres.shape != (k, blocks.n_dimensions):
        raise ValueError(
            f"start: expected shape ({k}, {blocks.n_dimensions}), found {centres.shape}"
        )
    check_norms("start", np.sqrt((centres.astype(np.float64) ** 2).sum(axis=1)), directed=unit)
    return centres


def _plus_plus(rows: _Rows, k: int, seed: int) -> NDArray[np.float32]:
    """k-means++ on rows drawn without replacement; D² sums in float64. O(k · sample · d)."""
    from tamis_kernels.cpu.kmeans import lower_distances

    rng = np.random.default_rng(seed)
    n_sample = min(rows.n_rows, _START_ROWS * k)
    sample = rows.take(np.sort(rng.choice(rows.n_rows, n_sample, replace=False)))
    chosen: list[int] = [int(rng.integers(n_sample))]
    nearest = np.full(n_sample, np.inf)
    for _ in range(k - 1):
        lower_distances(sample, sample[chosen[-1]], nearest)
        nearest[chosen[-1]] = 0.0  # float32 may leave a rest
        reached = np.cumsum(nearest)
        if reached[-1] > 0:
            at = int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))
        else:  # fewer different rows than clusters
            at = int(rng.integers(n_sample))
        chosen.append(min(at, n_sample - 1))
    return np.ascontiguousarray(sample[np.array(chosen)])


def _lloyd(
    rows: _Rows,
    centres: NDArray[np.float32],
    how: Lloyd,
    on_iteration: Callable[[int, float, int], object] | None,
) -> tuple[NDArray[np.float32], list[float], bool]:
    exact, drift = _exact(centres, how.unit), None
    objective: list[float] = []
    refilled = False
    for iteration in range(how.n_iterations):
        n_changed = rows.assign(centres, exact, drift)
        sums, totals = rows.sums(*centres.shape)
        objective.append(_objective(rows.total_squares, sums, totals, exact, how.unit))
        if on_iteration is not None:
            on_iteration(iteration, objective[-1], n_changed)
        if not n_changed:
            return centres, objective, True
        spread = math.sqrt(objective[-1] / rows.total_weight / centres.shape[1])
        centres = _means(sums, totals, centres, how, spread)
        before, exact = exact, _exact(centres, how.unit)
        drift = np.sqrt(((exact - before) ** 2).sum(axis=1))
        refilled, was_refilled = not totals.all(), refilled
        if how.tolerance > 0 and iteration and not (was_refilled or refilled):
            fell = objective[-2] - objective[-1]
            if fell < how.tolerance * objective[-2]:
                break
    return centres, objective, False


def _exact(centres: NDArray[np.float32], unit: bool) -> NDArray[np.float64]:
    """In float64 and, for cosine, as the unit vectors that distances are measured to."""
    exact = centres.astype(np.float64)
    return exact / np.sqrt((exact**2).sum(axis=1, keepdims=True)) if unit else exact


def _objective(
    total_squares: float,
    sums: NDArray[np.float64],
    totals: NDArray[np.float64],
    exact: NDArray[np.float64],
    unit: bool,
) -> float:
    """Σ w‖x − c‖² of labels from their sums: Σ w‖x‖² − 2 Σ S·c + Σ W‖c‖²; halved for cosine."""
    products = float((sums * exact).sum())
    if unit:  # ‖x‖ and ‖c‖ are one
        return max(total_squares - products, 0.0)
    norms = float((totals * (exact**2).sum(axis=1)).sum())
    return max(total_squares - 2 * products + norms, 0.0)


def _means(
    sums: NDArray[np.float64],
    totals: NDArray[np.float64],
    before: NDArray[np.float32],
    how: Lloyd,
    spread: float,
) -> NDArray[np.float32]:
    """New centres; clusters without rows are dealt with as ``how`` says.

    ``spread`` is the root mean square distance of a coordinate from its centre.
    """
    centres = before.astype(np.float64)
    full = totals > 0
    centres[full] = sums[full] / totals[full, None]
    if how.unit:
        centres = _directions(centres, before)
    empty = np.flatnonzero(~full)
    if len(empty) and how.empty == "error":
        raise ValueError(f"expected rows in every cluster, found {len(empty)} empty ones")
    if how.empty == "split":
        weight = totals.copy()
        signs = np.where(np.arange(centres.shape[1]) % 2, 1.0, -1.0)
        for cluster in empty:
            heaviest = int(weight.argmax())
            weight[heaviest] /= 2
            weight[cluster] = weight[heaviest]
            # However short, it halves the rows; but float32 has to tell the two apart.
            step = np.maximum(spread * _SPLIT, np.abs(centres[heaviest]) * 2.0**-20)
            centres[cluster] = centres[heaviest] + signs * step
        if how.unit:
            centres = _directions(centres, before)
    return centres.astype(np.float32)


def _directions(centres: NDArray[np.float64], before: NDArray[np.float32]) -> NDArray[np.float64]:
    """Centres of norm one; where rows cancel, and have no mean direction, the one before."""
    norms = np.sqrt((centres**2).sum(axis=1, keepdims=True))
    kept = np.where(norms > 1e-12, centres, before)
    unit: NDArray[np.float64] = kept / np.sqrt((kept**2).sum(axis=1, keepdims=True))
    return unit

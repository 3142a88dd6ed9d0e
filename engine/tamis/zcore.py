"""ZCore: coverage less redundancy in random subspaces, without labels (Griffin et al. 2024)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.devices import n_cores
from tamis.errors import UsageError
from tamis.hashing import example_hash, example_uniform
from tamis.progress import QUIET, Progress
from tamis.prototypes import check_finite

__all__ = ["ZCoreSettings", "draw_samples", "zcore_scores"]

_LARGEST = {"n_samples": 1 << 30, "n_dimensions": 1 << 16, "n_neighbours": 1 << 30, "exponent": 64}
_ROWS = 8192  # turned into columns at a time
_TILE = 1024  # distances at a time, in the first cache
_PART = 512  # samples between two signs of progress
_PILOT = 4096  # rows that tell about how far the neighbours reach
_FRACTION_BITS = 40  # of scores while they are summed


@dataclass(frozen=True)
class ZCoreSettings:
    """What the authors' code (github.com/voxel51/zcore) takes, with its defaults.

    Attributes:
        n_samples: Points drawn (``n_sample``: 1,000,000 for every dataset).
        n_dimensions: Of the subspace of each (``sample_dim``: 2).
        n_neighbours: That share the redundancy (``redund_nn``: 1,000); all others where the
            embeddings are fewer.
        exponent: Redundancy falls with distance to this power (``redund_exp``: 4).
        random_start: Whether scores start uniform in [0, 1) instead of 0 (``rand_init``: yes).
        seed: Of points, start and ties.

    Raises:
        UsageError: A number out of range.
    """

    n_samples: int = 1_000_000
    n_dimensions: int = 2
    n_neighbours: int = 1000
    exponent: int = 4
    random_start: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise UsageError(
                    f"zcore {name}",
                    expected=f"1 to {largest}",
                    found=str(value),
                    do=f"{getattr(ZCoreSettings, name)} is the paper's",
                )


def zcore_scores(
    embeddings: NDArray[np.float32],
    example_ids: NDArray[np.int64],
    settings: ZCoreSettings | None = None,
    *,
    progress: Progress = QUIET,
) -> NDArray[np.float32]:
    """How much an example adds to the coverage of the embeddings; high = kept first.

    As in the authors' code: each drawn point (:func:`draw_samples`) gives 1 to the example nearest
    to it in its subspace, and takes 1 from the neighbours of that example there, shared in
    proportion to distance^−exponent; where the nearest neighbour is at distance 0, it alone loses
    1. Distances are L1 on embeddings as they come. In the end scores are stretched to 0 … 1.

    Differences: ties, which the authors' code breaks by position or not reproducibly, go to the
    example with the lower hash of seed and id, and the start is such a hash. Scores therefore
    belong to examples: with the rows in another order, or on another number of cores, each has the
    same bits.

    Args:
        embeddings: (n, d) float32, n ≥ 2; may be memory-mapped.
        example_ids: (n,) int64, distinct.
        settings: Numbers of samples and neighbours; None for the paper's.
        progress: Told of drawn points.

    Returns:
        (n,) float32 in 0 … 1, meant for comparison within these embeddings. O(n) time a sample, on
        all cores: the paper's 10^6 samples took 206 seconds of a core for 100,000 rows of 512
        numbers, and would take about 1,400 for 1.28 million. Memory: a copy of the embeddings,
        8 n bytes a core and 150 bytes a sample.

    Raises:
        UsageError: Fewer than 2 rows, fewer than ``n_dimensions`` columns, or a row that is not
            finite.
    """
    settings = ZCoreSettings() if settings is None else settings
    check_finite(embeddings)
    _check_shape(embeddings.shape, settings)
    # Compiled loops give ties to the first row, which is then the one with the lowest hash; and the
    # first rows are a random sample of all.
    ties = example_hash(example_ids, settings.seed, "zcore")
    order = np.lexsort((example_ids, ties))
    columns = _columns(embeddings, order)
    dimensions, points = draw_samples(columns, settings)
    scores = np.empty(len(order))
    scores[order] = _totals(columns, dimensions, points, settings, progress)
    if settings.random_start:
        scores += example_uniform(example_ids, settings.seed, "zcore-start")
    scores -= scores.min()
    scores /= max(scores.max(), np.finfo(np.float64).tiny)  # all may be alike
    return scores.astype(np.float32)


def draw_samples(
    columns: NDArray[np.float32], settings: ZCoreSettings
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Subspaces and a point in each.

    Each coordinate is triangular between the column's smallest and largest number with its median
    as the mode, which covers sparse regions more evenly than the examples themselves do.

    Args:
        columns: (d, n) float32, the embeddings' columns.
        settings: ``n_samples``, ``n_dimensions`` and ``seed`` are used.

    Returns:
        (n_samples, n_dimensions) int64 columns, distinct in each row and ascending; and as many
        float32 coordinates. Samples of one subspace follow each other.
    """
    rng = np.random.default_rng(settings.seed)
    shape = (settings.n_samples, settings.n_dimensions)
    dimensions = np.empty(shape, np.int64)
    for at in range(settings.n_dimensions):
        # One of the columns not yet taken: numbered without them, then moved past each.
        drawn = rng.integers(len(columns) - at, size=settings.n_samples)
        for taken in dimensions[:, :at].T:
            drawn += drawn >= taken
        dimensions[:, at] = drawn
        dimensions[:, : at + 1].sort(axis=1)
    dimensions = dimensions[np.lexsort(dimensions.T[::-1])]
    median = np.array([np.median(column) for column in columns], np.float64)
    low, high = columns.min(axis=1).astype(np.float64), columns.max(axis=1).astype(np.float64)
    a, mode, b = low[dimensions], median[dimensions], high[dimensions]
    uniform = rng.random(shape)
    left = uniform * (b - a) < mode - a
    points = np.where(
        left,
        a + np.sqrt(uniform * (b - a) * (mode - a)),
        b - np.sqrt((1 - uniform) * (b - a) * (b - mode)),
    )
    return dimensions, points.astype(np.float32)


def _check_shape(shape: tuple[int, ...], settings: ZCoreSettings) -> None:
    n_rows, n_columns = shape
    if n_rows < 2 or n_columns < settings.n_dimensions:
        raise UsageError(
            "embeddings",
            expected=f"at least 2 rows of at least {settings.n_dimensions} numbers",
            found=f"{n_rows} of {n_columns}",
            do="use another encoder, or fewer zcore n_dimensions",
        )


def _columns(embeddings: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.float32]:
    """(d, n) float32: the columns, of rows in another order."""
    columns = np.empty(embeddings.shape[::-1], np.float32)
    for start in range(0, len(order), _ROWS):
        columns[:, start : start + _ROWS] = embeddings[order[start : start + _ROWS]].T
    return columns


def _totals(
    columns: NDArray[np.float32],
    dimensions: NDArray[np.int64],
    points: NDArray[np.float32],
    settings: ZCoreSettings,
    progress: Progress,
) -> NDArray[np.float64]:
    """(n,) float64: coverage less redundancy of each row of the columns (d, n)."""
    n_samples, n_rows = len(points), columns.shape[1]
    n_neighbours = min(settings.n_neighbours, n_rows - 1)
    # Sums of integers are the same in any order; those of 2^bits of 1 fit into 62.
    scale = 2.0 ** min(_FRACTION_BITS, 62 - n_samples.bit_length())
    free: SimpleQueue[NDArray[np.int64]] = SimpleQueue()
    sums = [np.zeros(n_rows, np.int64) for _ in range(n_cores())]
    for of_thread in sums:
        free.put(of_thread)

    def score(part: slice) -> int:
        of_thread = free.get()
        try:
            _score_samples(columns, dimensions[part], points[part], n_neighbours, settings.exponent,
                           scale, of_thread)  # fmt: skip
        finally:
            free.put(of_thread)
        return len(points[part])

    parts = [slice(start, start + _PART) for start in range(0, n_samples, _PART)]
    with progress.task("ZCore", n_samples) as advance, ThreadPoolExecutor(len(sums)) as pool:
        for n_done in pool.map(score, parts):
            advance(n_done)
    total: NDArray[np.float64] = sum(sums[1:], sums[0]) / scale
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _score_samples(
    columns: NDArray[np.float32],
    dimensions: NDArray[np.int64],
    points: NDArray[np.float32],
    n_neighbours: int,
    exponent: int,
    scale: float,
    sums: NDArray[np.int64],
) -> None:
    """Add what samples give and take, times ``scale``, to ``sums`` (n,)."""
    centre = np.empty(points.shape[1], np.float32)
    for sample in range(len(points)):
        subspace = dimensions[sample]
        covered = _nearest_row(columns, subspace, points[sample])
        sums[covered] += np.int64(scale)
        for at in range(centre.size):
            centre[at] = columns[subspace[at], covered]
        limit = _reach(columns, subspace, centre, n_neighbours)
        distances, rows = _within(columns, subspace, centre, covered, limit, n_neighbours)
        if len(rows) < n_neighbours:  # the first rows were misleading
            limit = np.float32(np.inf)
            distances, rows = _within(columns, subspace, centre, covered, limit, n_neighbours)
        _keep(distances, rows, len(rows), n_neighbours)
        _take(distances[:n_neighbours], rows, exponent, scale, sums)


@njit(nogil=True, error_model="numpy")
def _measure(
    columns: NDArray[np.float32],
    subspace: NDArray[np.int64],
    centre: NDArray[np.float32],
    start: int,
    distances: NDArray[np.float32],
) -> Any:
    """L1 distances of the rows from ``start`` on, as many as fit; the smallest is returned."""
    n = distances.size
    for at in range(subspace.size):
        column, coordinate = columns[subspace[at]][start : start + n], centre[at]
        if at == 0:
            for i in range(n):
                distances[i] = abs(column[i] - coordinate)
        else:
            for i in range(n):
                distances[i] += abs(column[i] - coordinate)
    least = np.int32(_least(distances.view(np.int32)))
    return least.view(np.float32)


@njit(nogil=True, error_model="numpy")
def _least(bits: NDArray[np.int32]) -> Any:
    """The smallest: floats from 0 on are ordered as their bits, whose minimum runs on vectors."""
    least = bits[0]
    for i in range(bits.size):
        least = min(least, bits[i])
    return least


@njit(nogil=True, cache=True, error_model="numpy")
def _nearest_row(
    columns: NDArray[np.float32], subspace: NDArray[np.int64], point: NDArray[np.float32]
) -> int:
    """The row nearest to a point (m,); the first of several."""
    n_rows = columns.shape[1]
    nearest, least = 0, np.inf
    tile = np.empty(_TILE, np.float32)
    for start in range(0, n_rows, _TILE):
        distances = tile[: min(_TILE, n_rows - start)]
        smallest = _measure(columns, subspace, point, start, distances)
        if smallest < least:
            nearest, least = start + int(distances.argmin()), smallest
    return nearest


@njit(nogil=True, error_model="numpy")
def _reach(
    columns: NDArray[np.float32],
    subspace: NDArray[np.int64],
    centre: NDArray[np.float32],
    n_neighbours: int,
) -> Any:
    """A distance within which there are enough neighbours, most likely; from the first rows."""
    pilot = np.empty(min(_PILOT, columns.shape[1]), np.float32)
    expected = n_neighbours * pilot.size / columns.shape[1]
    wanted = int(expected + 4 * np.sqrt(expected) + 4)
    if wanted >= pilot.size:
        return np.float32(np.inf)
    _measure(columns, subspace, centre, 0, pilot)
    return np.partition(pilot, wanted)[wanted]


@njit(nogil=True, cache=True, error_model="numpy")
def _within(
    columns: NDArray[np.float32],
    subspace: NDArray[np.int64],
    centre: NDArray[np.float32],
    covered: int,
    limit: np.float32,
    n_neighbours: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances and rows, but for ``covered``, within a limit, in the order of the rows.

    Where they become many, only the nearest are kept, and the limit is theirs.
    """
    n_rows = columns.shape[1]
    size = min(4 * n_neighbours, n_rows) + _TILE
    kept, rows = np.empty(size, np.float32), np.empty(size, np.int64)
    n = 0
    tile = np.empty(_TILE, np.float32)
    for start in range(0, n_rows, _TILE):
        distances = tile[: min(_TILE, n_rows - start)]
        if _measure(columns, subspace, centre, start, distances) > limit:
            continue
        if n + _TILE > size:
            n, limit = _keep(kept, rows, n, n_neighbours)
        for i in range(distances.size):
            if distances[i] <= limit and start + i != covered:
                kept[n], rows[n] = distances[i], start + i
                n += 1
    return kept[:n], rows[:n]


@njit(nogil=True, cache=True, error_model="numpy")
def _keep(
    distances: NDArray[np.float32], rows: NDArray[np.int64], n: int, n_neighbours: int
) -> tuple[int, Any]:
    """Move the nearest of n to the front, in their order; how many, and the last distance.

    Of several at the last distance, the first.
    """
    limit = np.partition(distances[:n], n_neighbours - 1)[n_neighbours - 1]
    n_ties = n_neighbours - (distances[:n] < limit).sum()
    to = 0
    for i in range(n):
        if distances[i] < limit or (distances[i] == limit and n_ties > 0):
            n_ties -= distances[i] == limit
            distances[to], rows[to] = distances[i], rows[i]
            to += 1
    return to, limit


@njit(nogil=True, cache=True, error_model="numpy")
def _take(
    distances: NDArray[np.float32],
    rows: NDArray[np.int64],
    exponent: int,
    scale: float,
    sums: NDArray[np.int64],
) -> None:
    """Take ``scale`` from neighbours, in proportion to distance^−exponent."""
    nearest = distances.argmin()
    least = np.float64(distances[nearest])
    if least == 0.0:
        sums[rows[nearest]] -= np.int64(scale)
        return
    weights = np.empty(distances.size)
    for i in range(distances.size):
        weights[i] = (least / distances[i]) ** exponent  # at most 1, however small the distances
    weights *= scale / weights.sum()
    for i in range(distances.size):
        sums[rows[i]] -= np.int64(np.rint(weights[i]))

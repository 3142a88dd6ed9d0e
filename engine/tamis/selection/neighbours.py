"""The graph that joins each row to its nearest others, in blocks, never all distances at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tamis.devices import n_cores
from tamis.progress import QUIET, Progress

__all__ = ["Graph", "neighbour_graph"]

# A tile of products, 2 MiB, stays in a second-level cache until it is looked through.
_TILE_ROWS, _TILE_COLUMNS = 512, 1024


@dataclass(frozen=True)
class Graph:
    """An undirected graph: row i's edges are those from ``starts[i]`` to ``starts[i + 1]``.

    Attributes:
        starts: (n + 1,) int64.
        ends: (m,) int64, the rows at the other ends, in ascending order for each row.
        distances: (m,) float64, Euclidean.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    distances: NDArray[np.float64]

    @property
    def begins(self) -> NDArray[np.int64]:
        """(m,) int64, the row that each edge belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def neighbour_graph(x: NDArray[np.float32], k: int, *, progress: Progress = QUIET) -> Graph:
    """Join each row with its k nearest others; an edge counts for both of its ends.

    Candidates are found by float32 products of the centred rows, twice k and eight more of them
    for each row; which of these are the nearest is decided by distances in float64, and then by
    position. The result does not depend on the number of threads.

    Args:
        x: (n, d) float32, finite, with squares that float32 can hold.
        k: 1 to n − 1.
        progress: Told of every block of rows.

    Returns:
        Between k · n / 2 and k · n edges, each listed from both ends. O(n² · d) time on all cores,
        O(n · k) memory besides the rows.
    """
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    halves = np.empty(len(x), np.float32)
    blocks = range(0, len(x), _TILE_ROWS)
    for first in blocks:
        rows = x[first : first + _TILE_ROWS] - centre
        halves[first : first + _TILE_ROWS] = np.einsum("ij,ij->i", rows, rows) / 2
    index = np.empty((len(x), k), np.int64)
    distance = np.empty((len(x), k), np.float64)

    def search(first: int) -> int:
        some = slice(first, first + _TILE_ROWS)
        _search_block(x, centre, halves, first, index[some], distance[some])
        return len(index[some])

    with (
        threadpool_limits(1, "blas"),  # each of our threads takes whole blocks through all steps
        ThreadPoolExecutor(n_cores()) as pool,
        progress.task("neighbours", len(x)) as advance,
    ):
        try:
            for n_done in pool.map(search, blocks):
                advance(n_done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _undirected(index, distance)


def _search_block(
    x: NDArray[np.float32],
    centre: NDArray[np.float32],
    halves: NDArray[np.float32],
    first: int,
    index: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> None:
    """Fill the nearest of the rows from ``first`` on; x·y − |y|²/2 is largest for the nearest y."""
    n_rows, k = index.shape
    n_candidates = min(2 * k + 8, len(x) - 1)
    values = np.full((n_rows, n_candidates), np.inf, np.float32)
    found = np.zeros((n_rows, n_candidates), np.int64)
    rows = x[first : first + n_rows] - centre
    room = np.empty(n_rows * _TILE_COLUMNS, np.float32)
    for left in range(0, len(x), _TILE_COLUMNS):
        others = x[left : left + _TILE_COLUMNS] - centre
        tile = room[: n_rows * len(others)].reshape(n_rows, len(others))
        np.dot(rows, others.T, out=tile)
        _look_through(tile, halves, first, left, values, found)
    _decide(x, first, found, index, distance)


@njit(nogil=True, cache=True, error_model="numpy")
def _look_through(
    tile: NDArray[np.float32],
    halves: NDArray[np.float32],
    first: int,
    left: int,
    values: NDArray[np.float32],
    found: NDArray[np.int64],
) -> None:
    """Merge a tile of products into each row's candidates, which are sorted."""
    last = values.shape[1] - 1
    for row in range(tile.shape[0]):
        bound = values[row, last]
        for column in range(tile.shape[1]):
            value = halves[left + column] - tile[row, column]
            if value < bound and left + column != first + row:
                place = last
                while place > 0 and values[row, place - 1] > value:
                    values[row, place] = values[row, place - 1]
                    found[row, place] = found[row, place - 1]
                    place -= 1
                values[row, place], found[row, place] = value, left + column
                bound = values[row, last]


@njit(nogil=True, cache=True, error_model="numpy")
def _decide(
    x: NDArray[np.float32],
    first: int,
    found: NDArray[np.int64],
    index: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> None:
    """The k nearest of the candidates by float64, sorted by distance and then by position."""
    k = index.shape[1]
    distance[:] = np.inf
    for row in range(found.shape[0]):
        for other in found[row]:
            square = 0.0
            for i in range(x.shape[1]):
                difference = np.float64(x[first + row, i]) - np.float64(x[other, i])
                square += difference * difference
            length, place = np.sqrt(square), k
            while place > 0 and (
                distance[row, place - 1] > length
                or (distance[row, place - 1] == length and index[row, place - 1] > other)
            ):
                place -= 1
            for after in range(k - 1, place, -1):
                distance[row, after] = distance[row, after - 1]
                index[row, after] = index[row, after - 1]
            if place < k:
                distance[row, place], index[row, place] = length, other


def _undirected(index: NDArray[np.int64], distance: NDArray[np.float64]) -> Graph:
    """The edges of (n, k) neighbours from both ends, none twice."""
    n, k = index.shape
    begins, ends = np.repeat(np.arange(n), k), index.ravel()
    pairs = np.minimum(begins, ends) * n + np.maximum(begins, ends)
    pairs, at = np.unique(pairs, return_index=True)  # (a − b)² is (b − a)², to the last bit
    lengths = distance.ravel()[at]
    begins = np.concatenate((pairs // n, pairs % n))
    ends = np.concatenate((pairs % n, pairs // n))
    order = np.lexsort((ends, begins))
    starts = np.concatenate(([0], np.cumsum(np.bincount(begins, minlength=n))))
    return Graph(starts, ends[order], np.concatenate((lengths, lengths))[order])

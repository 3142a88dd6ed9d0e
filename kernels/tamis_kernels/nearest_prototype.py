"""Nearest and second nearest prototype, without an array of all distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.reference import nearest_prototype as exact_nearest_prototype

__all__ = ["Nearest", "nearest_prototype"]

_CHUNK_BYTES = 16 << 20  # of distances, and of rows in float64, at a time


@dataclass(frozen=True)
class Nearest:
    """The prototypes nearest to n rows.

    Attributes:
        index: (n,) int64, the nearest; ties go to the lowest index.
        distance: (n,) float32 to it.
        second_distance: (n,) float32 to the second nearest; infinite with one prototype.
    """

    index: NDArray[np.int64]
    distance: NDArray[np.float32]
    second_distance: NDArray[np.float32]


def nearest_prototype(
    x: NDArray[Any],
    prototypes: NDArray[Any],
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Nearest:
    """Find the nearest prototype of each row.

    Products run in float32 on centred (Euclidean) or normalised (cosine) rows; rows whose two best
    are closer than the rounding bound are decided again in float64, so that the index is
    float64's wherever float64 itself tells the two apart by more than 1e-6 relative.

    Args:
        x: (n, d) floating; for cosine no row may be all zero.
        prototypes: (k, d) floating, k ≥ 1.
        metric: "cosine" (1 − cos) or "euclidean" (‖x − p‖₂).

    Returns:
        The result; extra memory is O(n) plus about 64 MB. O(n · k · d) time.

    Raises:
        ValueError: Shapes or metric that do not fit, or a zero row with cosine.
    """
    if x.ndim != 2 or prototypes.ndim != 2 or x.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"expected x (n, d), prototypes (k, d); found {x.shape}, {prototypes.shape}"
        )
    if not len(prototypes) or metric not in ("cosine", "euclidean"):
        raise ValueError(
            f"expected k ≥ 1 and cosine or euclidean; found k = {len(prototypes)}, {metric!r}"
        )
    exact = np.asarray(prototypes, np.float64)
    centre = np.zeros(x.shape[1]) if metric == "cosine" else exact.mean(axis=0)
    table = _unit(exact) if metric == "cosine" else exact - centre
    half_norms = np.zeros(len(table)) if metric == "cosine" else 0.5 * (table**2).sum(axis=1)
    index = np.empty(len(x), np.int64)
    best, second = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    rows_at_once = max(1, _CHUNK_BYTES // (8 * max(table.shape)))
    size = float(np.abs(table).max()) or 1.0  # so that float32 holds the squares
    columns = (table / size).T.astype(np.float32)
    half_norms /= size * size
    for start in range(0, len(x), rows_at_once):
        part = slice(start, start + rows_at_once)
        block = np.asarray(x[part], np.float64) - centre
        block = _unit(block) if metric == "cosine" else block
        found = _assign(block, block / size, columns, table, half_norms, metric)
        index[part], best[part], second[part] = found
    return Nearest(index, best, second)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise ValueError("cosine: expected rows with a direction, found an all-zero or NaN row")
    unit: NDArray[np.float64] = rows / norms
    return unit


def _assign(
    block: NDArray[np.float64],
    scaled: NDArray[np.float64],
    columns: NDArray[np.float32],
    table: NDArray[np.float64],
    half_norms: NDArray[np.float64],
    metric: Literal["cosine", "euclidean"],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Largest x·p − ‖p‖²/2 first in float32; both winners' distances again in float64."""
    near = scaled.astype(np.float32) @ columns - half_norms.astype(np.float32)
    rows = np.arange(len(block))
    first = near.argmax(axis=1)
    top = near[rows, first]
    near[rows, first] = -np.inf
    runner = near.argmax(axis=1)
    second_top = near[rows, runner]
    gap = top - second_top
    if len(table) > 2:  # both winners must stand out, from each other and from the third
        near[rows, runner] = -np.inf
        gap = np.minimum(gap, second_top - near.max(axis=1))
    # Rounding of a float32 product of d terms, with the norms as scale.
    scale = np.linalg.norm(scaled, axis=1) * np.sqrt(2 * half_norms.max(initial=0.5))
    close = gap <= 4e-7 * np.sqrt(block.shape[1]) * (scale + half_norms.max(initial=0.0))
    first = first.astype(np.int64)
    best = _distance(block, table[first], metric)
    second = _distance(block, table[runner], metric)
    if len(table) == 1:
        second[:] = np.inf
    if close.any():
        first[close], best[close], second[close] = exact_nearest_prototype(
            block[close], table, metric
        )
    return first, best, second


def _distance(
    a: NDArray[np.float64], b: NDArray[np.float64], metric: Literal["cosine", "euclidean"]
) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = ((a - b) ** 2).sum(axis=1)
    # For unit vectors ‖a − b‖² / 2 = 1 − cos, without its cancellation.
    distances: NDArray[np.float64] = squares / 2 if metric == "cosine" else np.sqrt(squares)
    return distances

"""Prototype metrics: how far an example lies from what is typical (Sorscher et al. 2022, §5).

Distances are cosine: embeddings are normalised, prototypes are means of normalised embeddings.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis_kernels import Lloyd, kmeans, nearest_prototype

__all__ = [
    "check_finite",
    "check_k",
    "class_median_distance",
    "class_prototype_distance",
    "kmeans_prototypes",
    "nearest_prototype_distance",
    "unit_rows",
]

_Float = TypeVar("_Float", np.float32, np.float64)
_SMALLEST, _LARGEST = 1e-60, 1e36  # squared norms that k-means takes
_COLUMNS = 64  # whose medians are found at a time: NumPy sorts a copy
_ROWS = 8192  # whose distances are measured at a time, in float64


def kmeans_prototypes(
    embeddings: NDArray[np.float32], k: int, *, seed: int, n_iterations: int = 50
) -> NDArray[np.float32]:
    """Spherical k-means on all embeddings, from k-means++.

    Args:
        embeddings: (n, d) float32, no row all zero.
        k: Prototypes, 1 ≤ k < n.
        seed: Of the starting points.
        n_iterations: Lloyd iterations at most; it stops when no label changes.

    Returns:
        (k, d) float32 unit vectors. O(n · k · d) an iteration.

    Raises:
        UsageError: k out of range, or an embedding without a direction.
    """
    check_k(k, len(embeddings))
    _check_directions(embeddings)
    how = Lloyd(n_iterations=n_iterations, metric="cosine", seed=seed)
    prototypes: NDArray[np.float32] = kmeans(embeddings, k, how).centres
    return prototypes


def check_k(k: int, n_examples: int) -> None:
    """Refuse a number of prototypes that n examples cannot have.

    Raises:
        UsageError: Not 1 ≤ k < n.
    """
    if not 1 <= k < n_examples:
        raise UsageError(
            "--k",
            expected=f"1 to {n_examples - 1} prototypes for {n_examples} examples",
            found=str(k),
            do="about the number of classes is usual",
        )


def nearest_prototype_distance(
    embeddings: NDArray[np.float32], prototypes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """1 − cos to the nearest prototype, (n,) float32; high = least prototypical."""
    _check_directions(embeddings)
    distance: NDArray[np.float32] = nearest_prototype(embeddings, prototypes, "cosine").distance
    return distance


def class_prototype_distance(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """1 − cos to the mean of the normalised embeddings of the own class, (n,) float32."""
    _check_directions(embeddings)
    distances = np.empty(len(embeddings), np.float32)
    for label in np.unique(labels):
        members = labels == label
        rows = unit_rows(embeddings[members]).astype(np.float64)
        centre = rows.mean(axis=0)
        centre /= np.linalg.norm(centre)
        distances[members] = ((rows - centre) ** 2).sum(axis=1) / 2
    return distances


def class_median_distance(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Distance to the median of the own class (Moderate-DS, Xia et al. 2023, §3).

    The median is taken coordinate by coordinate, the distance is Euclidean, and embeddings are as
    they come, not normalised, as in the authors' code. Moderate-DS keeps the middle of these
    scores: the share next to the 50th percentile.

    Args:
        embeddings: (n, d) float32; may be memory-mapped.
        labels: (n,) integers.

    Returns:
        (n,) float32. O(n · d); beside it 64 columns of the largest class and 8,192 rows in float64.

    Raises:
        UsageError: An embedding that is not finite, or beyond 1e18.
    """
    check_finite(embeddings)
    distances = np.empty(len(embeddings), np.float32)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        centre = _median(embeddings, members)
        for start in range(0, len(members), _ROWS):
            block = members[start : start + _ROWS]
            distances[block] = np.linalg.norm(embeddings[block] - centre, axis=1)
    return distances


def _median(embeddings: NDArray[np.float32], members: NDArray[np.int64]) -> NDArray[np.float64]:
    """(d,) float64, of each coordinate."""
    parts = []
    for start in range(0, embeddings.shape[1], _COLUMNS):
        columns = embeddings[members, start : start + _COLUMNS].astype(np.float64)
        parts.append(np.median(columns, axis=0, overwrite_input=True))
    return np.concatenate(parts)


def unit_rows(rows: NDArray[_Float]) -> NDArray[_Float]:
    """(n, d) rows of norm one, of the same dtype; no row may be all zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    unit: NDArray[_Float] = rows / norms.astype(rows.dtype)[:, None]
    return unit


def check_finite(rows: NDArray[np.float32]) -> None:
    """Refuse embeddings (n, d) with a NaN, an infinity, or a norm beyond 1e18.

    Raises:
        UsageError: There are some.
    """
    n_bad = int((~(_square_norms(rows) <= _LARGEST)).sum())
    if n_bad:
        raise UsageError(
            "embeddings",
            expected="finite rows",
            found=f"{n_bad} rows that are not finite, or beyond 1e18",
            do="use another encoder",
        )


def _check_directions(rows: NDArray[np.float32]) -> None:
    squares = _square_norms(rows)
    bad = ~((squares >= _SMALLEST) & (squares <= _LARGEST))
    if bad.any():
        raise UsageError(
            "embeddings",
            expected="rows with a direction",
            found=f"{int(bad.sum())} rows that are all zero, not finite, or beyond 1e18",
            do="use another encoder",
        )


def _square_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return squares

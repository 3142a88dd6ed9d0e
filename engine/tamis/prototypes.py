"""Prototype metrics: how far an example lies from what is typical (Sorscher et al. 2022, §5).

Distances are cosine: embeddings are normalised, prototypes are means of normalised embeddings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis_kernels import Lloyd, kmeans, nearest_prototype

__all__ = ["check_k", "class_prototype_distance", "kmeans_prototypes", "nearest_prototype_distance"]


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
    rows = _unit(embeddings).astype(np.float64)
    distances = np.empty(len(rows), np.float32)
    for label in np.unique(labels):
        members = labels == label
        centre = rows[members].mean(axis=0)
        centre /= np.linalg.norm(centre)
        distances[members] = ((rows[members] - centre) ** 2).sum(axis=1) / 2
    return distances


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    _check_directions(rows)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _check_directions(rows: NDArray[np.float32]) -> None:
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    bad = ~((squares >= 1e-60) & (squares <= 1e36))  # what k-means takes
    if bad.any():
        raise UsageError(
            "embeddings",
            expected="rows with a direction",
            found=f"{int(bad.sum())} rows that are all zero, not finite, or beyond 1e18",
            do="use another encoder",
        )

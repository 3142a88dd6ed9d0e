"""Prototype metrics: how far an example lies from what is typical (Sorscher et al. 2022, §5).

Distances are cosine: embeddings are normalised, prototypes are means of normalised embeddings.
The only file that imports faiss.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from tamis.errors import DependencyError, UsageError
from tamis_kernels import nearest_prototype

__all__ = ["check_k", "class_prototype_distance", "kmeans_prototypes", "nearest_prototype_distance"]

_START_POINTS = 32  # per prototype, to draw the starting points from


def kmeans_prototypes(
    embeddings: NDArray[np.float32], k: int, *, seed: int, n_iterations: int = 50
) -> NDArray[np.float32]:
    """Spherical k-means with faiss on all embeddings, without its default subsampling.

    Starts from k-means++ on a sample: from faiss's random start, well separated groups share
    prototypes.

    Args:
        embeddings: (n, d) float32, no row all zero.
        k: Prototypes, 1 ≤ k < n.
        seed: Of the starting points.
        n_iterations: Lloyd iterations.

    Returns:
        (k, d) float32 unit vectors. O(n · k · d) an iteration.

    Raises:
        UsageError: k out of range.
        DependencyError: faiss is missing, or two distributions of it are installed.
    """
    check_k(k, len(embeddings))
    faiss = _faiss()
    rows = np.ascontiguousarray(_unit(embeddings))
    rng = np.random.default_rng(seed)
    sample = rows[rng.permutation(len(rows))[: _START_POINTS * k]]
    start, _ = kmeans_plusplus(sample, k, random_state=seed)
    kmeans = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=n_iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    kmeans.train(rows, init_centroids=_unit(start))
    return _unit(np.asarray(kmeans.centroids, np.float32))


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
    return nearest_prototype(embeddings, prototypes, metric="cosine").distance


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
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise UsageError(
            "embeddings",
            expected="rows with a direction",
            found=f"{int((~(norms > 0)).sum())} rows that are all zero or NaN",
            do="use another encoder",
        )
    unit: NDArray[np.float32] = (rows / norms).astype(np.float32)
    return unit


def _faiss() -> ModuleType:
    installed = [name for name in ("faiss-cpu", "faiss-gpu") if _is_installed(name)]
    if len(installed) != 1:
        raise DependencyError(
            "faiss",
            expected="exactly one of faiss-cpu and faiss-gpu",
            found=" and ".join(installed) or "neither",
            do="run: pip uninstall faiss-cpu"
            if installed
            else "run: pip install 'tamis[cpu]' (or 'tamis[cuda]')",
        )
    import faiss

    module: ModuleType = faiss
    return module


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True

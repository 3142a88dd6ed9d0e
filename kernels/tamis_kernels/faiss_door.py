"""The only file that imports faiss: its k-means, for comparison with ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["faiss_kmeans"]


def faiss_kmeans(
    x: NDArray[np.float32], start: NDArray[np.float32], n_iterations: int, unit: bool
) -> tuple[NDArray[np.float32], list[float]]:
    """Lloyd's algorithm by faiss on all rows, without its default subsampling.

    Args:
        x: (n, d) float32; with ``unit`` rows of norm one.
        start: (k, d) float32.
        n_iterations: Exactly so many.
        unit: Spherical k-means.

    Returns:
        Centres (k, d) and the objective of every iteration: Σ squared distance, or Σ (1 − cos).

    Raises:
        ImportError: faiss is not installed.
    """
    import faiss

    found = faiss.Kmeans(
        x.shape[1],
        len(start),
        niter=n_iterations,
        spherical=unit,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    found.train(x, init_centroids=start)
    # Its objective with ``spherical`` is Σ cos.
    objective = [len(x) - float(value) if unit else float(value) for value in np.asarray(found.obj)]
    return np.asarray(found.centroids, np.float32), objective

"""Definition of k-means, in float64."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.reference.nearest_prototype import nearest_prototype

__all__ = ["kmeans"]


def kmeans(
    x: NDArray[Any],
    start: NDArray[Any],
    n_iterations: int,
    metric: Literal["cosine", "euclidean"] = "euclidean",
    weights: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[float]]:
    """Lloyd's algorithm (Lloyd 1982; spherical: Dhillon & Modha 2001), clusters never empty.

    Each iteration gives every row the label of its nearest centre, notes the objective
    Σ w · d(x, c) with d the squared Euclidean distance or 1 − cos, and moves every centre to the
    weighted mean of its rows; spherical k-means normalises rows and means. O(n · k · d) time an
    iteration, O(n · k) memory.

    Args:
        x: (n, d).
        start: (k, d).
        n_iterations: How many.
        metric: "euclidean" or "cosine".
        weights: (n,), or None for ones.

    Returns:
        Centres (k, d), the labels (n,) of the last iteration, and the objective of each.
    """
    x, centres = np.asarray(x, np.float64), np.asarray(start, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    objectives = []
    labels = np.zeros(len(x), np.int64)
    for _ in range(n_iterations):
        labels, distance, _ = nearest_prototype(x, centres, metric)
        objectives.append(float((w * (distance if metric == "cosine" else distance**2)).sum()))
        centres = np.stack(
            [
                np.average(x[labels == c], axis=0, weights=w[labels == c])
                for c in range(len(centres))
            ]
        )
        if metric == "cosine":
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return centres, labels, objectives

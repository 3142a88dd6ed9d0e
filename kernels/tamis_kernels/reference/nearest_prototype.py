"""Definition of nearest_prototype, in float64."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest_prototype"]

_Float64 = NDArray[np.float64]


def nearest_prototype(
    x: NDArray[Any], prototypes: NDArray[Any], metric: Literal["cosine", "euclidean"]
) -> tuple[NDArray[np.int64], _Float64, _Float64]:
    """Index of the nearest prototype, the distance to it and to the second nearest.

    Cosine distance is 1 − cos(x, p); Euclidean is ‖x − p‖₂. Ties go to the lowest index; with one
    prototype the second distance is infinite. O(n · k · d) time, O(n · k) memory.

    Args:
        x: (n, d).
        prototypes: (k, d), k ≥ 1.
        metric: "cosine" or "euclidean".

    Returns:
        (n,) int64, (n,) float64, (n,) float64.
    """
    x, prototypes = np.asarray(x, np.float64), np.asarray(prototypes, np.float64)
    if metric == "cosine":
        unit_x = x / np.linalg.norm(x, axis=1, keepdims=True)
        unit_p = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
        # ‖a − b‖²/2 of unit vectors is 1 − cos without its cancellation: never negative, and equal
        # prototypes give equal distances, which a matrix product does not promise.
        distances = np.stack([((unit_x - p) ** 2).sum(axis=1) / 2 for p in unit_p], axis=1)
    else:
        distances = np.stack([np.linalg.norm(x - p, axis=1) for p in prototypes], axis=1)
    index = distances.argmin(axis=1)
    best = distances[np.arange(len(x)), index]
    distances[np.arange(len(x)), index] = np.inf
    return index, best, distances.min(axis=1)

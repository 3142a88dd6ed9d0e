"""faiss's exact search, against which nearest_prototype is measured, and its threads."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["faiss_search", "faiss_threads", "set_faiss_threads"]


def faiss_search(
    x: NDArray[np.float32], prototypes: NDArray[np.float32], n_nearest: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Squared distances (n, n_nearest) and indices of IndexFlatL2."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(prototypes)
    squares, found = index.search(x, n_nearest)
    return squares, found


def faiss_threads() -> int:
    """How many faiss runs on."""
    return int(faiss.omp_get_max_threads())


def set_faiss_threads(n: int) -> None:
    """Change that."""
    faiss.omp_set_num_threads(n)

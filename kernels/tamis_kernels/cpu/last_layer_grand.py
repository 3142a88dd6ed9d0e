"""Numba twin of last_layer_grand: squares are summed in float64, which no float32's overflows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np

from tamis_kernels.cpu.vector_math import square_norm

__all__ = ["launch"]

_BLOCK = 64  # rows that a thread takes at once


def _norms(features, kind, more, el2n, out):
    """Fill out with el2n · √(‖h‖² + more) for features (n, d ≥ 1) of kind 0, 1 (half), 2 (bf16)."""
    n_rows = len(features)
    for block in numba.prange((n_rows + _BLOCK - 1) // _BLOCK):
        for row in range(block * _BLOCK, min(n_rows, block * _BLOCK + _BLOCK)):
            squares = square_norm(features[row], kind) + more
            out[row] = np.float64(el2n[row]) * math.sqrt(squares)


launch: Callable[..., None] = numba.njit(parallel=True, cache=True)(_norms)

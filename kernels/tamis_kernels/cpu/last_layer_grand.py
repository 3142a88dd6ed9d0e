"""Numba twin of last_layer_grand: squares are summed in float64, which no float32's overflows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
from numba import njit

from tamis_kernels.cpu.vector_math import float_of, half_to_float

__all__ = ["launch"]

_BLOCK = 64  # rows that a thread takes at once


@njit
def _widen(value, kind):  # type: ignore[no-untyped-def]
    """A feature as float64; 16-bit ones come as their bits."""
    if kind == 0:
        return np.float64(value)
    if kind == 1:
        return np.float64(half_to_float(np.int32(value)))
    return np.float64(float_of(np.int32(np.int32(value) << 16)))  # bfloat16 is the upper half


@njit(fastmath={"reassoc", "contract"})
def _sum_of_squares(values, kind):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(len(values)):
        value = _widen(values[j], kind)
        total += value * value
    return total


def _norms(features, kind, more, el2n, out):  # type: ignore[no-untyped-def]
    """Fill out with el2n · √(‖h‖² + more) for features (n, d ≥ 1) of kind 0, 1 (half), 2 (bf16)."""
    n_rows = len(features)
    for block in numba.prange((n_rows + _BLOCK - 1) // _BLOCK):
        for row in range(block * _BLOCK, min(n_rows, block * _BLOCK + _BLOCK)):
            squares = _sum_of_squares(features[row], kind) + more
            out[row] = np.float64(el2n[row]) * math.sqrt(squares)


launch: Callable[..., None] = numba.njit(parallel=True, cache=True)(_norms)

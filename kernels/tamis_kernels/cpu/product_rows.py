"""Rows made ready for a product: centred, rounded, and how much the rounding took."""

from __future__ import annotations

import numpy as np
from numba import njit

from tamis_kernels.cpu.vector_math import bits_of, fetch_row, float_of, number, square_norm

__all__ = ["FETCHED", "LARGE", "load_row", "round_rows"]

_F = np.float32
# Rows of which float32 could not hold the squares, or could not hold them accurately.
_SMALL = _F(1e-12)
LARGE = _F(1e15)
"""Norms from here on, after the table's scaling, are beyond what products serve."""

FETCHED = 4096
"""Bytes of a row that are fetched ahead; the rest the CPU foresees."""

# Sums may be re-ordered: the bounds hold for any order.
_SUM = {"contract", "reassoc", "nsz"}


@njit(nogil=True, error_model="numpy")
def load_row(x, kind, row, out):
    """Copy row ``row`` of x as the numbers it stands for."""
    for i in range(out.size):
        out[i] = number(x[row, i], kind)


@njit(nogil=True, fastmath=_SUM)
def _squares32(v):
    total = _F(0.0)
    for i in range(v.size):
        total += v[i] * v[i]
    return total


@njit(nogil=True)
def _largest_magnitude(v):
    """As integers, which LLVM takes the maximum of in vectors; NaN comes out as NaN."""
    top = np.int32(0)
    for i in range(v.size):
        top = max(top, np.int32(bits_of(v[i]) & 0x7FFFFFFF))
    return float_of(top)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _centre_row(row, factor, centre, inverse_size, v):
    for i in range(v.size):
        v[i] = _F((np.float64(row[i]) * factor - centre[i]) * inverse_size)


@njit(nogil=True, fastmath={"contract"})
def _to_codes(v, inverse, codes):
    for i in range(v.size):  # truncation of a positive number after the shift rounds to nearest
        codes[i] = np.int8(np.int32(v[i] * inverse + _F(128.5)) - np.int32(128))


@njit(nogil=True, fastmath=_SUM)
def _residual(v, codes, step):
    total = _F(0.0)
    for i in range(v.size):
        e = v[i] - step * _F(codes[i])
        total += e * e
    return total


@njit(nogil=True)
def _to_bfloat16(v, halves):
    for i in range(v.size):
        bits = np.int64(bits_of(v[i])) & 0xFFFFFFFF
        halves[i] = np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@njit(nogil=True, fastmath=_SUM)
def _bfloat16_residual(v, halves):
    total = _F(0.0)
    for i in range(v.size):
        e = v[i] - float_of(np.int32(np.int32(halves[i]) << 16))
        total += e * e
    return total


@njit(nogil=True, error_model="numpy", cache=True)
def round_rows(x, kind, rows, unit, centre, inverse_size, row, operand, sizes, factors):
    """Round v = f · x − c of each row into the operand; sizes[i] = step, ‖v − v̂‖, ‖v‖.

    Norms are rounded up. A row that the products cannot serve gets ‖v‖ = ∞. factors[i] is f: 1, or
    1/‖x‖ where ``unit``; NaN for a row with a NaN, and where ``unit`` for one without a direction.
    """
    n_dimensions = centre.size
    v = np.empty(n_dimensions, np.float32)
    round_up = _F(1 + (n_dimensions + 8) * 2.0**-24)  # of a sum of d terms in any order
    lengths = np.sqrt(square_norm(centre, 0))
    for i in range(rows.size):
        fetch_row(x, rows[min(i + 2, rows.size - 1)], 0, FETCHED // x.itemsize)
        load_row(x, kind, rows[i], row)
        factor = 1.0 / np.sqrt(square_norm(row, 0)) if unit else 1.0
        _centre_row(row, factor, centre, inverse_size, v)
        norm = np.sqrt(_squares32(v)) * round_up
        # Of the subtraction in float64, where ‖f · x‖ ≤ ‖v‖ + ‖c‖, and of its rounding to float32.
        slack = _F(lengths * inverse_size * 2.0**-49) + norm * _F(2.0**-22)
        step, left_over = _F(1.0), _F(0.0)
        usable = norm > _SMALL and norm < LARGE
        if operand.itemsize == 4:  # float32
            for j in range(n_dimensions):
                operand[i, j] = v[j]
        elif operand.itemsize == 2:  # bfloat16
            _to_bfloat16(v, operand[i])
            left_over = np.sqrt(_bfloat16_residual(v, operand[i])) * round_up
        else:
            top = _largest_magnitude(v) if usable else _F(1.0)
            step = top / _F(127.0)
            if usable:
                _to_codes(v, _F(126.9999) / top, operand[i])  # below 127.5 after all roundings
                left_over = np.sqrt(_residual(v, operand[i], step)) * round_up
        sizes[i, 0], sizes[i, 1] = step, left_over + slack
        sizes[i, 2] = norm if usable else _F(np.inf)
        lost = np.isnan(norm) or (unit and (factor == 0.0 or np.isinf(factor)))
        factors[i] = np.nan if lost else factor

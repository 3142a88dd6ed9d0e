"""Scores of a product → the nearest two prototypes, by bounds first and then by distances."""

from __future__ import annotations

import numpy as np
from numba import njit

from tamis_kernels.cpu.product_rows import FETCHED, LARGE, load_row
from tamis_kernels.cpu.vector_math import fetch_row, float_of

__all__ = ["decide"]

_F = np.float32
_BIG = _F(3e38)
_TINY, _HUGE = 1e-30, 1e30
_LANES = 64  # by which scores are looked through
# A bfloat16 has eight bits: half a unit in the last place, and a hair for the bound's own rounding.
_BFLOAT16_UNIT = _F(2.0**-8 * 1.01)
# Sums may be re-ordered: the bounds hold for any order.
_SUM = {"contract", "reassoc", "nsz"}


@njit(nogil=True, fastmath={"contract"})
def _values(products, step, scale, half_norms, values):
    """Fill values with product − ‖p'‖²/2 of each prototype; of what is behind them, nothing."""
    if products.itemsize == 2:  # bits of bfloat16; scale is 1
        for j in range(products.size):
            values[j] = float_of(np.int32(np.int32(products[j]) << 16)) - half_norms[j]
    else:
        for j in range(products.size):
            values[j] = _F(products[j]) * (step * scale[j]) - half_norms[j]


@njit(nogil=True, fastmath={"nnan", "nsz"})
def _largest_two(values, firsts, seconds):
    """Fill the largest and the second largest of values[lane], values[lane + _LANES], … by lane.

    By lane, because those of neighbours would need steps across a vector's lanes. No value is NaN.
    """
    for lane in range(_LANES):
        firsts[lane], seconds[lane] = values[lane], -_BIG
    for start in range(_LANES, values.size, _LANES):
        part = values[start : start + _LANES]
        for lane in range(_LANES):
            value, first, second = part[lane], firsts[lane], seconds[lane]
            lesser = value if value < first else first
            firsts[lane] = value if value > first else first
            seconds[lane] = lesser if lesser > second else second


@njit(nogil=True)
def _second_largest(firsts, seconds):
    """Of all lanes; equal to the largest where that stands twice."""
    first, second = -_BIG, -_BIG
    for lane in range(_LANES):
        value = firsts[lane]
        lesser = value if value < first else first
        first = value if value > first else first
        second = max(second, max(lesser, seconds[lane]))
    return second


@njit(nogil=True)
def _collect(values, firsts, threshold, n_prototypes, lanes, candidates):
    """Fill candidates, lane by lane, with the prototypes from the threshold on; gives how many.

    Each is written, and kept by going on behind it: a CPU cannot guess which will be.
    """
    n_lanes, n = 0, 0
    for lane in range(_LANES):
        lanes[n_lanes] = lane
        n_lanes += firsts[lane] >= threshold
    for a in range(n_lanes):
        for j in range(lanes[a], n_prototypes, _LANES):
            candidates[n] = j
            n += values[j] >= threshold
    return n


@njit(nogil=True)
def _tighten(values, half_norms, errors, of_row, candidates, n, upper):
    """Drop the candidates that their own bounds exclude, not the table's largest."""
    residual, norm, relative, rounding = of_row
    first, second = -_BIG, -_BIG  # largest lower bounds
    for a in range(n):
        j = candidates[a]
        norm_p = errors[j, 0]
        bound = residual * norm_p + norm * errors[j, 1]
        bound += relative * (norm * norm_p + half_norms[j])
        bound += _F(1.02) * rounding * abs(values[j] + half_norms[j])
        upper[a] = values[j] + bound * _F(1.0001)
        lower = values[j] - bound * _F(1.0001)
        second = max(second, min(first, lower))
        first = max(first, lower)
    kept = 0
    for a in range(n):
        candidates[kept] = candidates[a]
        kept += upper[a] >= second
    return kept


@njit(nogil=True, fastmath=_SUM)
def _distance32(a, factor_a, b, factor_b):
    total = _F(0.0)
    for i in range(a.size):
        e = _F(a[i]) * factor_a - _F(b[i]) * factor_b
        total += e * e
    return total


@njit(nogil=True, fastmath=_SUM)
def _distance64(a, factor_a, b, factor_b):
    total = 0.0
    if factor_a == 1.0 and factor_b == 1.0:
        for i in range(a.size):
            e = np.float64(a[i]) - np.float64(b[i])
            total += e * e
    else:
        for i in range(a.size):
            e = np.float64(a[i]) * factor_a - np.float64(b[i]) * factor_b
            total += e * e
    return total


@njit(nogil=True)
def _filter(row, factor, exact, inverse_norms, unit, candidates, n, lowest):
    """Drop the candidates that distances in float32 already exclude."""
    relative = _F((row.size + 8) * 2.0**-24 * 1.02)
    first, second = _F(np.inf), _F(np.inf)  # smallest upper bounds
    for a in range(n):
        j = candidates[a]
        square = _distance32(row, _F(factor), exact[j], _F(inverse_norms[j]))
        error = relative * square + _F(1e-36)
        if unit:  # each difference of unit vectors' coordinates was rounded before it was squared
            error += _F(2.0**-20) * np.sqrt(square) + _F(2.0**-40)
        lowest[a] = square - error
        upper = square + error
        second = min(second, max(first, upper))
        first = min(first, upper)
    kept = 0
    for a in range(n):
        candidates[kept] = candidates[a]
        kept += not (lowest[a] > second)
    return kept


@njit(nogil=True)
def _nearest_two(row, factor, exact, inverse_norms, candidates, n):
    """The nearest of some candidates, of equals the first prototype, and the two squares."""
    first, second, nearest = np.inf, np.inf, 0
    for a in range(n):
        j = candidates[a]
        square = _distance64(row, factor, exact[j], inverse_norms[j])
        if square < first or (square == first and j < nearest):
            first, second, nearest = square, first, j
        elif square < second:
            second = square
    return nearest, first, second


@njit(nogil=True, error_model="numpy", cache=True)
def decide(
    x,
    kind,
    rows,
    scores,
    sizes,
    factors,
    scale,
    half_norms,
    errors,
    largest,
    exact,
    inverse_norms,
    unit,
    row,
    outputs,
    counts,
):
    """Fill the outputs of the rows from the scores of one chunk."""
    index, distance, second_distance = outputs
    n_prototypes = exact.shape[0]
    length = (scale.size + _LANES - 1) // _LANES * _LANES
    values = np.full(length, -_BIG, np.float32)
    firsts, seconds = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    lanes, candidates = np.empty(_LANES, np.int64), np.empty(n_prototypes, np.int64)
    lowest = np.empty(n_prototypes, np.float32)
    norm_p, residual_p, half_p, summing = largest
    # What float32 holds accurately, factors of unit vectors included.
    all_float32 = row.itemsize == 4 and exact.itemsize == 4
    all_float32 &= inverse_norms.min() > _TINY and inverse_norms.max() < _HUGE
    for i in range(rows.size):
        step, residual, norm = sizes[i, 0], sizes[i, 1], sizes[i, 2]
        factor = factors[i]
        if np.isnan(factor):
            counts[1] += unit
            index[rows[i]] = 0
            distance[rows[i]] = second_distance[rows[i]] = np.nan
            continue
        fetch_row(x, rows[min(i + 1, rows.size - 1)], 0, FETCHED // x.itemsize)
        load_row(x, kind, rows[i], row)
        n = n_prototypes
        if norm < LARGE:
            _values(scores[i], step, scale, half_norms, values)
            _largest_two(values, firsts, seconds)
            bound = residual * norm_p + norm * residual_p
            bound += (summing + _F(2.0**-20)) * (norm * norm_p + half_p)
            second_value = _second_largest(firsts, seconds)
            if scores.itemsize == 2:
                # The product itself was rounded, by a share of itself that shrinks more slowly
                # than values fall: what holds at the second largest holds below it.
                bound += _F(1.6) * _BFLOAT16_UNIT * (abs(second_value) + half_p)
            threshold = second_value - _F(2.02) * bound
            n = _collect(values, firsts, threshold, n_prototypes, lanes, candidates)
            if n > 3:
                rounding = _BFLOAT16_UNIT if scores.itemsize == 2 else _F(0.0)
                own = (residual, norm, summing + _F(2.0**-20), rounding)
                n = _tighten(values, half_norms, errors, own, candidates, n, lowest)
            counts[0] += n
            if n > 3 and all_float32 and _TINY < factor < _HUGE:
                n = _filter(row, factor, exact, inverse_norms, unit, candidates, n, lowest)
        else:
            for j in range(n):
                candidates[j] = j
        nearest, first, second = _nearest_two(row, factor, exact, inverse_norms, candidates, n)
        index[rows[i]] = nearest
        distance[rows[i]] = 0.5 * first if unit else np.sqrt(first)
        second_distance[rows[i]] = 0.5 * second if unit else np.sqrt(second)

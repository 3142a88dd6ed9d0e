"""Numba parts of k-means: bounds that spare searches, sums by label, D² sampling.

Bounds are Hamerly's (2010, "Making k-means even faster"): a row whose distance to its centre is
surely smaller than that to any other keeps its label, so the labels are those of a full search.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit

from tamis_kernels.cpu.vector_math import fetch_row, number, square_norm

__all__ = ["lower_distances", "move_bounds", "row_norms", "sum_by_label"]

_SUM = {"contract", "reassoc", "nsz"}
_STRETCH = 16384  # rows, at least; a memory map is read in order but for within these
# Of bounds that moved over many iterations, and of distances in float64.
_SLACK = 1e-9


@njit(fastmath=_SUM)
def _square_distance(row, kind, factor, centre):
    total = 0.0
    for j in range(row.size):
        e = np.float64(number(row[j], kind)) * factor - centre[j]
        total += e * e
    return total


@njit(parallel=True, cache=True)
def row_norms(x, kind, out):
    """‖x‖ of each row, float64."""
    for i in numba.prange(len(x)):
        out[i] = math.sqrt(square_norm(x[i], kind))


@njit(parallel=True, cache=True, error_model="numpy")
def move_bounds(x, kind, factors, centres, drift, labels, near, far, active):
    """After the centres moved: which rows may have another nearest centre now.

    Args:
        x: (n, d) rows, of ``kind``.
        kind: 0 floats, 1 bits of float16, 2 bits of bfloat16.
        factors: (n,) what each row is multiplied with.
        centres: (k, d) float64, after the move.
        drift: (k,) float64, how far each moved.
        labels: (n,) int64.
        near: (n,) float64 upper bound of the distance to the row's own centre; moved in place.
        far: (n,) float64 lower bound of that to all others; moved in place.
        active: (n,) bool, filled.
    """
    # How far any centre but the own one has moved.
    first, second, mover = 0.0, 0.0, -1
    for c in range(drift.size):
        if drift[c] > first:
            first, second, mover = drift[c], first, c
        elif drift[c] > second:
            second = drift[c]
    for i in numba.prange(len(labels)):
        label = labels[i]
        near[i] += drift[label]
        far[i] -= second if label == mover else first
        active[i] = not near[i] * (1.0 + _SLACK) < far[i]
        if active[i] and far[i] > 0.0:  # one distance may spare k
            near[i] = math.sqrt(_square_distance(x[i], kind, factors[i], centres[label]))
            active[i] = not near[i] * (1.0 + _SLACK) < far[i]


@njit
def _sort_by_label(labels, ends, order):
    """Fill order (n,) with the rows by label, those of one label in their order; ends: (k + 1,)."""
    ends[:] = 0
    for label in labels:
        ends[label + 1] += 1
    for c in range(1, ends.size):
        ends[c] += ends[c - 1]
    for i in range(labels.size):
        order[ends[labels[i]]] = i
        ends[labels[i]] += 1


@njit(parallel=True, cache=True)
def sum_by_label(x, kind, multipliers, labels, n_parts, sums):
    """Add multiplier · row to the sums (k, d) float64 of its label, in the order of the rows.

    The columns, not the rows, are shared out in ``n_parts``: a sum is then the same bits with any
    number of threads. Stretches of rows are taken label by label, so that a sum stays in the cache.
    """
    n_rows, n_dimensions = x.shape
    stretch = max(_STRETCH, 4 * len(sums))
    order, ends = np.empty(min(stretch, n_rows), np.int64), np.empty(len(sums) + 1, np.int64)
    for start in range(0, n_rows, stretch):
        n = min(start + stretch, n_rows) - start
        _sort_by_label(labels[start : start + n], ends, order)
        for part in numba.prange(n_parts):
            begin, end = n_dimensions * part // n_parts, n_dimensions * (part + 1) // n_parts
            for at in range(n):
                fetch_row(x, start + order[min(at + 2, n - 1)], begin, end)
                i = start + order[at]
                total, row, multiplier = sums[labels[i]], x[i], multipliers[i]
                for j in range(begin, end):
                    total[j] += np.float64(number(row[j], kind)) * multiplier


@njit(parallel=True, cache=True)
def lower_distances(x, centre, nearest):
    """Lower nearest (n,) float64 to the squared distance of each float32 row to a new centre."""
    for i in numba.prange(len(x)):
        nearest[i] = min(nearest[i], np.float64(_square_distance32(x[i], centre)))


@njit(fastmath=_SUM)
def _square_distance32(a, b):
    total = np.float32(0.0)
    for j in range(a.size):
        e = a[j] - b[j]
        total += e * e
    return total

"""Numba twin of row_scores: rows are scored in float32, at as many values as the CPU has lanes.

Each row is copied once to a scratch row in the first-level cache, where the passes over it run. Up
to ``_FEW`` classes, where a row is shorter than a vector, the loops run across rows instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis_kernels.cpu.row_sums import LONGEST, STEP, sums_below
from tamis_kernels.cpu.vector_math import (
    LOWEST,
    bits_of,
    exp_neg,
    exp_within,
    float_of,
    log1p_pos,
    number,
    order_key,
    sqrt_of,
)

__all__ = ["launch"]

# Sums may be re-ordered (that is what lanes do); NaN and infinity keep their meaning.
_SUMS = {"reassoc", "nsz", "contract", "arcp"}
_F = np.float32
_INF = _F(np.inf)
_FEW = 64  # classes
_BLOCK = 256  # rows that are finished together
# Logits up to which one thread scores them: others would be woken for some microseconds of work,
# and then look out for more while whoever trains wants their cores.
_LITTLE = 1 << 16
_AHEAD = 8192  # classes up to which a later row is fetched meanwhile


@njit
def _largest(z):
    """As an integer, because LLVM does not vectorise a maximum that knows NaN."""
    top = np.int32(-0x80000000)
    for j in range(len(z)):
        top = max(top, order_key(bits_of(z[j])))
    return top


@njit
def _take_row(row, kind, label, z):
    """Copy a row to z, with −∞ for the label; gives the largest of the others."""
    top = np.int32(-0x80000000)
    for j in range(len(row)):
        value = number(row[j], kind)
        z[j] = value
        top = max(top, order_key(bits_of(value)))
    own = order_key(bits_of(z[label]))
    z[label] = -_INF
    if own == top:
        top = _largest(z)
    return float_of(order_key(top))


@njit
def _shift(peak):
    """What is taken from all: the peak, or nothing from −∞, from which it would leave NaN."""
    return _F(0.0) if peak == -_INF else peak


@njit(fastmath={"contract"})
def _below(z, peak):
    """z − peak, not below ``LOWEST``: −∞ · 0 would be NaN."""
    g = z - peak
    return LOWEST if g < LOWEST else g


@njit
def _first_other(z, n, peak):
    for j in range(n):
        if z[j] == peak:
            return j
    return n


@njit
def _long_rows(logits, kind, labels, rows, z, parts):
    """Fill parts[:, i] for the rows in ``rows``, one row after the other."""
    n_classes = logits.shape[1]
    for i in range(rows[1] - rows[0]):
        row = rows[0] + i
        label = labels[row]
        own = number(logits[row, label], kind)
        peak = _take_row(logits[row], kind, label, z)
        shift = _shift(peak)
        # The next one would come too late. What comes in a long one the CPU foresees, so that its
        # own lines are asked for again, which costs nothing.
        ahead = min(row + 2, len(logits) - 1) if n_classes <= _AHEAD else row
        total, squares, weighted, n_top = 0.0, 0.0, 0.0, 0.0
        for start in range(0, len(z), LONGEST):  # float32 would drift over a hundred thousand
            part = sums_below(z[start : start + LONGEST], shift, logits, ahead, start)
            total += part[0]
            squares += part[1]
            weighted += part[2]
            n_top += part[3]
        parts[0, i], parts[1, i] = own, peak
        parts[2, i], parts[3, i], parts[4, i] = total, squares, weighted
        parts[5, i] = _F(n_top)
        first = _first_other(z, n_classes, peak) if own == peak else 0
        parts[6, i] = _F(1.0) if own > peak or (own == peak and label < first) else _F(0.0)


@njit(fastmath=_SUMS)
def _short_rows(logits, kind, labels, rows, z, parts):
    """The same with a lane a row; z is (n_classes, _BLOCK)."""
    n_classes, n = logits.shape[1], rows[1] - rows[0]
    for i in range(n):
        for j in range(n_classes):
            z[j, i] = number(logits[rows[0] + i, j], kind)
    for i in range(n):
        label = labels[rows[0] + i]
        parts[0, i] = z[label, i]
        z[label, i] = -_INF
    own, peak, n_before = parts[0], parts[1], parts[6]
    for i in range(n):
        peak[i] = z[0, i]
    for j in range(1, n_classes):
        for i in range(n):  # a NaN may be lost here; the sums find it
            peak[i] = peak[i] if peak[i] >= z[j, i] else z[j, i]
    parts[2:6] = _F(0.0)
    total, squares, weighted, n_top = parts[2], parts[3], parts[4], parts[5]
    for j in range(n_classes):
        for i in range(n):
            shift = _shift(peak[i])
            g = _below(z[j, i], shift)
            n_top[i] += _F(1.0) if z[j, i] == shift else _F(0.0)
            e = _F(0.0) if z[j, i] == shift else exp_within(g)
            total[i] += e
            squares[i] += e * e
            weighted[i] -= e * g
    n_before[:n] = _F(0.0)
    for i in range(n):
        if own[i] == peak[i]:
            n_before[i] = _first_other(z[:, i], labels[rows[0] + i], peak[i]) < labels[rows[0] + i]
    for i in range(n):
        right = (own[i] > peak[i]) | ((own[i] == peak[i]) & (n_before[i] == _F(0.0)))
        n_before[i] = _F(1.0) if right else _F(0.0)


@njit(fastmath={"contract"}, error_model="numpy")
def _finish(parts, n, out, start):
    """The six scores from the sums over the other classes; formulas in the module reference.

    All terms are positive, so nothing cancels. With d = z_y − max of the others, everything is
    scaled by e^−max(z); E = e^−|d|.
    """
    stop = start + n  # slices, because an index that may be negative would cost a select
    loss, el2n, margin = out[0][start:stop], out[1][start:stop], out[2][start:stop]
    entropy, p_label, correct = out[3][start:stop], out[4][start:stop], out[5][start:stop]
    for i in range(n):
        own, peak = parts[0, i], parts[1, i]
        total, squares, weighted = parts[2, i], parts[3, i], parts[4, i]
        n_top = max(parts[5, i], _F(1.0))  # 0 where every other logit is −∞
        d = own - peak
        taken = d - own
        lost = (own - (d - taken)) - (peak + taken)  # own − peak = d + lost, exactly
        broken = (own == _INF) | (weighted != weighted) | (d != d)
        lost = _F(0.0) if (lost != lost) | (abs(lost) > _F(1.0)) else lost
        right = d >= _F(0.0)
        lost = lost if right else -lost
        gap = abs(d)
        root = exp_neg(_F(-0.5) * gap)  # squared, so that it underflows as it should
        scale = root * root * (_F(1.0) - lost)
        gap = min(gap, _F(200.0))
        others = total + n_top
        rest = scale * others if right else (total + (n_top - _F(1.0))) + scale
        z = _F(1.0) + rest
        log_z = log1p_pos(rest)
        of_others = scale if right else _F(1.0)
        spread = scale * (gap * others + weighted) if right else weighted + scale * gap
        nan = _F(np.nan)
        loss[i] = nan if broken else (log_z if right else log_z - d)
        el2n[i] = nan if broken else of_others * sqrt_of(squares + n_top + others * others) / z
        margin[i] = nan if broken else d
        entropy[i] = nan if broken else log_z + spread / z
        p_label[i] = nan if broken else (_F(1.0) if right else scale) / z
        correct[i] = (parts[6, i] != _F(0.0)) & (not broken)


@njit
def _score_block(logits, kind, labels, out, block):
    """Fill the outputs for a block of rows."""
    n_rows, n_classes = logits.shape
    rows = (block * _BLOCK, min(n_rows, block * _BLOCK + _BLOCK))
    parts = np.empty((7, _BLOCK), np.float32)
    if n_classes <= _FEW:
        columns = np.empty((n_classes, _BLOCK), np.float32)
        _short_rows(logits, kind, labels, rows, columns, parts)
    else:
        length = (n_classes + STEP - 1) // STEP * STEP  # the end stays −∞
        _long_rows(logits, kind, labels, rows, np.full(length, -_INF, np.float32), parts)
    _finish(parts, rows[1] - rows[0], out, rows[0])


def _by_one_thread(logits, kind, labels, out):
    for block in range((len(logits) + _BLOCK - 1) // _BLOCK):
        _score_block(logits, kind, labels, out, block)


def _by_threads(logits, kind, labels, out):
    for block in numba.prange((len(logits) + _BLOCK - 1) // _BLOCK):
        _score_block(logits, kind, labels, out, block)


_launch_one: Callable[..., None] = numba.njit(cache=True)(_by_one_thread)
_launch_many: Callable[..., None] = numba.njit(parallel=True, cache=True)(_by_threads)


def launch(
    logits: NDArray[Any],
    kind: int,
    labels: NDArray[Any],
    out: tuple[NDArray[Any], ...],
) -> None:
    """Fill the outputs for logits (n, c ≥ 2) of kind 0 (float32), 1 (half), 2 (bfloat16)."""
    launch_ = _launch_many if logits.size > _LITTLE else _launch_one
    launch_(logits, kind, labels, out)

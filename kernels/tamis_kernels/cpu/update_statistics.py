"""Numba twin of update_statistics: a pass that finds each id's last row, and one that updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["launch"]

_BLOCK = 1024  # rows that a thread takes at once
_FEW = 16384  # rows up to which waking other threads would take longer than the work


@njit(error_model="numpy")
def _add_value(means, m2, at, count, value):
    """Welford's update of means[at] and m2[at] by the count-th value.

    In float64, so that only the stored result is rounded.
    """
    x = np.float64(value)
    mean, squares = (np.float64(means[at]), np.float64(m2[at])) if count > 1 else (0.0, 0.0)
    delta = x - mean
    mean += delta / count
    if count > 1:
        squares += delta * (x - mean)
    broken = not math.isfinite(delta)
    means[at] = np.float32(np.nan) if broken else np.float32(mean)
    m2[at] = np.float32(np.nan) if broken else np.float32(squares)


@njit
def _count_presentation(state, example, correct):
    """The counters of one example; gives its presentations so far."""
    count, forgetting, first_learned, last_correct, _, _, _, epoch = state
    count[example] += 1
    if correct:
        first = first_learned[example]
        first_learned[example] = epoch[0] if first < 0 else min(first, epoch[0])
    elif last_correct[example]:
        forgetting[example] += 1
    last_correct[example] = correct
    return count[example]


@njit
def _update_rows(rows, example_ids, values, correct, state):
    """Update the state by the rows from rows[0] to rows[1] that are their ids' last."""
    means, m2, claim = state[4], state[5], state[6]
    for row in range(rows[0], rows[1]):
        example = example_ids[row]
        if claim[example] == row:  # another row of this id finds this one's number or −1
            claim[example] = -1
            count = _count_presentation(state, example, correct[row])
            for slot in range(len(values)):
                _add_value(means[slot], m2[slot], example, count, values[slot, row])


@njit
def _claim(example_ids, claim):
    for row in range(len(example_ids)):
        claim[example_ids[row]] = row


def _by_one_thread(example_ids, values, correct, state):
    _claim(example_ids, state[6])
    _update_rows((0, len(example_ids)), example_ids, values, correct, state)


def _by_threads(example_ids, values, correct, state):
    _claim(example_ids, state[6])
    n_rows = len(example_ids)
    for block in numba.prange((n_rows + _BLOCK - 1) // _BLOCK):
        rows = (block * _BLOCK, min(n_rows, block * _BLOCK + _BLOCK))
        _update_rows(rows, example_ids, values, correct, state)


_launch_one: Callable[..., None] = njit(cache=True)(_by_one_thread)
_launch_many: Callable[..., None] = njit(parallel=True, cache=True)(_by_threads)


def launch(
    example_ids: NDArray[np.int64],
    values: NDArray[np.float32],
    correct: NDArray[np.bool_],
    state: tuple[NDArray[Any], ...],
) -> None:
    """Update the state's arrays by b rows of ids in range and values (tracked, b)."""
    launch_ = _launch_many if len(example_ids) > _FEW else _launch_one
    # Not uint8: FFCV marks numba's type of these vectors, which all share, as read-only, and numba
    # then does not find again what it has compiled for them.
    signed = tuple(array.view(np.int8) if array.dtype == np.uint8 else array for array in state)
    launch_(example_ids, values, correct, signed)

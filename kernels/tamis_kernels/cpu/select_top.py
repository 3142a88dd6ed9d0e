"""Numba twin of select_top: a radix select over every class at once.

Rows are ranked by three words: the score's (32 bits), the hash of the id (64) and the position
(32), smallest first. A pass over the rows takes one digit: it counts, class by class, the rows that
still share all digits so far with their class's threshold, and the digit of the threshold is the
one at which the running sum reaches what the class keeps. Two or three passes settle most scores,
because a class is done as soon as a whole bucket is kept. Each thread counts its own stretch of
rows, so that the counts are the same however many there are.

No vector here is of unsigned integers: FFCV marks numba's types of these, which all share, as
read-only, and numba then does not find again what it has compiled for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from tamis_kernels.cpu.vector_math import bits_of, order_key

__all__ = ["launch"]

_F, _I, _U = np.float32, np.int64, np.uint64
_ONE, _ONES = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SCORE, _HASH = 0, 1  # the words; position is the last
_OPEN, _SETTLED = 0, 1  # a class whose threshold is sought, and one whose is known
_WORST, _LOW_WORD = np.uint64(0xFFFFFFFF), np.int64(0xFFFFFFFF)
_BINS = 2**18  # of 4 bytes, of one thread: as much as a second-level cache holds
_ALL_BINS = 2**24  # of all threads
_ROWS_A_THREAD = 2**16  # fewer are not worth another thread


def launch(
    scores: NDArray[np.float32],
    ids: NDArray[Any],
    count: int,
    labels: NDArray[Any] | None,
    quotas: NDArray[np.int64] | None,
    key: int,
    kept: NDArray[np.bool_],
) -> None:
    """Mark the rows that are kept, n ≥ 1.

    Args:
        scores: (n,).
        ids: (n,) int64 or int32.
        count: Rows to keep.
        labels: (n,) int64 or int32 below len(quotas), or None.
        quotas: (n_classes,) whose sum is at most ``count``, or None.
        key: What the hash adds to each id.
        kept: (n,), is filled.
    """
    one = np.zeros(1, np.int64)
    args = (one, one[:0]) if labels is None or quotas is None else (labels, quotas)
    select = _compiled(str(ids.dtype), str(args[0].dtype))
    allowed = numba.get_num_threads()
    n_threads = max(1, min(allowed, len(scores) // _ROWS_A_THREAD))
    numba.set_num_threads(n_threads)  # of this Python thread: waking a team costs more than a pass
    try:
        select(scores, ids, *args, np.uint64(key), count, n_threads, kept)
    finally:
        numba.set_num_threads(allowed)


@cache
def _compiled(id_type: str, label_type: str) -> Callable[..., None]:
    """For arrays of any layout, which may be read-only: memory maps are not copied."""
    vectors = [
        types.Array(kind, 1, "A", readonly=True)
        for kind in (types.float32, getattr(types, id_type), getattr(types, label_type))
    ]
    quotas, kept = types.Array(types.int64, 1, "C"), types.Array(types.boolean, 1, "C")
    signature = types.void(*vectors, quotas, types.uint64, types.int64, types.int64, kept)
    compiled: Callable[..., None] = njit(signature, cache=True, error_model="numpy")(_select)
    return compiled


def _select(scores, ids, labels, quotas, key, count, n_threads, kept):
    """Both rounds: the quotas, where there are any, and the filling up."""
    rows = (scores, ids, key)
    for i in range(len(kept)):
        kept[i] = False
    if len(quotas):
        wanted = np.empty(len(quotas), np.int64)  # is changed
        for label in range(len(quotas)):
            wanted[label] = quotas[label]
        _keep_best(rows, labels, wanted, n_threads, kept)
    n_kept = _I(0)
    for i in range(len(kept)):
        n_kept += kept[i]
    if n_kept < count:
        wanted = np.empty(1, np.int64)
        wanted[0] = count - n_kept
        _keep_best(rows, labels, wanted, n_threads, kept)


@njit(error_model="numpy")
def _keep_best(rows, labels, wanted, n_threads, kept):
    """Mark the best wanted[c] of each class's unmarked rows; labels of one class are not read."""
    n_rows, n_classes = len(kept), len(wanted)
    thresholds = np.zeros((n_classes, 3), np.uint64)
    states = np.empty(n_classes, np.int8)
    for label in range(n_classes):
        states[label] = _OPEN if wanted[label] > 0 else 1 + _SETTLED
    bits = _digit_bits(n_rows, n_classes)
    n_bins = n_classes << bits
    counts = np.empty((max(1, min(n_threads, _ALL_BINS // n_bins)), n_bins), np.int32)
    for word in range(3):
        upper = 64 if word == _HASH else 32
        while upper > 0 and _any_open(states):
            shift = max(0, upper - bits)
            digit = (word, _U(shift), upper - shift)
            _count(rows, labels, digit, thresholds, states, kept, counts)
            _narrow(counts, digit, thresholds, states, wanted)
            upper = shift
    _mark(rows, labels, thresholds, states, kept)


@njit
def _any_open(states):
    n_open = 0
    for state in states:
        n_open += state == _OPEN
    return n_open > 0


@njit
def _digit_bits(n_rows, n_classes):
    """Bits of a digit: as many as the counts fit the cache, or as there are rows in a class."""
    bits = 4
    while bits < 16 and n_classes << (bits + 1) <= _BINS and n_rows // n_classes >> bits:
        bits += 1
    return bits


@njit
def _rank(score):
    """The score's word: 32 bits that sort ascending as scores do descending, NaN last."""
    key = order_key(bits_of(score + _F(0.0)))  # −0 + 0 is +0
    rank = np.uint64(np.uint32(key ^ np.int32(0x7FFFFFFF)))
    return _WORST if score != score else rank


@njit
def _tie(example_id, key):
    return _finalise(_finalise(_U(_I(example_id)) * _GOLDEN + key))


@njit
def _finalise(x):
    x = (x ^ (x >> _SHIFT_30)) * _MIX_1
    x = (x ^ (x >> _SHIFT_27)) * _MIX_2
    return x ^ (x >> _SHIFT_31)


@njit(parallel=True, error_model="numpy")
def _count(rows, labels, digit, thresholds, states, kept, counts):
    """Fill counts[part, class · 2^bits + digit]."""
    n_rows, n_parts = len(kept), len(counts)
    for part in numba.prange(n_parts):
        for k in range(counts.shape[1]):
            counts[part, k] = np.int32(0)
        start, stop = n_rows * part // n_parts, n_rows * (part + 1) // n_parts
        if digit[0] == _SCORE:
            _count_scores(rows, labels, digit, thresholds, states, kept, counts[part], start, stop)
        else:
            _count_ties(rows, labels, digit, thresholds, states, kept, counts[part], start, stop)


@njit
def _count_scores(rows, labels, digit, thresholds, states, kept, counts, start, stop):
    scores = rows[0]
    _, shift, bits = digit
    mask, many = (_ONE << _U(bits)) - _ONE, len(states) > 1
    for i in range(start, stop):
        label = _U(labels[i]) if many else _U(0)
        if kept[i] or states[label] != _OPEN:
            continue
        value = _rank(scores[i]) >> shift
        if (value ^ (thresholds[label, 0] >> shift)) >> _U(bits) == 0:
            counts[(label << _U(bits)) + (value & mask)] += np.int32(1)


@njit
def _count_ties(rows, labels, digit, thresholds, states, kept, counts, start, stop):
    scores, ids, key = rows
    word, shift, bits = digit
    mask, many = (_ONE << _U(bits)) - _ONE, len(states) > 1
    for i in range(start, stop):
        label = _U(labels[i]) if many else _U(0)
        if kept[i] or states[label] != _OPEN or _rank(scores[i]) != thresholds[label, 0]:
            continue
        value = _tie(ids[i], key)
        if word != _HASH:
            if value != thresholds[label, 1]:
                continue
            value = _U(i)
        value >>= shift
        if (value ^ (thresholds[label, word] >> shift)) >> _U(bits) == 0:
            counts[(label << _U(bits)) + (value & mask)] += np.int32(1)


@njit(parallel=True, error_model="numpy")
def _narrow(counts, digit, thresholds, states, wanted):
    """Fix one digit of every open threshold; wanted[c] becomes what is wanted of that bucket."""
    word, shift, bits = digit
    for label in numba.prange(len(wanted)):
        if states[label] != _OPEN:
            continue
        found, here = _bucket(counts, label << bits, 1 << bits, wanted, label)
        if found < 0:  # fewer rows than wanted: all are kept
            for k in range(3):
                thresholds[label, k] = _ONES
            states[label] = _SETTLED
            continue
        thresholds[label, word] |= _U(found) << shift
        if here == wanted[label]:  # the bucket is kept whole
            thresholds[label, word] |= (_ONE << shift) - _ONE
            for k in range(word + 1, 3):
                thresholds[label, k] = _ONES
            states[label] = _SETTLED


@njit
def _bucket(counts, start, n_bins, wanted, label):
    """The bin in which the running sum reaches wanted[label], and its count; −1 if none does."""
    for k in range(n_bins):
        here = _I(0)
        for part in range(len(counts)):
            here += _I(counts[part, start + k]) & _LOW_WORD  # beyond 2³¹ they have wrapped around
        if here >= wanted[label]:
            return k, here
        wanted[label] -= here
    return -1, _I(0)


@njit(parallel=True, error_model="numpy")
def _mark(rows, labels, thresholds, states, kept):
    """Mark the rows up to their class's threshold."""
    scores, ids, key = rows
    many = len(states) > 1
    for i in numba.prange(len(kept)):
        label = _U(labels[i]) if many else _U(0)
        if kept[i] or states[label] != _SETTLED:
            continue
        rank, last = _rank(scores[i]), thresholds[label, 0]
        if rank != last:
            kept[i] = rank < last
        else:
            tie, last = _tie(ids[i], key), thresholds[label, 1]
            kept[i] = tie < last or (tie == last and _U(i) <= thresholds[label, 2])

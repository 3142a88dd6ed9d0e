"""Numba twin of influence: population counts of packed bits, sixteen test examples at a time.

Models become the bits of 32-bit words. A tile of test examples lies word by word, so that a vector
holds the same word of sixteen of them: AND with one training example's word, count, add. That needs
no sum across lanes, whatever the number of models, and LLVM's ``ctpop`` of a vector is one
instruction where the machine has one (AVX-512 VPOPCNTDQ), else a few table look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["launch_influence", "launch_memorization"]

_I = np.int32
_TESTS = 64  # of a tile: four vectors
_TRAIN = 128  # training examples that meet a tile while it is in the first-level cache
_WORDS = 64  # of a tile that are counted in one go: 16 KiB
_TOGETHER = 8  # words that are added up in registers
_COLUMNS = 4096  # examples whose memorization one thread counts at a time
_NOTHING = np.iinfo(np.int64).min


def _generate_ones(context: Any, word: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(32)])
        return builder.call(count, args)

    return types.int32(types.int32), generate


# Typed by hand: to a type checker, an intrinsic is the function that generates its code.
_ones: Callable[..., Any] = intrinsic(_generate_ones)


@njit
def _pack_word(flags, models, examples, word):
    """Fill word[i]: bit k tells flags[models[0] + k, examples[0] + i]; examples past the end 0."""
    for i in range(len(word)):
        word[i] = _I(0)
    n = examples[1] - examples[0]
    for model in range(models[0], models[1]):
        row, bit = flags[model, examples[0] : examples[1]], _I(model - models[0])
        for i in range(n):
            word[i] |= _I(row[i] != 0) << bit


@njit
def _pack_tile(flags, start, tile):
    """Test examples from ``start`` on as tile[word · _TESTS + example]."""
    n_models, n_examples = flags.shape
    for w in range(len(tile) // _TESTS):
        models = (w * 32, min(n_models, w * 32 + 32))
        examples = (start, min(n_examples, start + _TESTS))
        _pack_word(flags, models, examples, tile[w * _TESTS : (w + 1) * _TESTS])


@njit
def _pack_rows(flags, start, rows):
    """Training examples from ``start`` on as rows[example, word]."""
    n_models, n_examples = flags.shape
    word = np.empty(len(rows), np.int32)
    for w in range(rows.shape[1]):
        models = (w * 32, min(n_models, w * 32 + 32))
        _pack_word(flags, models, (start, min(n_examples, start + len(rows))), word)
        for i in range(len(rows)):
            rows[i, w] = word[i]


@njit
def _count(words):
    total = _I(0)
    for word in words:
        total += _ones(word)
    return total


@njit(error_model="numpy")
def _add_overlaps(row, tile, sums):
    """Add to sums[j] the models that a training example and the tile's test example j share."""
    n_whole = len(row) // _TOGETHER * _TOGETHER
    for w in range(0, n_whole, _TOGETHER):
        x = row[w : w + _TOGETHER]
        y = tile[w * _TESTS : (w + _TOGETHER) * _TESTS]
        x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
        for j in range(_TESTS):  # written out: the sums stay in registers over eight words
            low = _ones(x0 & y[j]) + _ones(x1 & y[j + _TESTS])
            low += _ones(x2 & y[j + 2 * _TESTS]) + _ones(x3 & y[j + 3 * _TESTS])
            high = _ones(x4 & y[j + 4 * _TESTS]) + _ones(x5 & y[j + 5 * _TESTS])
            high += _ones(x6 & y[j + 6 * _TESTS]) + _ones(x7 & y[j + 7 * _TESTS])
            sums[j] = _I(sums[j] + low + high)
    for w in range(n_whole, len(row)):
        x0, y = row[w], tile[w * _TESTS : (w + 1) * _TESTS]
        for j in range(_TESTS):
            sums[j] = _I(sums[j] + _ones(x0 & y[j]))


@njit
def _reduce(overlaps, right, n_models, n_trained):
    """Largest A·m − C·a of a tile, and the sum of their absolute values.

    Each is at most a·(m − a) < 2³⁰: its terms may wrap around in 32 bits, the difference is exact.
    """
    largest, total = _I(-0x80000000), np.int64(0)
    for j in range(len(right)):
        difference = _I(_I(overlaps[j] * n_models) - _I(right[j] * n_trained))
        largest = max(largest, difference)
        total += np.int64(abs(difference))
    return largest, total


@njit
def _meet_tile(rows, tile, right, n_models, trained, overlaps, result):
    """Add one tile of test examples to result[example]: (largest, sum)."""
    for i in range(len(overlaps)):
        for j in range(_TESTS):
            overlaps[i, j] = _I(0)
    for w in range(0, rows.shape[1], _WORDS):
        part = tile[w * _TESTS : (w + _WORDS) * _TESTS]
        for i in range(len(trained)):
            _add_overlaps(rows[i, w : w + _WORDS], part, overlaps[i])
    for i in range(len(trained)):
        largest, total = _reduce(overlaps[i], right, n_models, trained[i])
        result[i, 0] = max(result[i, 0], largest)
        result[i, 1] += total


@njit(error_model="numpy")
def _ratio(numerator, n_models, n_trained):
    """numerator / (a · (m − a)), rounded to float32; NaN where that is a division by zero."""
    others = np.int64(n_models) - np.int64(n_trained)
    if n_trained == 0 or others == 0 or numerator == _NOTHING:
        return np.float32(np.nan)
    return np.float32(np.float64(numerator) / np.float64(n_trained * others))


@njit(parallel=True)
def _pack_tiles(correct, tiles, right):
    for t in numba.prange(len(tiles)):
        _pack_tile(correct, t * _TESTS, tiles[t])
        for j in range(_TESTS):
            right[t, j] = _count(tiles[t, j::_TESTS])


@njit(parallel=True, cache=True, error_model="numpy")
def launch_influence(masks, correct, largest, total):
    """Fill largest and total (n_train,) for masks (m, n_train) and correct (m, n_test) uint8."""
    n_models, n_train = masks.shape
    n_test, n_words = correct.shape[1], (n_models + 31) // 32
    n_tiles = (n_test + _TESTS - 1) // _TESTS
    tiles = np.empty((n_tiles, n_words * _TESTS), np.int32)
    right = np.empty((n_tiles, _TESTS), np.int32)
    _pack_tiles(correct, tiles, right)
    for block in numba.prange((n_train + _TRAIN - 1) // _TRAIN):
        start = block * _TRAIN
        n = min(n_train, start + _TRAIN) - start
        rows = np.empty((_TRAIN, n_words), np.int32)
        _pack_rows(masks, start, rows)
        trained, result = np.empty(n, np.int32), np.empty((n, 2), np.int64)
        for i in range(n):
            trained[i] = _count(rows[i])
            result[i, 0], result[i, 1] = _NOTHING, np.int64(0)
        overlaps = np.empty((_TRAIN, _TESTS), np.int32)
        for t in range(n_tiles):
            known = right[t, : min(_TESTS, n_test - t * _TESTS)]
            _meet_tile(rows, tiles[t], known, _I(n_models), trained, overlaps, result)
        for i in range(n):
            largest[start + i] = _ratio(result[i, 0], n_models, trained[i])
            total[start + i] = _ratio(result[i, 1], n_models, trained[i])


@njit(parallel=True, cache=True, error_model="numpy")
def launch_memorization(masks, correct, out):
    """Fill out (n_train,) for masks and correct (m, n_train) uint8."""
    n_models, n_train = masks.shape
    for block in numba.prange((n_train + _COLUMNS - 1) // _COLUMNS):
        start = block * _COLUMNS
        n = min(n_train, start + _COLUMNS) - start
        counts = np.zeros((3, n), np.int32)
        trained, right, both = counts[0], counts[1], counts[2]
        for model in range(n_models):
            with_i, right_on_i = masks[model, start : start + n], correct[model, start : start + n]
            for i in range(n):
                a, c = _I(with_i[i] != 0), _I(right_on_i[i] != 0)
                trained[i] += a
                right[i] += c
                both[i] += a & c
        for i in range(n):
            difference = np.int64(both[i]) * n_models - np.int64(right[i]) * trained[i]
            out[start + i] = _ratio(difference, n_models, trained[i])

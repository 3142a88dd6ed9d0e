"""Huffman tables of baseline JPEGs: read from a header, looked up, and made for one image.

A table is 16 counts, of the codes of each length, and the symbols in the order of their codes (ITU
T.81, section C). A symbol of a DC table is the size in bits of the difference that follows it; one
of an AC table has the run of zeros before the coefficient in its upper half and the coefficient's
size in its lower one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "AC",
    "LOOKAHEAD",
    "N_TABLES",
    "build_lookup",
    "code_words",
    "long_code",
    "optimal_table",
    "read_tables",
    "scan_bits",
]

AC = 4  # the row of AC table 0; those of DC tables come first
N_TABLES = 8  # rows: four of each class
LOOKAHEAD = 10

_MAX_LENGTH = 16  # bits of a code
_MAX_DC, _MAX_AC = 11, 10  # bits of a difference and of a coefficient, of 8-bit samples
_DHT = 0xC4

# An entry of a lookup, uint32: the symbol; from bit 8 on, the bits of the code and of the value
# behind it; from bit 16 on, how far the index of the coefficient moves. The end of a block moves
# it to _END at least, what is not allowed to between 64 and _END. 0: the code is longer.
_END, _INVALID = 256, np.uint32(128 << 16 | 1 << 8)


@njit(nogil=True, error_model="numpy")
def _read_table(record, at, end, counts, symbols):
    """Read the table at ``at``; the offset after it, or -1."""
    if at + 1 + _MAX_LENGTH > end:
        return -1
    kind = np.int64(np.uint8(record[at]))
    row = AC * (kind >> 4) + (kind & 15)
    if kind >> 4 > 1 or kind & 15 > 3:
        return -1
    code = total = np.int64(0)
    for length in range(1, _MAX_LENGTH + 1):
        count = np.int64(np.uint8(record[at + length]))
        counts[row, length] = count
        total += count
        code = 2 * code + count
        # More codes than there are, or one of ones alone, which decoders refuse.
        if code > 1 << length or (count > 0 and code == 1 << length):
            return -1
    at += 1 + _MAX_LENGTH
    if total > symbols.shape[1] or at + total > end:
        return -1
    for k in range(total):
        symbols[row, k] = np.uint8(record[at + k])
        if row < AC and symbols[row, k] > 15:  # which decoders refuse, used or not
            return -1
    counts[row, 0] = 1
    return at + total


@njit(nogil=True, error_model="numpy")
def read_tables(record, end, counts, symbols):
    """Read all Huffman tables of a header, of which the last of a kind counts (T.81, B.2.4.2).

    Args:
        record: (bytes,) int8.
        end: The offset of its scan header, which :func:`find_layout` went up to.
        counts: (``N_TABLES``, 17) int64, written to: the codes of each length; at 0 whether the
            table is there.
        symbols: (``N_TABLES``, 256) int64, written to.

    Returns:
        Whether all of them are sound.
    """
    for row in range(N_TABLES):
        counts[row, 0] = 0
    at = np.int64(2)
    while at < end:
        after = at + 2 + (np.int64(np.uint8(record[at + 2])) << 8 | np.uint8(record[at + 3]))
        if np.uint8(record[at + 1]) == _DHT:
            at += 4
            while at < after:
                at = _read_table(record, at, after, counts, symbols)
                if at < 0:
                    return False
        at = after
    return True


@njit(nogil=True, error_model="numpy")
def _entry(is_ac, symbol, length):
    run, size = (symbol >> 4, symbol & 15) if is_ac else (-1, symbol)
    move = run + 1
    if is_ac and size == 0:
        if run == 0:
            move = _END
        elif run != 15:
            return _INVALID
    if size > (_MAX_AC if is_ac else _MAX_DC):
        return _INVALID
    return np.uint32(symbol | (length + size) << 8 | move << 16)


@njit(nogil=True, error_model="numpy")
def build_lookup(row, counts, symbols, limits, offsets, lookup):
    """Make what decodes the codes of one table (T.81, F.2.2.3, several bits at a time).

    Args:
        row: The table's.
        counts: See :func:`read_tables`.
        symbols: As there.
        limits: (``N_TABLES``, 17) int64, written to: the end of the codes of each length.
        offsets: (``N_TABLES``, 17) int64, written to: what makes a code an index of ``symbols``.
        lookup: (``N_TABLES``, 1 << ``LOOKAHEAD``) uint32, written to.
    """
    for k in range(lookup.shape[1]):
        lookup[row, k] = 0
    code = k = 0
    for length in range(1, _MAX_LENGTH + 1):
        code *= 2
        offsets[row, length] = k - code
        for _ in range(counts[row, length]):
            if length <= LOOKAHEAD:
                entry = _entry(row >= AC, symbols[row, k], length)
                for rest in range(1 << (LOOKAHEAD - length)):
                    lookup[row, (code << (LOOKAHEAD - length)) + rest] = entry
            code += 1
            k += 1
        limits[row, length] = code


@njit(nogil=True, error_model="numpy")
def long_code(row, window, symbols, limits, offsets):
    """The entry of a code that is longer than the lookup; ``window`` are the next 16 bits."""
    for length in range(LOOKAHEAD + 1, _MAX_LENGTH + 1):
        code = window >> (_MAX_LENGTH - length)
        if code < limits[row, length]:
            k = code + offsets[row, length]
            if 0 <= k < symbols.shape[1]:
                return _entry(row >= AC, symbols[row, k], length)
    return _INVALID


@njit(nogil=True, error_model="numpy")
def _sort_by_count(counts, order):
    """Put the symbols that occur into ``order``, the most frequent first; how many there are."""
    n = 0
    for symbol in range(len(counts)):
        count = counts[symbol]
        if count > 0:
            k = n
            while k > 0 and counts[order[k - 1]] < count:
                order[k] = order[k - 1]
                k -= 1
            order[k] = symbol
            n += 1
    return n


@njit(nogil=True, error_model="numpy")
def _count_depths(weights, n, depths):
    """Huffman's tree over ``n`` ascending weights: how many leaves lie at each depth.

    Inner nodes come into being in the order of their weights, so that the two lightest nodes are
    always at the front of the leaves or of the inner nodes.
    """
    parent, depth = np.empty(2 * n, np.int64), np.empty(2 * n, np.int64)
    leaf, inner = 0, n
    for node in range(n, 2 * n - 1):
        weights[node] = 0
        for _ in range(2):
            if leaf < n and (inner >= node or weights[leaf] <= weights[inner]):
                child, leaf = leaf, leaf + 1
            else:
                child, inner = inner, inner + 1
            weights[node] += weights[child]
            parent[child] = node
    depths.fill(0)
    depth[2 * n - 2] = 0
    for node in range(2 * n - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
        if node < n:
            depths[depth[node]] += 1


@njit(nogil=True, error_model="numpy")
def optimal_table(occurrences, lengths, symbols):
    """The table that codes an image's symbols in the fewest bits (T.81, K.2).

    Args:
        occurrences: (256,) int64 of each symbol.
        lengths: (17,) int64, written to: the codes of each length, at most 16 bits; no code
            consists of ones alone.
        symbols: (256,) int64, written to.
    """
    n = _sort_by_count(occurrences, symbols)
    weights, depths = np.empty(2 * n + 2, np.int64), np.empty(n + 2, np.int64)
    weights[0] = 1  # a symbol that never comes takes the last code, that of ones
    for k in range(n):
        weights[n - k] = occurrences[symbols[k]]
    _count_depths(weights, n + 1, depths)
    # K.3: two leaves too deep make room for themselves below a leaf higher up.
    for depth in range(n + 1, _MAX_LENGTH, -1):
        while depths[depth] > 0:
            above = depth - 2
            while depths[above] == 0:
                above -= 1
            depths[depth] -= 2
            depths[depth - 1] += 1
            depths[above + 1] += 2
            depths[above] -= 1
    deepest = 0
    for length in range(_MAX_LENGTH + 1):
        lengths[length] = depths[length] if length <= n + 1 else 0
        if lengths[length] > 0:
            deepest = length
    lengths[deepest] -= 1


@njit(nogil=True, error_model="numpy")
def code_words(is_ac, lengths, symbols, words):
    """Codes to write with (T.81, C.2).

    Args:
        is_ac: The table's class.
        lengths: (17,) int64, see :func:`optimal_table`.
        symbols: (256,) int64.
        words: (256,) uint32, written to: a symbol's code, then zeros in place of the value behind
            it, then, in the last 5 bits, how many bits both are.
    """
    words.fill(0)
    code = k = 0
    for length in range(1, _MAX_LENGTH + 1):
        code *= 2
        for _ in range(lengths[length]):
            symbol = symbols[k]
            size = symbol & 15 if is_ac else symbol
            words[symbol] = np.uint32(code << size << 5 | length + size)
            code += 1
            k += 1


@njit(nogil=True, error_model="numpy")
def scan_bits(occurrences, words):
    """Bits that all symbols and their values take; both (256,), see above."""
    total = 0
    for symbol in range(len(occurrences)):
        total += occurrences[symbol] * np.int64(words[symbol] & np.uint32(31))
    return total

"""The entropy-coded bytes of a baseline JPEG's scan: read to symbols, and written from them.

A block is its DC coefficient and the symbols of its AC coefficients, each with the bits of its
value. The coefficients themselves are not needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.tiles.huffman import AC, LOOKAHEAD, build_lookup, long_code, read_tables
from tamis.tiles.layout import COMPONENTS, HEIGHT, INTERVAL, SAMPLE_H, SAMPLE_V, SCAN, WIDTH

__all__ = [
    "BLOCKS_PER_BYTE",
    "BLOCK_BYTES",
    "Decoding",
    "Symbols",
    "count_differences",
    "n_blocks_per_unit",
    "n_units",
    "read_scan",
    "same_symbols",
    "write_scan",
]

BLOCKS_PER_BYTE = 4  # a block takes two bits at least: two codes
BLOCK_BYTES = 512  # more than a block takes: 64 symbols of at most 27 bits

_MAX_DC = 2047  # what 11 bits hold
_RST0 = 0xD0
# The bit buffer is uint64 and shifted by such: numba makes floats of it and int64. As an index such
# a number is never negative, which int64 is asked about each time.
_U = np.uint64
_ONE, _EIGHT, _SIXTEEN, _WORD_BITS = _U(1), _U(8), _U(16), _U(64)
_LOOK, _WINDOW = _U(64 - LOOKAHEAD), _U(48)  # shifts to the bits that lookups are asked with
_FIVE, _SYMBOL = _U(31), _U(255)  # masks
_BITS_OF = np.array([int(k).bit_length() for k in range(2 * _MAX_DC + 2)], np.int8)


class Decoding(NamedTuple):
    """Scratch of a reader.

    Attributes:
        counts: See :func:`tamis.tiles.huffman.read_tables`.
        symbols: As there.
        limits: See :func:`tamis.tiles.huffman.build_lookup`.
        offsets: As there.
        lookup: As there.
        stretch: (record's bytes + ``BLOCK_BYTES`` at least,) int8, for bytes between two markers.
    """

    counts: NDArray[np.int64]
    symbols: NDArray[np.int64]
    limits: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lookup: NDArray[np.uint32]
    stretch: NDArray[np.int8]


class Symbols(NamedTuple):
    """A scan's blocks in their order there; the same however restart markers cut it.

    Attributes:
        dc: (blocks,) int16 DC coefficients, quantised.
        ends: (blocks,) int32, the end of each block's symbols in ``ac``.
        ac: (symbols,) uint32: an AC symbol and, from bit 8 on, its value's bits.
        counts: (4, 256) int64 occurrences of the symbols of luma's DC and AC and chroma's.
    """

    dc: NDArray[np.int16]
    ends: NDArray[np.int32]
    ac: NDArray[np.uint32]
    counts: NDArray[np.int64]


@njit(nogil=True, error_model="numpy")
def n_units(layout):
    """The units (MCUs) of a row, and the rows of them."""
    across, down = 8 * layout[SAMPLE_H], 8 * layout[SAMPLE_V]
    return -(-layout[WIDTH] // across), -(-layout[HEIGHT] // down)


@njit(nogil=True, error_model="numpy")
def n_blocks_per_unit(layout):
    """Blocks of a unit: those of luma come first."""
    return layout[SAMPLE_H] * layout[SAMPLE_V] + layout[COMPONENTS] - 1


@njit(nogil=True, error_model="numpy")
def _prepare_lookups(record, layout, decoding, rows):
    """Read the header's tables; ``rows`` (3, 2) becomes those of each component's DC and AC."""
    counts, symbols = decoding.counts, decoding.symbols
    n = layout[COMPONENTS]
    selectors = layout[SCAN] - 3 - 2 * n
    if not read_tables(record, selectors - 5, counts, symbols):
        return False
    for k in range(n):
        selector = np.int64(np.uint8(record[selectors + 2 * k + 1]))
        rows[k, 0], rows[k, 1] = selector >> 4, AC + (selector & 15)
        if rows[k, 0] >= AC or rows[k, 1] >= 2 * AC:
            return False
        for j in range(2):
            row = rows[k, j]
            if counts[row, 0] == 0:
                return False
            if counts[row, 0] == 1:
                build_lookup(
                    row, counts, symbols, decoding.limits, decoding.offsets, decoding.lookup
                )
                counts[row, 0] = 2
    return True


@njit(nogil=True, error_model="numpy")
def _unstuff(record, at, end, stretch):
    """Copy bytes up to a marker or ``end``, without the zeros behind FF (T.81, B.1.1.5).

    Returns:
        The offset where it stopped, and how many bytes it copied.
    """
    n = 0
    while at < end:
        byte = record[_U(at)]
        if byte == -1:
            if record[_U(at + 1)] != 0:
                break
            at += 1
        stretch[_U(n)] = byte
        n += 1
        at += 1
    return at, n


@njit(nogil=True, error_model="numpy")
def _refill(stretch, at, bits, count):
    """Bits of the stretch so that there are at least 56; where to go on, they, and how many.

    Eight bytes are read whatever there is, some of them again: no branch to guess wrong.
    """
    word = (
        _U(np.uint8(stretch[_U(at)])) << _U(56)
        | _U(np.uint8(stretch[_U(at + 1)])) << _U(48)
        | _U(np.uint8(stretch[_U(at + 2)])) << _U(40)
        | _U(np.uint8(stretch[_U(at + 3)])) << _U(32)
        | _U(np.uint8(stretch[_U(at + 4)])) << _U(24)
        | _U(np.uint8(stretch[_U(at + 5)])) << _U(16)
        | _U(np.uint8(stretch[_U(at + 6)])) << _U(8)
        | _U(np.uint8(stretch[_U(at + 7)]))
    )
    return at + ((63 - count) >> 3), bits | word >> _U(count), count | 56


@njit(nogil=True, error_model="numpy")
def _value(bits, entry):
    """The bits behind a code that belong to its symbol, as they stand there."""
    size = entry & _U(15)
    return (bits >> (_WORD_BITS - (entry >> _EIGHT & _FIVE))) & ((_ONE << size) - _ONE)


@njit(nogil=True, error_model="numpy")
def _difference(bits, entry):
    """The difference behind a DC code (T.81, F.2.2.1: EXTEND)."""
    value, category = np.int64(_value(bits, entry)), np.int64(entry & _U(15))
    return value if value >= (1 << category) >> 1 else value + 1 - (1 << category)


@njit(nogil=True, error_model="numpy")
def _read_units(n, layout, decoding, rows, size, first, symbols):
    """Read ``n`` units from a stretch of ``size`` bytes; how many blocks there are now, or -1.

    No symbol is looked at for being inside of the stretch: what lies behind it is as long as a
    block, after which the reader stops.
    """
    _, words, limits, offsets, lookup, stretch = decoding
    dc, ends, ac, counts = symbols
    n_luma, n_blocks = layout[SAMPLE_H] * layout[SAMPLE_V], n_blocks_per_unit(layout)
    predicted = np.zeros(3, np.int64)
    block, token = first, np.int64(ends[first - 1] if first > 0 else 0)
    at, bits, count = np.int64(0), _U(0), np.int64(0)
    for _ in range(n):
        for j in range(n_blocks):
            component = max(0, j - n_luma + 1)
            row = rows[component, 0]
            at, bits, count = _refill(stretch, at, bits, count)
            entry = _U(lookup[row, bits >> _LOOK])
            if entry == 0:
                window = np.int64(bits >> _WINDOW)
                entry = _U(long_code(row, window, words, limits, offsets))
            length = np.int64(entry >> _EIGHT & _FIVE)
            predicted[component] += _difference(bits, entry)
            bits, count = bits << _U(length), count - length
            if (
                entry >> _SIXTEEN != 0
                or abs(predicted[component]) > _MAX_DC
                or block >= len(dc)
                or token + 64 > len(ac)
            ):
                return -1
            dc[block] = predicted[component]

            row = rows[component, 1]
            table, k = 1 + 2 * min(component, 1), np.int64(1)
            while k < 64:
                at, bits, count = _refill(stretch, at, bits, count)
                for _ in range(2):  # 56 bits are enough for both
                    entry = _U(lookup[row, bits >> _LOOK])
                    if entry == 0:
                        window = np.int64(bits >> _WINDOW)
                        entry = _U(long_code(row, window, words, limits, offsets))
                    symbol, length = entry & _SYMBOL, np.int64(entry >> _EIGHT & _FIVE)
                    ac[_U(token)] = np.uint32(_value(bits, entry) << _EIGHT | symbol)
                    counts[table, symbol] += 1
                    bits, count = bits << _U(length), count - length
                    token += 1
                    k += np.int64(entry >> _SIXTEEN)
                    if k >= 64:
                        break
            if (k > 64 and k < 256) or at > size + 8:
                return -1
            ends[block] = token
            block += 1
    # What is left is less than a byte: padding.
    left = 8 * (size - at) + count
    return block if 0 <= left < 8 else -1


@njit(nogil=True, error_model="numpy")
def read_scan(record, layout, decoding, symbols):
    """Read all blocks of a record.

    Args:
        record: (bytes,) int8, any bytes for which :func:`find_layout` said yes.
        layout: What it found.
        decoding: :class:`Decoding`, scratch.
        symbols: :class:`Symbols`, written to, all but the counts of DC; its arrays may be longer.

    Returns:
        How many blocks were read; -1 where the record is not exactly a header, sound codes of all
        its units with the restart markers due among them, padding, and an end marker; or where
        there are more symbols than ``symbols`` holds.
    """
    across, down = n_units(layout)
    n, end = across * down, len(record) - 2
    rows = np.empty((3, 2), np.int64)
    if (
        record[end] != -1
        or np.uint8(record[end + 1]) != 0xD9
        or n * n_blocks_per_unit(layout) > BLOCKS_PER_BYTE * max(0, end - layout[SCAN])
        or not _prepare_lookups(record, layout, decoding, rows)
    ):
        return -1
    symbols.counts.fill(0)
    interval = layout[INTERVAL] if layout[INTERVAL] > 0 else n
    at, blocks = layout[SCAN], np.int64(0)
    for first in range(0, n, interval):
        if first > 0:
            expected = _RST0 + (first // interval - 1) % 8
            if at >= end or np.uint8(record[at + 1]) != expected:
                return -1
            at += 2
        at, size = _unstuff(record, at, end, decoding.stretch)
        some = min(interval, n - first)
        blocks = _read_units(some, layout, decoding, rows, size, blocks, symbols)
        if blocks < 0:
            return -1
    return blocks if at == end else -1


@njit(nogil=True, error_model="numpy")
def same_symbols(n, one, other):
    """Whether two :class:`Symbols` agree in their first ``n`` blocks."""
    m = one.ends[n - 1]
    if other.ends[n - 1] != m:
        return False
    different = False
    for k in range(n):
        different |= (one.dc[k] != other.dc[k]) | (one.ends[k] != other.ends[k])
    for k in range(m):
        different |= one.ac[k] != other.ac[k]
    return not different


@njit(nogil=True, error_model="numpy")
def count_differences(layout, interval, symbols):
    """Count the symbols of DC differences, for restart markers every ``interval`` units.

    Returns:
        Whether each fits into 11 bits.
    """
    across, down = n_units(layout)
    dc, counts = symbols.dc, symbols.counts
    n_luma, n_blocks = layout[SAMPLE_H] * layout[SAMPLE_V], n_blocks_per_unit(layout)
    predicted = np.zeros(3, np.int64)
    for size in range(13):
        counts[0, size] = counts[2, size] = 0
    block = 0
    for unit in range(across * down):
        if unit % interval == 0:
            predicted.fill(0)
        for j in range(n_blocks):
            component = max(0, j - n_luma + 1)
            value = np.int64(dc[block])
            counts[2 * min(component, 1), _BITS_OF[abs(value - predicted[component])]] += 1
            predicted[component] = value
            block += 1
    return counts[0, 12] == 0 and counts[2, 12] == 0


@njit(nogil=True, error_model="numpy")
def _put(stretch, at, bits, count, word, value):
    """Append a code word with its value to the ``count`` < 8 bits that are no whole byte yet.

    Eight bytes are written whatever there is: no branch for a processor to guess wrong.
    """
    length = word & _FIVE
    bits = bits << length | word >> _U(5) | value
    count += np.int64(length)
    eight = bits << _U(64 - count)
    stretch[_U(at)] = np.int8(eight >> _U(56))
    stretch[_U(at + 1)] = np.int8(eight >> _U(48))
    stretch[_U(at + 2)] = np.int8(eight >> _U(40))
    stretch[_U(at + 3)] = np.int8(eight >> _U(32))
    stretch[_U(at + 4)] = np.int8(eight >> _U(24))
    stretch[_U(at + 5)] = np.int8(eight >> _U(16))
    stretch[_U(at + 6)] = np.int8(eight >> _U(8))
    stretch[_U(at + 7)] = np.int8(eight)
    return at + (count >> 3), bits, count & 7


@njit(nogil=True, error_model="numpy")
def _stuff(stretch, n, out, at, limit):
    """Append ``n`` bytes to ``out``, zeros behind those of FF; where they end, or -1: too far."""
    for k in range(n):
        # Room for a byte and a zero: any number of them may come before the last.
        if at + 2 > limit:
            return -1
        byte = stretch[_U(k)]
        out[_U(at)] = byte
        at += 1
        if byte == -1:
            out[_U(at)] = 0
            at += 1
    return at


@njit(nogil=True, error_model="numpy")
def _write_units(n, layout, symbols, words, block, stretch):
    """Write ``n`` units, from ``block`` on, and pad them with ones (T.81, F.1.2.3).

    Returns:
        How many bytes they take, or -1: more than ``stretch`` is for.
    """
    dc, ends, ac, _ = symbols
    n_luma, n_blocks = layout[SAMPLE_H] * layout[SAMPLE_V], n_blocks_per_unit(layout)
    predicted = np.zeros(3, np.int64)
    at, bits, count = np.int64(0), _U(0), np.int64(0)
    token, room = np.int64(ends[block - 1] if block > 0 else 0), len(stretch) - BLOCK_BYTES
    for _ in range(n):
        for j in range(n_blocks):
            if at > room:
                return -1
            component = max(0, j - n_luma + 1)
            table = 2 * min(component, 1)
            difference = np.int64(dc[block]) - predicted[component]
            predicted[component] += difference
            size = np.int64(_BITS_OF[abs(difference)])
            if difference < 0:  # T.81, F.1.2.1
                difference += (1 << size) - 1
            word = _U(words[table, size])
            at, bits, count = _put(stretch, at, bits, count, word, _U(difference))
            end = np.int64(ends[block])
            for k in range(token, end):
                pair = _U(ac[_U(k)])
                word = _U(words[table + 1, pair & _SYMBOL])
                at, bits, count = _put(stretch, at, bits, count, word, pair >> _EIGHT)
            token = end
            block += 1
    if count > 0:
        stretch[at] |= np.int8((1 << (8 - count)) - 1)
        at += 1
    return at


@njit(nogil=True, error_model="numpy")
def write_scan(layout, interval, symbols, words, stretch, out, at, limit):
    """Write all blocks, a restart marker every ``interval`` units, and the end marker.

    Args:
        layout: Of the record that they are from; its own interval is of no interest.
        interval: Units.
        symbols: :class:`Symbols`.
        words: (4, 256) uint32, luma's DC and AC, chroma's; see
            :func:`tamis.tiles.huffman.code_words`.
        stretch: Scratch, see :class:`Decoding`.
        out: (``limit`` + 2 at least,) int8, written to.
        at: Where to begin there.
        limit: The bytes that it may have in the end.

    Returns:
        Where it ends, or -1: beyond ``limit``.
    """
    across, down = n_units(layout)
    n = across * down
    for first in range(0, n, interval):
        if first > 0:
            out[at], out[at + 1] = -1, np.int8(_RST0 + (first // interval - 1) % 8)
            at += 2
        block, some = first * n_blocks_per_unit(layout), min(interval, n - first)
        size = _write_units(some, layout, symbols, words, block, stretch)
        at = _stuff(stretch, size, out, at, limit) if size >= 0 else -1
        if at < 0:
            return -1
    out[at], out[at + 1] = -1, np.int8(0xD9)
    return at + 2 if at + 2 <= limit else -1

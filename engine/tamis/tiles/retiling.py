"""The compiled way of one record: read its scan, choose where to cut, write it, read it back."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.tiles.entropy import (
    Decoding,
    Symbols,
    count_differences,
    n_units,
    read_scan,
    same_symbols,
    write_scan,
)
from tamis.tiles.huffman import code_words, optimal_table, scan_bits
from tamis.tiles.layout import COMPONENTS, INTERVAL, N_FIELDS, SCAN, find_layout
from tamis_kernels.compiled import forget_stale

__all__ = ["BROKEN", "HEADER_BYTES", "STAYS", "Scratch", "retile"]

forget_stale(Path(__file__).parent)

HEADER_BYTES = 2048  # more than a header's restart interval and Huffman tables can take

# What becomes of a record that is not written again.
STAYS = 0
BROKEN = -1  # what was written does not read as what was meant

_SOI, _DHT, _DRI = 0xD8, 0xC4, 0xDD


class Scratch(NamedTuple):
    """Scratch of :func:`retile`.

    Attributes:
        decoding: For reading.
        symbols: Of the record.
        again: Of what was written.
        lengths: (4, 17) int64, of the new tables; see :func:`tamis.tiles.huffman.optimal_table`.
        order: (4, 256) int64, their symbols.
        words: (4, 256) uint32, see :func:`tamis.tiles.huffman.code_words`.
        out: (bytes,) int8, for the new record.
    """

    decoding: Decoding
    symbols: Symbols
    again: Symbols
    lengths: NDArray[np.int64]
    order: NDArray[np.int64]
    words: NDArray[np.uint32]
    out: NDArray[np.int8]


@njit(nogil=True, error_model="numpy")
def _make_tables(first, counts, lengths, order, words):
    """Make the tables ``first`` and ``first`` + 2; the bits that their symbols take."""
    total = 0
    for row in range(first, 4, 2):
        optimal_table(counts[row], lengths[row], order[row])
        code_words(first > 0, lengths[row], order[row], words[row])
        total += scan_bits(counts[row], words[row])
    return total


@njit(nogil=True, error_model="numpy")
def _choose_interval(layout, bits, min_bytes):
    """Units between restart markers, for a scan of so many bits without them; 0 for none."""
    across, down = n_units(layout)
    enough = 8 * min_bytes * across * down  # bits of all units, where one tile has min_bytes
    for interval in range(1, across // 2 + 1):
        if across % interval == 0 and interval * bits >= enough:
            return interval
    return across if down > 1 and across * bits >= enough else 0


@njit(nogil=True, error_model="numpy")
def _copy(record, start, end, out, at):
    for k in range(end - start):
        out[at + k] = record[start + k]
    return at + end - start


@njit(nogil=True, error_model="numpy")
def _put_pair(out, at, value):
    out[at], out[at + 1] = np.int8(value >> 8), np.int8(value & 255)
    return at + 2


@njit(nogil=True, error_model="numpy")
def _write_tables(n_tables, lengths, order, out, at):
    """One DHT segment of all tables (T.81, B.2.4.2)."""
    at = _put_pair(out, at, 0xFF00 | _DHT)
    start, at = at, at + 2
    for row in range(n_tables):
        out[at] = (row & 1) << 4 | row >> 1
        n = 0
        for length in range(1, 17):
            out[at + length] = np.int8(lengths[row, length])
            n += lengths[row, length]
        at += 17
        for k in range(n):
            out[at + k] = np.int8(order[row, k])
        at += n
    _put_pair(out, start, at - start)
    return at


@njit(nogil=True, error_model="numpy")
def _write_header(record, layout, interval, lengths, order, out):
    """The record's segments with a restart interval and tables of its own; where it ends."""
    n = layout[COMPONENTS]
    scan = layout[SCAN] - 8 - 2 * n
    at, source = _put_pair(out, np.int64(0), 0xFF00 | _SOI), np.int64(2)
    while source < scan:
        kind = np.uint8(record[source + 1])
        after = source + 2
        after += np.int64(np.uint8(record[after])) << 8 | np.uint8(record[after + 1])
        if kind != _DHT and kind != _DRI:
            at = _copy(record, source, after, out, at)
        source = after
    at = _put_pair(out, at, 0xFF00 | _DRI)
    at = _put_pair(out, at, 4)
    at = _put_pair(out, at, interval)
    at = _write_tables(2 if n == 1 else 4, lengths, order, out, at)
    start = at
    at = _copy(record, scan, layout[SCAN], out, at)
    for k in range(n):
        out[start + 6 + 2 * k] = 0x11 if k > 0 else 0
    return at


@njit(nogil=True, error_model="numpy")
def _reads_back(written, n_blocks, decoding, symbols, again):
    layout = np.empty(N_FIELDS, np.int64)
    return (
        find_layout(written, 0, len(written), layout)
        and read_scan(written, layout, decoding, again) == n_blocks
        and same_symbols(n_blocks, symbols, again)
    )


@njit(nogil=True, cache=True, error_model="numpy")
def retile(record, min_bytes, limit, scratch):
    """Write a JPEG again, the same coefficients, with tables of its own and restart markers.

    Args:
        record: (bytes,) int8, any bytes.
        min_bytes: That a tile should have on the average.
        limit: Bytes that the result may have.
        scratch: :class:`Scratch` for records of this size and this limit.

    Returns:
        The result's bytes, which ``scratch.out`` then begins with, or ``STAYS`` or ``BROKEN``.
    """
    decoding, symbols, again, lengths, order, words, out = scratch
    layout = np.empty(N_FIELDS, np.int64)
    if not find_layout(record, 0, len(record), layout):
        return STAYS
    n_blocks = read_scan(record, layout, decoding, symbols)
    across, down = n_units(layout)
    if n_blocks < 0 or not count_differences(layout, across * down, symbols):
        return STAYS
    # Bits without restart markers, so that what was tiled once is tiled well.
    bits = _make_tables(1, symbols.counts, lengths, order, words)
    bits += _make_tables(0, symbols.counts, lengths, order, words)
    interval = _choose_interval(layout, bits, min_bytes)
    if interval == 0 or interval == layout[INTERVAL]:
        return STAYS
    if not count_differences(layout, interval, symbols):
        return STAYS
    _make_tables(0, symbols.counts, lengths, order, words)
    at = _write_header(record, layout, interval, lengths, order, out)
    size = write_scan(layout, interval, symbols, words, decoding.stretch, out, at, limit)
    if size < 0:
        return STAYS
    return size if _reads_back(out[:size], n_blocks, decoding, symbols, again) else BROKEN

"""Of a JPEG, only what a box needs, as a smaller JPEG.

Between restart markers nothing depends on what came before, so that any rectangle of tiles is a
JPEG of its own once its header says the smaller size and its markers count from 0 again. Without
tiles a JPEG whose header says a smaller height ends where the box does; libjpeg-turbo passes over
what follows, which costs it little beside decoding. What either decodes to is, inside the box,
what the whole image decodes to: colours are interpolated from neighbours, and the part is that of
the box grown by what they may be away. What is wrong elsewhere in a record is then not seen, so
that parts are for records whose bytes are proven to be those that were written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from tamis.tiles.layout import (
    FRAME,
    HEIGHT,
    INTERVAL,
    N_FIELDS,
    SAMPLE_H,
    SAMPLE_V,
    SCAN,
    WIDTH,
    find_layout,
)

__all__ = ["excerpt"]

# libjpeg-turbo interpolates no colours of images so narrow, in the same pixels.
_NARROW = 4
_MARKER, _RST0, _EOI = 0xFF, 0xD0, 0xD9
_memchr: Any = types.ExternalFunction("memchr", types.int64(types.int64, types.int32, types.int64))
# Slices that are assigned take numba seconds to compile.
_memcpy: Any = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))


@njit(nogil=True, error_model="numpy")
def _tile_range(begin, extent, size, tile, margin):
    """The first and last tile of an axis under a box, and how many there are in all."""
    first = max(begin - margin, 0) // tile
    last = (min(begin + extent + margin, size) - 1) // tile
    return first, last, -(-size // tile)


@njit(nogil=True, error_model="numpy")
def _margins(layout, denominator):
    """How far beside a box there may be what its colours are interpolated from: down, across.

    A pixel's colour is made of two of an axis that has half as many, its own and the nearer
    neighbour: one pixel of what is decoded. At fractions libjpeg-turbo decodes colours of which
    both axes have half as many at twice the fraction, and interpolates nothing.
    """
    down, across = layout[SAMPLE_V], layout[SAMPLE_H]
    if down == across and denominator > 1:
        return 0, 0
    return denominator * (down - 1), denominator * (across - 1)


@njit(nogil=True, error_model="numpy")
def _next_marker(data, at, end):
    """Where the next marker of entropy-coded data is, or ``end``: FF and no 00."""
    base = data.ctypes.data
    while at + 1 < end:
        found = _memchr(base + at, _MARKER, end - 1 - at)
        if found == 0:
            return end
        at = found - base
        if data[at + 1] != 0:
            return at
        at += 2
    return end


@njit(nogil=True, error_model="numpy")
def _copy_tiles(record, layout, rows, columns, n_across, out, at):
    """Append the tiles of a rectangle; the end in ``out``, or 0 where markers are not in order."""
    begin, index, n_kept = layout[SCAN], 0, 0
    base, to = record.ctypes.data, out.ctypes.data
    for row in range(rows[1] + 1):
        for column in range(n_across):
            end = _next_marker(record, begin, len(record))
            if end + 2 > len(record):
                return 0
            if row >= rows[0] and columns[0] <= column <= columns[1]:
                if n_kept:
                    out[at] = np.uint8(_MARKER)
                    out[at + 1] = np.uint8(_RST0 + (n_kept - 1) % 8)
                    at += 2
                _memcpy(to + at, base + begin, end - begin)
                at += end - begin
                n_kept += 1
                if row == rows[1] and column == columns[1]:
                    return at
            if np.uint8(record[end + 1]) != _RST0 + index % 8:
                return 0
            index += 1
            begin = end + 2
    return 0


@njit(nogil=True, error_model="numpy")
def _state_size(out, layout, height, width):
    """Write another size into the frame header of a JPEG."""
    sizes = out[layout[FRAME] + 5 : layout[FRAME] + 9]
    sizes[0], sizes[1] = np.uint8(height >> 8), np.uint8(height & 255)
    sizes[2], sizes[3] = np.uint8(width >> 8), np.uint8(width & 255)


@njit(nogil=True, error_model="numpy")
def _splice(record, layout, rows, margin, box, denominator, out, region):
    """The tiles under a box; arguments and answer as :func:`excerpt`'s."""
    height, width = layout[HEIGHT], layout[WIDTH]
    unit_height, tile = 8 * layout[SAMPLE_V], 8 * layout[SAMPLE_H] * layout[INTERVAL]
    top, bottom, n_down = rows
    left, right, n_across = _tile_range(box[1], box[3], width, tile, margin)
    end_of_tiles = min((right + 1) * tile, width)
    while margin > 0 and left > 0 and end_of_tiles - left * tile <= _NARROW * denominator:
        left -= 1
    if top == 0 and left == 0 and bottom == n_down - 1 and right == n_across - 1:
        return 0
    header = layout[SCAN]
    _memcpy(out.ctypes.data, record.ctypes.data, header)
    high = min((bottom + 1) * unit_height, height) - top * unit_height
    wide = end_of_tiles - left * tile
    _state_size(out, layout, high, wide)
    end = _copy_tiles(record, layout, (top, bottom), (left, right), n_across, out, header)
    if end == 0:
        return 0
    region[0], region[1], region[2], region[3] = top * unit_height, left * tile, high, wide
    out[end], out[end + 1] = np.uint8(_MARKER), np.uint8(_EOI)
    return end + 2


@njit(nogil=True, error_model="numpy")
def _upper_part(record, layout, rows, out, region):
    """The rows down to a box's lower edge; arguments and answer as :func:`excerpt`'s."""
    bottom, n_down = rows[1], rows[2]
    if bottom == n_down - 1:
        return 0
    _memcpy(out.ctypes.data, record.ctypes.data, len(record))
    region[2] = (bottom + 1) * 8 * layout[SAMPLE_V]
    _state_size(out, layout, region[2], region[3])
    return len(record)


@njit(nogil=True, error_model="numpy")
def excerpt(data, start, size, box, denominator, out, region):
    """Copy what a box needs of a record.

    Args:
        data: (bytes,) int8 that holds the record.
        start: Its first byte there.
        size: Its bytes.
        box: (4,) int64: top, left, height and width in pixels, inside the image.
        denominator: Of the size at which it will be decoded.
        out: (≥ size,) int8, written to.
        region: (4,) int64: the whole image, as the bundle has it; where less is copied, written
            to: which part of it ``out`` shows.

    Returns:
        Bytes of the small JPEG; 0 where all is needed, or the record is no JPEG of which a part can
        be told, and is to be decoded as it is.
    """
    layout = np.empty(N_FIELDS, np.int64)
    if not find_layout(data, start, size, layout):
        return 0
    width, height, interval = layout[WIDTH], layout[HEIGHT], layout[INTERVAL]
    if width != region[3] or height != region[2]:
        return 0
    unit_width, unit_height = 8 * layout[SAMPLE_H], 8 * layout[SAMPLE_V]
    margin_down, margin_across = _margins(layout, denominator)
    rows = _tile_range(box[0], box[2], height, unit_height, margin_down)
    record = data[start : start + size]
    if interval > 0 and -(-width // unit_width) % interval == 0:
        return _splice(record, layout, rows, margin_across, box, denominator, out, region)
    return _upper_part(record, layout, rows, out, region)

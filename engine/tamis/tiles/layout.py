"""Where a baseline JPEG's frame and scan are: what tiles need to know of it."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "COMPONENTS",
    "FRAME",
    "HEIGHT",
    "INTERVAL",
    "N_FIELDS",
    "SAMPLE_H",
    "SAMPLE_V",
    "SCAN",
    "WIDTH",
    "find_layout",
]

# The fields of a layout. Offsets are from the record's first byte.
FRAME = 0  # offset of the frame header's marker, SOF0
WIDTH = 1  # pixels
HEIGHT = 2
COMPONENTS = 3  # 1 grey, 3 colour
SAMPLE_H = 4  # blocks of the first component in a unit (MCU), across; the others have 1 × 1
SAMPLE_V = 5  # and down
INTERVAL = 6  # units between restart markers; 0 without them
SCAN = 7  # offset of the first entropy-coded byte
N_FIELDS = 8

_SOI, _SOF0, _DHT, _SOS, _DQT, _DRI, _APP0, _APP15, _COM = (
    0xD8,
    0xC0,
    0xC4,
    0xDA,
    0xDB,
    0xDD,
    0xE0,
    0xEF,
    0xFE,
)


@njit(nogil=True, error_model="numpy")
def _byte(data, at):
    return np.int64(np.uint8(data[at]))


@njit(nogil=True, error_model="numpy")
def _pair(data, at):
    return _byte(data, at) << 8 | _byte(data, at + 1)


@njit(nogil=True, error_model="numpy")
def _read_frame(data, at, length, layout):
    if length < 8:
        return False
    n = _byte(data, at + 9)
    if _byte(data, at + 4) != 8 or (n != 1 and n != 3) or length != 8 + 3 * n:
        return False
    layout[HEIGHT], layout[WIDTH] = _pair(data, at + 5), _pair(data, at + 7)
    layout[COMPONENTS] = n
    sampling = _byte(data, at + 11)
    layout[SAMPLE_H], layout[SAMPLE_V] = sampling >> 4, sampling & 15
    most = 2 if n == 3 else 1
    for k in range(1, n):
        if _byte(data, at + 11 + 3 * k) != 0x11:
            return False
    return (
        1 <= layout[SAMPLE_H] <= most
        and 1 <= layout[SAMPLE_V] <= most
        and layout[WIDTH] > 0
        and layout[HEIGHT] > 0
    )


@njit(nogil=True, error_model="numpy")
def _is_one_scan(data, at, length, layout):
    """Whether the scan header at ``at`` is of all components, whole and at once."""
    n, frame = layout[COMPONENTS], layout[FRAME]
    if frame < 0 or length != 6 + 2 * n or _byte(data, at + 4) != n:
        return False
    for k in range(n):
        if data[at + 5 + 2 * k] != data[frame + 10 + 3 * k]:
            return False
    end = at + 5 + 2 * n
    return _byte(data, end) == 0 and _byte(data, end + 1) == 63 and data[end + 2] == 0


@njit(nogil=True, error_model="numpy")
def find_layout(data, start, size, layout):
    """Walk a record's markers up to its first scan.

    Args:
        data: (bytes,) int8 that holds the record; never read outside of it.
        start: Its first byte there.
        size: Its bytes.
        layout: (``N_FIELDS``,) int64, written to.

    Returns:
        Whether it is what can be tiled: a baseline JPEG (SOF0) of 8 bits, grey or with chroma in
        1 × 1 and luma in at most 2 × 2 blocks a unit, in one scan. If not, ``layout`` holds
        anything.
    """
    layout[FRAME], layout[INTERVAL] = -1, 0
    record = data[start : start + size]
    # Not plain 0 and 2, for each of which numba would compile all of this once more.
    begin, at = np.int64(0), np.int64(2)
    if size < 4 or _pair(record, begin) != 0xFF00 | _SOI:
        return False
    while at + 4 <= size:
        marker, length = _byte(record, at + 1), _pair(record, at + 2)
        if _byte(record, at) != 0xFF or length < 2 or at + 2 + length > size:
            return False
        if marker == _SOF0:
            if layout[FRAME] >= 0 or not _read_frame(record, at, length, layout):
                return False
            layout[FRAME] = at
        elif marker == _DRI:
            if length != 4:
                return False
            layout[INTERVAL] = _pair(record, at + 4)
        elif marker == _SOS:
            layout[SCAN] = at + 2 + length
            return _is_one_scan(record, at, length, layout)
        elif not (marker in (_DHT, _DQT, _COM) or _APP0 <= marker <= _APP15):
            return False
        at += 2 + length
    return False

"""The compiled loop over encoded records: decode, check, cut out, resize."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from tamis.bundles.layout import RAW_MODE
from tamis.loaders.resample import resample_into
from tamis.loaders.turbojpeg import SYMBOL

__all__ = [
    "BAD_RAW",
    "BROKEN",
    "DOUBTFUL",
    "FINE",
    "NO_HEADER",
    "OTHER_SIZE",
    "TOO_LARGE",
    "decode_rows",
]

_INT, _LONG = types.int32, types.int64
_read_header: Any = types.ExternalFunction(SYMBOL.format("tjDecompressHeader3"), _INT(*[_LONG] * 7))
_decompress: Any = types.ExternalFunction(
    SYMBOL.format("tjDecompress2"), _INT(*[_LONG] * 4, *[_INT] * 5)
)
_error_code: Any = types.ExternalFunction(SYMBOL.format("tjGetErrorCode"), _INT(_LONG))

# turbojpeg.h: TJPF_RGB; TJFLAG_LIMITSCANS, after 500 scans of a progressive JPEG; TJERR_WARNING.
_RGB, _LIMIT_SCANS, _WARNING = 0, 32768, 0

# What became of a record.
FINE = 0
NO_HEADER = 1
OTHER_SIZE = 2
BROKEN = 3
DOUBTFUL = 4  # libjpeg-turbo warns, and nothing proves that the bytes were always so
BAD_RAW = 5
TOO_LARGE = 6


@njit(nogil=True, error_model="numpy")
def _decode_jpeg(handle, address, size, width, height, proven, scratch):
    # Decoding into a buffer for the stated size is safe only where the JPEG has that size.
    header = np.zeros(4, np.int32)
    at = header.ctypes.data
    if _read_header(handle, address, size, at, at + 4, at + 8, at + 12) != 0:
        return NO_HEADER
    if header[0] == 0 or header[1] == 0:  # tables only
        return NO_HEADER
    if header[0] != width or header[1] != height:
        return OTHER_SIZE
    out = scratch.ctypes.data
    if _decompress(handle, address, size, out, width, 0, height, _RGB, _LIMIT_SCANS) != 0:
        if _error_code(handle) != _WARNING:
            return BROKEN
        if not proven:
            return DOUBTFUL
    return FINE


@njit(nogil=True, cache=True, error_model="numpy")
def decode_rows(first, handle, records, proven, boxes, flips, scratch, out):
    """Decode rows from ``first`` on, until one fails.

    Args:
        first: The row to begin with.
        handle: Of a decompressor of libturbojpeg's.
        records: The arrays of :class:`tamis.loaders.decoding.Records`, in its order.
        proven: As there.
        boxes: (k, 4) int64, see :class:`tamis.loaders.decoding.Decoder`.
        flips: (k,) bool.
        scratch: (bytes,) int8, for the pixels of a whole image.
        out: (k, height, width, 3) uint8, written to.

    Returns:
        The row that failed and why, or k and ``FINE``.
    """
    data, starts, sizes, modes, widths, heights = records
    for row in range(first, len(starts)):
        width, height = widths[row], heights[row]
        if 3 * width * height > len(scratch):
            return row, TOO_LARGE
        if modes[row] == RAW_MODE:
            if sizes[row] != 3 * width * height:
                return row, BAD_RAW
            source, at = data, starts[row]
        else:
            address = data.ctypes.data + starts[row]
            found = _decode_jpeg(handle, address, sizes[row], width, height, proven, scratch)
            if found != FINE:
                return row, found
            source, at = scratch, 0
        resample_into(source, at, width, boxes[row], flips[row], out[row])
    return len(starts), FINE

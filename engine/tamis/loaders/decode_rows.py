"""The compiled loop over encoded records: decode, check, cut out, resize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

from tamis.bundles.layout import RAW_MODE
from tamis.loaders.excerpts import excerpt
from tamis.loaders.resample import resample_into
from tamis.loaders.turbojpeg import SYMBOL
from tamis_kernels.compiled import forget_stale

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

forget_stale(Path(__file__).parent)

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

# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where the box is then still so many times as
# large as what is shown: the resampler's triangles hide the rest. The worst of 2,000 random crops
# is then 32 dB from an exact one (bench/records/NOTES.md).
_LEAST_SHRINK, _LEAST_SHRINK_TO_HALF = 1.1, 1.05
_LEAST_SIDE = 16  # below it libturbojpeg takes another fraction, which rounds to the same size


@njit(nogil=True, error_model="numpy")
def _read_size(handle, address, size, found):
    """Width and height of a JPEG, or whether it has none."""
    at = found.ctypes.data
    if _read_header(handle, address, size, at, at + 4, at + 8, at + 12) != 0:
        return False
    return found[0] != 0 and found[1] != 0  # of tables only both are 0


@njit(nogil=True, error_model="numpy")
def _fraction(box, side_down, side_across, exact):
    """Denominator of the size at which a JPEG is decoded, whole or a part around the box."""
    if exact or min(box[2], box[3]) < _LEAST_SIDE:
        return 1
    shrink = min(box[2] / side_down, box[3] / side_across)
    for denominator in (8, 4):
        if shrink >= _LEAST_SHRINK * denominator:
            return denominator
    return 2 if shrink >= 2 * _LEAST_SHRINK_TO_HALF else 1


@njit(nogil=True, error_model="numpy")
def _decode_jpeg(handle, address, size, region, denominator, proven, scratch):
    # Decoding into a buffer for the stated size is safe only where the JPEG has that size.
    header = np.zeros(4, np.int32)
    if not _read_size(handle, address, size, header):
        return NO_HEADER
    if header[0] != region[3] or header[1] != region[2]:
        return OTHER_SIZE
    width, height = -(-region[3] // denominator), -(-region[2] // denominator)
    out = scratch.ctypes.data
    if _decompress(handle, address, size, out, width, 0, height, _RGB, _LIMIT_SCANS) != 0:
        if _error_code(handle) != _WARNING:
            return BROKEN
        if not proven:
            return DOUBTFUL
    return FINE


@njit(nogil=True, error_model="numpy")
def _show_jpeg(
    handle, data, start, size, proven, box, flip, exact, by_area, pixels, smaller, region, out
):
    """Decode what a box needs of a JPEG, and resize it."""
    address = data.ctypes.data + start
    denominator = _fraction(box, out.shape[0], out.shape[1], exact or by_area)
    # What is not proven is decoded whole: damage beside the box is damage, too. (What libjpeg-turbo
    # refuses of proven bytes below the box is not seen.)
    if proven:
        n = excerpt(data, start, size, box, denominator, smaller, region)
        if n:
            address, size = smaller.ctypes.data, n
    found = _decode_jpeg(handle, address, size, region, denominator, proven, pixels)
    if found == FINE:
        part = (
            (box[0] - region[0]) / denominator,
            (box[1] - region[1]) / denominator,
            box[2] / denominator,
            box[3] / denominator,
        )
        shown = (-(-region[2] // denominator), -(-region[3] // denominator))
        # Not plain 0, for which numba would compile all of it once more.
        resample_into(pixels, np.int64(0), shown, part, flip, by_area, out)
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def decode_rows(first, handle, records, proven, boxes, flips, exact, by_area, pixels, smaller, out):
    """Decode rows from ``first`` on, until one fails.

    Args:
        first: The row to begin with.
        handle: Of a decompressor of libturbojpeg's.
        records: The arrays of :class:`tamis.loaders.decoding.Records`, in its order.
        proven: As there.
        boxes: (k, 4) int64, see :class:`tamis.loaders.decoding.Decoder`.
        flips: (k,) bool.
        exact: Decode at full size, however small the result.
        by_area: Resize by areas, not triangles.
        pixels: (bytes,) int8, for the pixels of a whole image.
        smaller: (bytes,) int8, for a record of which only a part is decoded.
        out: (k, height, width, 3) uint8, written to.

    Returns:
        The row that failed and why, or k and ``FINE``.
    """
    data, starts, sizes, modes, widths, heights = records
    region = np.empty(4, np.int64)
    for row in range(first, len(starts)):
        width, height = widths[row], heights[row]
        if 3 * width * height > len(pixels):
            return row, TOO_LARGE
        box, flip, to = boxes[row], flips[row], out[row]
        start, size = starts[row], sizes[row]
        if modes[row] == RAW_MODE:
            if size == 0 or size != 3 * width * height:
                return row, BAD_RAW
            part = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
            resample_into(data, start, (height, width), part, flip, by_area, to)
            continue
        region[0], region[1], region[2], region[3] = 0, 0, height, width
        found = _show_jpeg(
            handle,
            data,
            start,
            size,
            proven,
            box,
            flip,
            exact,
            by_area,
            pixels,
            smaller,
            region,
            to,
        )
        if found != FINE:
            return row, found
    return len(starts), FINE

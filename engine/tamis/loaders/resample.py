"""Resizing of a part of an image, each axis with its own weights.

``area`` is FFCV's way: an output pixel that spans several input pixels is their mean, each weighted
with how much of it lies inside (OpenCV's INTER_AREA); where the output is finer than the input, it
is interpolated between the nearest two centres (INTER_LINEAR). ``antialias`` is torchvision's,
Pillow's and DALI's: a triangle as wide as two output pixels, or two input pixels where those are
larger.

Rows are weighted first, over whole lines, which the processor does 16 numbers at a time. Bytes are
taken as int8, because FFCV changes numba's type of vectors of uint8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tamis.loaders.resample_lines import LINE_PADDING, weigh_columns

__all__ = ["resample_into"]


@njit(nogil=True, error_model="numpy")
def _area_weights(low, high, n_in, scale, weights):
    """Of the output that spans ``low`` to ``high``; its first input and their number."""
    first = int(low)
    # A last input of which only rounding is inside does not count.
    last = min(int(np.ceil(high - 1e-9)), n_in)
    for k in range(last - first):
        inside = min(high, first + k + 1.0) - max(low, float(first + k))
        weights[k] = inside / scale
    return first, last - first


@njit(nogil=True, error_model="numpy")
def _triangle_weights(centre, most, support, weights):
    """Of the output around ``centre``, from the first ``most`` inputs; as torch's kernel."""
    first = max(int(centre - support + 0.5), 0)
    last = min(int(centre + support + 0.5), most)
    total = 0.0
    for k in range(last - first):
        weight = max(0.0, 1 - abs(first + k - centre + 0.5) / support)
        weights[k] = weight
        total += weight
    for k in range(last - first):
        weights[k] /= total
    return first, last - first


@njit(nogil=True, error_model="numpy")
def _taps(n_in, begin, extent, n_out, by_area):
    """Where each output's inputs begin, how many there are, their weights, and the most of them.

    The outputs share ``extent`` inputs from ``begin`` on, which need not be whole numbers; what
    lies outside is not looked at, but for the rest of a pixel that is partly inside.
    """
    scale, whole = extent / n_out, int(begin)
    # From within the first pixel on, wherever that is: every part of an image rounds alike.
    begin -= whole
    most = min(int(np.ceil(begin + extent)), n_in - whole)
    support = max(scale, 1.0)
    start, count, largest = np.empty(n_out, np.int64), np.empty(n_out, np.int64), 0
    weights = np.zeros((n_out, int(2 * support) + 3), np.float32)
    for out in range(n_out):
        if by_area and scale >= 1:
            low, high = begin + out * scale, begin + (out + 1) * scale
            found = _area_weights(low, high, most, scale, weights[out])
        else:
            # A triangle of one pixel is what interpolation is.
            centre = begin + (out + 0.5) * scale
            found = _triangle_weights(centre, most, support, weights[out])
        start[out], count[out] = found[0] + whole, found[1]
        largest = max(largest, count[out])
    return start, count, weights, largest


# Slices and ranges from 0: LLVM sees that no index is negative, and vectorises.
@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _weigh_first_rows(source, at, stride, weights, count, line, n):
    """Begin a line with as many of its rows as one loop takes; how many those are."""
    out, a, w0 = line[:n], source[at : at + n], weights[0]
    if count == 1:
        for x in range(n):
            out[x] = w0 * np.float32(np.uint8(a[x]))
        return 1
    b, w1 = source[at + stride : at + stride + n], weights[1]
    if count == 2:
        for x in range(n):
            out[x] = w0 * np.float32(np.uint8(a[x])) + w1 * np.float32(np.uint8(b[x]))
        return 2
    c, w2 = source[at + 2 * stride : at + 2 * stride + n], weights[2]
    if count == 3:
        for x in range(n):
            out[x] = (
                w0 * np.float32(np.uint8(a[x]))
                + w1 * np.float32(np.uint8(b[x]))
                + w2 * np.float32(np.uint8(c[x]))
            )
        return 3
    d, w3 = source[at + 3 * stride : at + 3 * stride + n], weights[3]
    for x in range(n):
        out[x] = (
            w0 * np.float32(np.uint8(a[x]))
            + w1 * np.float32(np.uint8(b[x]))
            + w2 * np.float32(np.uint8(c[x]))
            + w3 * np.float32(np.uint8(d[x]))
        )
    return 4


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _weigh_rows(source, at, stride, weights, count, line, n):
    """``line`` = the weighted sum of ``count`` rows of ``n`` bytes, ``stride`` bytes apart."""
    k = _weigh_first_rows(source, at, stride, weights, count, line, n)
    out = line[:n]
    while k + 1 < count:
        a, b = source[at + k * stride :][:n], source[at + (k + 1) * stride :][:n]
        w0, w1 = weights[k], weights[k + 1]
        for x in range(n):
            out[x] += w0 * np.float32(np.uint8(a[x])) + w1 * np.float32(np.uint8(b[x]))
        k += 2
    if k < count:
        a, w0 = source[at + k * stride :][:n], weights[k]
        for x in range(n):
            out[x] += w0 * np.float32(np.uint8(a[x]))


@njit(nogil=True, error_model="numpy")
def _copy(source, at, stride, flip, out):
    height, width = out.shape[0], out.shape[1]
    for y in range(height):
        line = source[at + y * stride : at + y * stride + 3 * width]
        for x in range(width):
            z = width - 1 - x if flip else x
            for c in range(3):
                out[y, z, c] = np.uint8(line[3 * x + c])


@njit(nogil=True, error_model="numpy")
def resample_into(source, at, size, box, flip, by_area, out):
    """Resize a box of an image of RGB bytes.

    Args:
        source: (bytes,) int8, which holds the image's rows without gaps.
        at: Where the image begins in it.
        size: Its height and width in pixels.
        box: Top, left, height and width, four float64, inside the image; in fractions of pixels
            where the image was shrunk before.
        flip: Mirror it.
        by_area: Whether by areas or by triangles.
        out: (height, width, 3) uint8, written to; its rows without gaps.
    """
    top, left, height, width = box
    n_rows, n_columns = size
    stride = 3 * n_columns
    if height == out.shape[0] and width == out.shape[1] and top == int(top) and left == int(left):
        _copy(source, at + int(top) * stride + 3 * int(left), stride, flip, out)
        return
    y_start, y_count, y_weights, _ = _taps(n_rows, top, height, out.shape[0], by_area)
    x_start, _, x_weights, most = _taps(n_columns, left, width, out.shape[1], by_area)
    # Only what the box needs of each row; taps of weight zero may lie beyond.
    first = int(left)
    n = 3 * (min(int(np.ceil(left + width)), n_columns) - first)
    x_start -= first
    line = np.zeros(n + 3 * most + LINE_PADDING, np.float32)
    to = out.ctypes.data
    for y in range(out.shape[0]):
        begin = at + y_start[y] * stride + 3 * first
        _weigh_rows(source, begin, stride, y_weights[y], y_count[y], line, n)
        weigh_columns(line, x_start, x_weights, most, flip, to + 3 * y * out.shape[1])

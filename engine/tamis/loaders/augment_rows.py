"""Augmentation of decoded images on a CPU: compiled loops, a part of a batch on each thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit

from tamis.loaders.resample import resample_into
from tamis_kernels.compiled import forget_stale
from tamis_kernels.cpu.vector_math import fetch_row

__all__ = ["resample_rows", "shift_rows"]

forget_stale(Path(__file__).parent)


@njit(nogil=True, cache=True, error_model="numpy")
def resample_rows(images, side, positions, boxes, flips, by_area, out):
    """Resize a box of each of some images of one size.

    Args:
        images: (n · side · side · 3,) int8, n images of RGB bytes.
        side: Of the images in pixels.
        positions: (k,) int64, which of them.
        boxes: (k, 4) int64: top, left, height and width in pixels, inside the image.
        flips: (k,) bool, which to mirror.
        by_area: Whether to resize by areas or by triangles.
        out: (k, height, width, 3) uint8, written to.
    """
    size = 3 * side * side
    for row in range(len(positions)):
        box = boxes[row]
        part = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        at = positions[row] * size
        resample_into(images, at, (side, side), part, flips[row], by_area, out[row])


@njit(nogil=True, error_model="numpy")
def _reflected(at, side):
    at = abs(at)
    return 2 * (side - 1) - at if at >= side else at


@njit(nogil=True, cache=True, error_model="numpy")
def shift_rows(images, side, positions, flips, ups, lefts, tops, cut_lefts, cut, grey, out):
    """Mirror, shift over reflected edges, and cover a square, in one pass over the pixels.

    Args:
        images: (n · side · side · 3,) int8, n images of RGB bytes.
        side: Of the images in pixels.
        positions: (k,) int64, which of them.
        flips: (k,) bool, which to mirror, before all else.
        ups: (k,) int64 pixels, less than ``side``.
        lefts: (k,) int64.
        tops: (k,) int64, first row of the square.
        cut_lefts: (k,) int64, first column of the square.
        cut: Its side; 0 for none.
        grey: What it is filled with.
        out: (k, side, side, 3) uint8, written to.
    """
    size, width = 3 * side * side, 3 * side
    lines, whole = out.reshape(-1), images.reshape((-1, size))
    columns = np.empty(width, np.uint32)  # of each byte of a line, where it comes from
    for row in range(len(positions)):
        # In random order no CPU foresees which image is next.
        fetch_row(whole, positions[min(row + 1, len(positions) - 1)], 0, size)
        for x in range(side):
            column = _reflected(x + lefts[row], side)
            column = side - 1 - column if flips[row] else column
            for c in range(3):
                columns[3 * x + c] = 3 * column + c
        for y in range(side):
            at = positions[row] * size + _reflected(y + ups[row], side) * width
            source, begin = images[at : at + width], (row * side + y) * width
            line = lines[begin : begin + width]
            for i in range(width):
                line[i] = np.uint8(source[columns[i]])
        for y in range(max(0, tops[row]), min(side, tops[row] + cut)):
            for x in range(max(0, cut_lefts[row]), min(side, cut_lefts[row] + cut)):
                for c in range(3):
                    out[row, y, x, c] = grey

"""Weighted sums along a line of RGB pixels: the columns' half of resizing.

A pixel and the red of the next one are four numbers that the processor weighs at once, whatever
their number of taps. LLVM does not find that by itself (NOTES.md), so that it is written in its own
language.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LINE_PADDING", "weigh_columns"]

LINE_PADDING = 4
"""Floats behind a line that are read, with weight zero or into the unused fourth number."""

_FLOAT, _BYTE, _WORD, _LONG = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FOUR, _FOUR_WORDS = ir.VectorType(_FLOAT, 4), ir.VectorType(_WORD, 4)
_FLOAT_BYTES, _PIXEL_BYTES = 4, 12
# Numbers of taps with code of their own, in which no sum waits for a loop.
_UNROLLED = (2, 3, 4, 5, 6)


def _weighted(builder: Any, pixels: Any, weights: Any, tap: Any, total: Any) -> Any:
    """``total`` + weight · pixel, four numbers, of one tap."""
    function = ir.FunctionType(_FOUR, [_FOUR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, function, "llvm.fmuladd.v4f32")
    weight = builder.load(builder.gep(weights, [tap]))
    nothing = ir.Constant(_FOUR, ir.Undefined)
    first = builder.insert_element(nothing, weight, _WORD(0))
    four_times = builder.shuffle_vector(first, nothing, ir.Constant(_FOUR_WORDS, [0] * 4))
    place = builder.gep(pixels, [builder.mul(tap, _LONG(3))])
    numbers = builder.load(builder.bitcast(place, _FOUR.as_pointer()))
    numbers.align = _FLOAT_BYTES
    return builder.call(fma, [four_times, numbers, total])


def _sum_of_taps(builder: Any, pixels: Any, weights: Any, n_taps: Any, unrolled: int) -> Any:
    half = ir.Constant(_FOUR, [0.5] * 4)  # what truncation needs to round
    if unrolled:
        sums = [half, ir.Constant(_FOUR, [0.0] * 4)]  # two, which do not wait for each other
        for tap in range(unrolled):
            sums[tap % 2] = _weighted(builder, pixels, weights, _LONG(tap), sums[tap % 2])
        return builder.fadd(*sums)
    total = cgutils.alloca_once_value(builder, half)
    with cgutils.for_range(builder, n_taps) as loop:
        builder.store(_weighted(builder, pixels, weights, loop.index, builder.load(total)), total)
    return builder.load(total)


def _line_weigher(unrolled: int) -> Callable[..., Any]:
    """Code for a whole line with ``unrolled`` taps, or any number of them for 0."""

    def weigh_line(
        context: Any,
        line: Any,
        starts: Any,
        weights: Any,
        row_bytes: Any,
        n: Any,
        n_taps: Any,
        out: Any,
        step: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            line, starts, weights, row_bytes, n, n_taps, out, step = args
            all_starts = builder.inttoptr(starts, _LONG.as_pointer())
            with cgutils.for_range(builder, n) as loop:
                x = loop.index
                start = builder.load(builder.gep(all_starts, [x]))
                place = builder.add(line, builder.mul(start, _LONG(_PIXEL_BYTES)))
                row = builder.add(weights, builder.mul(x, row_bytes))
                pixels = builder.inttoptr(place, _FLOAT.as_pointer())
                own = builder.inttoptr(row, _FLOAT.as_pointer())
                total = _sum_of_taps(builder, pixels, own, n_taps, unrolled)
                whole = builder.fptosi(total, _FOUR_WORDS)
                pixel = builder.inttoptr(builder.add(out, builder.mul(x, step)), _BYTE.as_pointer())
                for channel in range(3):
                    value = builder.extract_element(whole, _WORD(channel))
                    place = builder.gep(pixel, [_LONG(channel)])
                    builder.store(builder.trunc(value, _BYTE), place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    code: Callable[..., Any] = intrinsic(weigh_line)
    return code


_any = _line_weigher(0)
_two, _three, _four, _five, _six = map(_line_weigher, _UNROLLED)


@njit(nogil=True, error_model="numpy")
def weigh_columns(line, starts, weights, n_taps, flip, out):
    """A row of RGB bytes from a line of floats.

    Args:
        line: (floats,) float32, three a pixel, and ``LINE_PADDING`` behind all that have a tap.
        starts: (n,) int64, the first pixel of each output's taps.
        weights: (n, ≥ n_taps) float32, rows without gaps, zeros where an output has fewer.
        n_taps: The most that an output has; at least 1.
        flip: Write from right to left.
        out: Address of 3 · n bytes.
    """
    n, row_bytes = len(starts), 4 * weights.shape[1]
    a, b, c = line.ctypes.data, starts.ctypes.data, weights.ctypes.data
    step = -3 if flip else 3
    out += 3 * (n - 1) if flip else 0
    if n_taps == 2:
        _two(a, b, c, row_bytes, n, n_taps, out, step)
    elif n_taps == 3:
        _three(a, b, c, row_bytes, n, n_taps, out, step)
    elif n_taps == 4:
        _four(a, b, c, row_bytes, n, n_taps, out, step)
    elif n_taps == 5:
        _five(a, b, c, row_bytes, n, n_taps, out, step)
    elif n_taps == 6:
        _six(a, b, c, row_bytes, n, n_taps, out, step)
    else:
        _any(a, b, c, row_bytes, n, n_taps, out, step)

"""What Numba lacks: elementary functions in float32 that LLVM can vectorise, and prefetching.

Numba's ``math.exp`` is a call into libm, one value at a time; these are a few multiplications, so a
loop over them runs at eight or sixteen values an instruction. Relative errors are below 1.5e-7
where the result is a normal number. They must not be compiled with ``reassoc``: their rounding
tricks are what that flag undoes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "EXP_TERMS",
    "LINE",
    "LN2_HIGH",
    "LN2_LOW",
    "LOG2E",
    "LOWEST",
    "ROUND",
    "bits_of",
    "exp_neg",
    "exp_within",
    "fetch_row",
    "float_of",
    "half_to_float",
    "log1p_pos",
    "number",
    "order_key",
    "prefetch",
    "sqrt_of",
    "square_norm",
]

_F = np.float32

LOWEST = _F(-88.0)
"""Where exponentials end: e to it is zero, as from −87.7 on."""

LINE = 64
"""Bytes of a cache line."""

LOG2E = _F(1.4426950408889634)
"""1 / ln 2."""

LN2_HIGH = _F(0.693359375)
"""Of ln 2, with few bits, so that integers times it are exact."""

LN2_LOW = _F(-2.12194440e-4)
"""The rest of it."""

ROUND = _F(12582912.0 + 127.0)
"""1.5 · 2²³ leaves the nearest integer in the low bits of a sum; 127 makes it an exponent's."""

EXP_TERMS = tuple(
    _F(c) for c in (1.38145e-3, 8.36878e-3, 0.04166839, 0.1666652, 0.49999993, 1.0, 1.0)
)
"""Coefficients of eʳ on |r| ≤ ln 2 / 2, highest power first; all but the last two are fitted so
that the largest relative error, 3.1e-9, is the least."""

_SQRT_HALF = _F(0.70710678)
_E6, _E5, _E4, _E3, _E2, _E1, _E0 = EXP_TERMS
# Least-squares fit of (log(1 + f) − f + f²/2) / f³ on √½ − 1 ≤ f ≤ √2 − 1, as in Cephes (Moshier
# 1989), highest power first.
_LOG = [
    _F(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
]
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = _LOG


def _bits_of(context: Any, x: Any) -> Any:
    """The 32 bits of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _float_of(context: Any, bits: Any) -> Any:
    """The float32 with these 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def _sqrt_of(context: Any, x: Any) -> Any:
    """√x as one instruction; Numba's own is a call that may set errno, which is not vectorised."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        root = builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()])
        return builder.call(root, args)

    return types.float32(types.float32), generate


def prefetch(context: Any, builder: Any, matrix: Any, array: Any, at: Any) -> None:
    """Generate code that has the cache line with an item of a matrix fetched meanwhile.

    Args:
        context: Of the function that is generated.
        builder: Likewise.
        matrix: Numba's type of it.
        array: Its structure there.
        at: Row and column; there need not be such an item.
    """
    item = cgutils.get_item_pointer(context, builder, matrix, array, at, wraparound=False)
    pointer, word = ir.PointerType(ir.IntType(8)), ir.IntType(32)
    declared = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer, *[word] * 3]), "llvm.prefetch.p0"
    )
    to_read, to_all_caches, of_data = word(0), word(3), word(1)
    builder.call(declared, [builder.bitcast(item, pointer), to_read, to_all_caches, of_data])


def _generate_prefetch(context: Any, matrix: Any, row: Any, column: Any) -> Any:
    """Have the cache line with matrix[row, column] fetched meanwhile."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        matrix, *_ = signature.args
        array = context.make_array(matrix)(context, builder, args[0])
        prefetch(context, builder, matrix, array, args[1:])
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp), generate


# Typed by hand: to a type checker, an intrinsic is the function that generates its code.
bits_of: Callable[..., Any] = intrinsic(_bits_of)
float_of: Callable[..., Any] = intrinsic(_float_of)
sqrt_of: Callable[..., Any] = intrinsic(_sqrt_of)
_prefetch: Callable[..., Any] = intrinsic(_generate_prefetch)


@njit(nogil=True)
def fetch_row(matrix, row, start, stop):
    """Have columns ``start`` to ``stop`` of a row, or those there are, brought into the cache.

    CPUs foresee the next lines, but not beyond a page, nor which row comes next.
    """
    for column in range(start, min(stop, matrix.shape[1]), LINE // matrix.itemsize):
        _prefetch(matrix, row, column)


@njit
def order_key(bits):
    """Integer that sorts as the float32 with these bits does; the map is its own inverse.

    NaN with the sign bit clear sorts above infinity, with it set below minus infinity.
    """
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@njit
def half_to_float(half):
    """The float32 of 16 bits of IEEE half precision; exact, subnormals and infinities included."""
    magnitude = np.int32(half & 0x7FFF)
    # The exponent's bias differs by 112; a product corrects it, for subnormal numbers too.
    scaled = float_of(np.int32(magnitude << 13)) * _F(2.0**112)
    special = np.int32(0x7F800000) if magnitude >= 0x7C00 else np.int32(0)
    return float_of(np.int32(bits_of(scaled) | special | (np.int32(half & 0x8000) << 16)))


@njit
def number(value, kind):
    """What a coordinate stands for: a float itself; an integer as bits of a number.

    Of float16 if it is of kind 1, of bfloat16 if it is of another.
    """
    if isinstance(value, (np.float32, np.float64)):  # decided as it is compiled, not in a loop
        return value
    if kind == 1:
        return half_to_float(np.int32(value))
    return float_of(np.int32(np.int32(value) << 16))


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def square_norm(row, kind):
    """Σ v² in float64 of a row of this kind; no number of float32 is too large for it."""
    total = 0.0
    for j in range(row.size):
        value = np.float64(number(row[j], kind))
        total += value * value
    return total


@njit(fastmath={"contract"})
def exp_within(x):
    """eˣ for −88 ≤ x ≤ 0, exactly 1 at 0, NaN for NaN; of any other x it may be any number.

    Zero from −87.7 on, where an exponent has no bits left; from −87.3 on it is subnormal.
    """
    shifted = x * LOG2E + ROUND
    n = shifted - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = (((((_E6 * r + _E5) * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _E0
    return p * float_of(np.int32(bits_of(shifted) << 23))


@njit(fastmath={"contract"})
def exp_neg(x):
    """eˣ for x ≤ 0; exactly 1 at 0, 0 from −87.7 on, NaN for NaN."""
    return exp_within(LOWEST if x < LOWEST else x)


@njit(fastmath={"contract"}, error_model="numpy")  # no branch for a division by zero
def log1p_pos(x):
    """log(1 + x) for x ≥ 0, also where 1 + x rounds to 1; NaN for NaN, finite x only."""
    u = _F(1.0) + x
    lost = (x - (u - _F(1.0))) / u  # what the rounding of u took from the logarithm
    bits = bits_of(u)
    # u = 2ⁿ · m with √½ ≤ m < √2.
    n = np.int32(np.int32(bits - bits_of(_SQRT_HALF)) >> 23)
    f = float_of(np.int32(bits - (n << 23))) - _F(1.0)
    p = ((((_L0 * f + _L1) * f + _L2) * f + _L3) * f + _L4) * f + _L5
    p = ((p * f + _L6) * f + _L7) * f + _L8
    square = f * f
    tail = p * (f * square) + _F(n) * LN2_LOW - _F(0.5) * square
    return (tail + lost) + f + _F(n) * LN2_HIGH

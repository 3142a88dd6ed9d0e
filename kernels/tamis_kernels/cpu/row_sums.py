"""The sums over a row of logits that :mod:`tamis_kernels.cpu.row_scores` needs, in LLVM's vectors.

LLVM makes vectors of a loop of Numba's by itself, but of none that also has memory fetched, and it
adds the lanes up wherever such a loop ends. A row of a thousand took a quarter longer in pieces
that could be fetched for (bench/records/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from tamis_kernels.cpu.vector_math import (
    EXP_TERMS,
    LINE,
    LN2_HIGH,
    LN2_LOW,
    LOG2E,
    LOWEST,
    ROUND,
    prefetch,
)

__all__ = ["LONGEST", "STEP", "sums_below"]


def _features() -> frozenset[str]:
    """Of the CPU that Numba compiles for: this one, unless its settings name another."""
    named: str | None = getattr(config, "CPU_FEATURES", None)
    if named is not None:
        return frozenset(name[1:] for name in named.split(",") if name.startswith("+"))
    if getattr(config, "CPU_NAME", None) is not None:
        return frozenset()
    try:
        return frozenset(name for name, there in get_host_cpu_features().items() if there)
    except RuntimeError:  # LLVM does not know this CPU's
        return frozenset()


_FEATURES = _features()
_LANES = 16 if "avx512f" in _FEATURES else 8 if "avx2" in _FEATURES else 4

STEP = 2 * _LANES
"""Of so many values the length has to be a multiple: two vectors at a time, whose additions do not
wait for each other."""

LONGEST = 32 * STEP
"""Values that are summed up at most: 32 additions a lane in float32, whose roundings come to 0.6e-6
where all go to one side."""

_FLOATS = ir.VectorType(ir.FloatType(), STEP)
_INTEGERS = ir.VectorType(ir.IntType(32), STEP)
_WORD, _INDEX = ir.IntType(32), ir.IntType(64)
_FUSED = ("contract",)  # a product and a sum may become one instruction


def _all(value: Any) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * STEP)


def _broadcast(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, value, _WORD(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTEGERS, [0] * STEP))


def _times_plus(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)


def _exp_within(builder: Any, x: Any) -> Any:
    """As :func:`tamis_kernels.cpu.vector_math.exp_within`."""
    shifted = _times_plus(builder, x, _all(LOG2E), _all(ROUND))
    n = builder.fsub(shifted, _all(ROUND))
    if "fma" in _FEATURES:  # n · ln 2 is not rounded; ln 2 is, which is 2.4e-7 of e⁻⁸⁷
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{STEP}f32")
        r = builder.call(fma, [n, _all(-(LN2_HIGH + LN2_LOW)), x])
    else:
        r = _times_plus(builder, n, _all(-LN2_HIGH), x)
        r = _times_plus(builder, n, _all(-LN2_LOW), r)
    terms = [_all(term) for term in EXP_TERMS]
    p = reduce(lambda p, term: _times_plus(builder, p, r, term), terms)
    exponent = builder.shl(builder.bitcast(shifted, _INTEGERS), ir.Constant(_INTEGERS, [23] * STEP))
    return builder.fmul(p, builder.bitcast(exponent, _FLOATS))


def _add_terms(builder: Any, z: Any, shift: Any, sums: list[Any]) -> None:
    """Add what STEP values contribute to the four sums."""
    zero, lowest = _all(0.0), _all(LOWEST)
    g = builder.fsub(z, shift)
    g = builder.select(builder.fcmp_ordered("<", g, lowest), lowest, g)  # −∞ · 0 would be NaN
    at_top = builder.fcmp_ordered("==", z, shift)
    e = builder.select(at_top, zero, _exp_within(builder, g))
    total, squares, weighted, n_top = (builder.load(one) for one in sums)
    builder.store(builder.fadd(total, e), sums[0])
    builder.store(_times_plus(builder, e, e, squares), sums[1])
    lost = builder.fmul(e, g, flags=_FUSED)
    builder.store(builder.fsub(weighted, lost, flags=_FUSED), sums[2])
    builder.store(builder.fadd(n_top, builder.select(at_top, _all(1.0), zero)), sums[3])


def _total(builder: Any, lanes: Any) -> Any:
    kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _FLOATS])
    add_up = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.vector.reduce.fadd.v{STEP}f32"
    )
    return builder.call(add_up, [ir.FloatType()(-0.0), lanes], fastmath=("reassoc",))


def _generate(context: Any, z: Any, shift: Any, matrix: Any, row: Any, column: Any) -> Any:
    """Σe, Σe², Σe·|g| over the values below the peak, and how many equal it; g = z − peak.

    Meanwhile matrix[row, column:] is fetched, as many of its values. A NaN makes Σe·|g| NaN; the
    others may then be any number.

    Args:
        z: (n,) float32 array without gaps, n a multiple of STEP and at most LONGEST; none above
            ``shift``.
        shift: The peak; not −∞.
        matrix: (any, at least column) array whose rows have no gaps.
        row: Of the matrix.
        column: Of the matrix; what lies behind the row's end is harmlessly asked for, too.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        z_type, _, matrix_type, *_ = signature.args
        array = context.make_array(z_type)(context, builder, args[0])
        values = builder.bitcast(array.data, ir.PointerType(_FLOATS))
        n_steps = builder.udiv(cgutils.unpack_tuple(builder, array.shape)[0], _INDEX(STEP))
        ahead = context.make_array(matrix_type)(context, builder, args[2])
        item_bytes = context.get_abi_sizeof(context.get_data_type(matrix_type.dtype))
        shift = _broadcast(builder, args[1])
        sums = [cgutils.alloca_once_value(builder, _all(0.0)) for _ in range(4)]
        with cgutils.for_range(builder, n_steps) as loop:
            first = builder.add(args[4], builder.mul(loop.index, _INDEX(STEP)))
            for item in range(0, STEP, max(LINE // item_bytes, 1)):
                at = [args[3], builder.add(first, _INDEX(item))]
                prefetch(context, builder, matrix_type, ahead, at)
            z = builder.load(builder.gep(values, [loop.index]), align=4)
            _add_terms(builder, z, shift, sums)
        totals = [_total(builder, builder.load(one)) for one in sums]
        return context.make_tuple(builder, signature.return_type, totals)

    result = types.UniTuple(types.float32, 4)
    return result(z, shift, matrix, types.intp, types.intp), generate


# Typed by hand: to a type checker, an intrinsic is the function that generates its code.
sums_below: Callable[..., Any] = intrinsic(_generate)

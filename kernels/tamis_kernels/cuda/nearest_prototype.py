"""Launches of nearest_prototype.cu: prototypes are made ready, then rows go through in chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis_kernels.arrays import strides_of
from tamis_kernels.cuda.launching import Runtime, blocks_for, columns_at_once

__all__ = ["launch"]

_Metric = Literal["cosine", "euclidean"]
_Precision = Literal["bfloat16", "float32"]

_STEM = "nearest_prototype"
_THREADS = 256  # BLOCK_THREADS in the source
_WARPS = _THREADS // 32
_CENTRE_THREADS = 512  # CENTRE_WARPS · 32
_CENTRE_COLUMNS = 32
_MULTIPLE = 8  # so that padded rows are aligned to 16 bytes
_ROW_BYTES = 24  # struct Row
# Scores and rounded rows of a chunk stay in a second-level cache (50 MB on an H100) from the kernel
# that writes them to the one that reads them.
_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class _Table:
    """The prototypes, made ready; named as in the source."""

    values: Any  # (k, d padded) float32
    lengths: Any  # (k,) float32
    centre: Any  # (d padded,) float32
    spread: Any  # (d padded / 32,) bits of float32
    widest: Any  # (1,) bits of a float32
    rounded: Any  # (k padded, d padded) float32, or bfloat16 as uint16
    prototypes: Any  # (k padded, 2) float32: struct Prototype
    unit: bool  # cosine
    whole: bool  # products in float32

    @property
    def arguments(self) -> tuple[Any, ...]:
        """TABLE_ARGUMENTS."""
        n_prototypes, padded_columns = self.values.shape
        return (
            self.values,
            self.lengths,
            self.centre,
            self.spread,
            self.widest,
            np.int32(n_prototypes),
            np.int32(padded_columns),
            np.int32(self.unit),
        )


@dataclass(frozen=True)
class _Scratch:
    """What one chunk of rows needs, used again by the next."""

    rounded: Any  # (rows, d padded), as the prototypes'
    rows: Any  # (rows, 24) bytes: struct Row
    scores: Any  # (rows, k padded) float32


def launch(
    runtime: Runtime,
    x: Any,
    x_dtype: str,
    prototypes: Any,
    prototypes_dtype: str,
    metric: _Metric,
    outputs: tuple[Any, Any, Any],
    precision: _Precision = "bfloat16",
) -> None:
    """Find the nearest two of k ≥ 1 prototypes for n ≥ 1 rows of d ≥ 1 columns.

    The index is float64's, ties to the lowest. Relative error of the distances is below 1e-6; their
    last digit may depend on whether rows are aligned to 16 bytes.

    A row with a NaN (cosine: or an infinity, or all zero) gets index 0 and distances NaN;
    Euclidean, one with an infinity gets index 0 and infinite distances. One prototype that is no
    vector in this sense makes all distances NaN and all indices 0. With one prototype the second
    distance is infinite whatever the row.

    Extra memory is about 32 MiB (more only where one row of scores is longer) and 6 to 8 bytes for
    each number of the prototypes. Nothing waits for the device.

    Args:
        runtime: The device and its stream.
        x: (n, d), neighbouring columns side by side; rows may lie apart.
        x_dtype: "float32", "float16" or "bfloat16".
        prototypes: (k, d), likewise.
        prototypes_dtype: Likewise.
        metric: "cosine" (1 − cos) or "euclidean" (‖x − p‖₂).
        outputs: (n,) int64 index, (n,) float32 distance, (n,) float32 second distance; contiguous.
        precision: Of the products that propose candidates: "bfloat16" is fast, "float32" proposes
            fewer; the result is the same.
    """
    n_rows = x.shape[0]
    table = _make_table(runtime, prototypes, prototypes_dtype, metric == "cosine", precision)
    padded_rows, padded_columns = table.rounded.shape
    bytes_a_row = 4 * padded_rows + (4 if table.whole else 2) * padded_columns + _ROW_BYTES
    n_chunk = min(n_rows, max(_CHUNK_BYTES // bytes_a_row, 1))
    scratch = _Scratch(
        rounded=runtime.empty((n_chunk, padded_columns), "float32" if table.whole else "uint16"),
        rows=runtime.empty((n_chunk, _ROW_BYTES), "uint8"),
        scores=runtime.empty((n_chunk, padded_rows), "float32"),
    )
    for start in range(0, n_rows, n_chunk):
        part = slice(start, start + n_chunk)
        found = tuple(output[part] for output in outputs)
        _search(runtime, x[part], x_dtype, table, scratch, found)


def _search(
    runtime: Runtime,
    x: Any,
    dtype: str,
    table: _Table,
    scratch: _Scratch,
    outputs: tuple[Any, ...],
) -> None:
    """One chunk of rows."""
    n_rows, n_columns = x.shape
    by = columns_at_once(x, dtype)
    inputs = (*_row_arguments(x), *table.arguments)
    gamma, whole = np.float32(_summing_error(n_columns)), np.int32(table.whole)
    decide = (
        *inputs,
        scratch.rows,
        table.prototypes,
        scratch.scores,
        np.int32(scratch.scores.shape[1]),
        *outputs,
    )

    def run(kernel: str, arguments: tuple[Any, ...]) -> None:
        grid = (blocks_for(n_rows, _WARPS),)
        runtime.launch(_STEM, f"nearest_{kernel}", grid, _THREADS, arguments)

    run(f"round_{dtype}_by{by}", (*inputs, gamma, whole, scratch.rounded, scratch.rows))
    runtime.product(scratch.rounded[:n_rows], table.rounded, scratch.scores[:n_rows])
    run(f"choose_{dtype}_by{by}", decide)
    run(f"settle_{dtype}", decide)


def _make_table(
    runtime: Runtime, prototypes: Any, dtype: str, unit: bool, precision: _Precision
) -> _Table:
    n_prototypes, n_columns = prototypes.shape
    padded_rows = blocks_for(n_prototypes, _MULTIPLE) * _MULTIPLE
    padded_columns = blocks_for(n_columns, _MULTIPLE) * _MULTIPLE
    n_spreads = blocks_for(padded_columns, _CENTRE_COLUMNS)
    whole = precision == "float32"
    rounded_dtype = "float32" if whole else "uint16"
    table = _Table(
        values=runtime.empty((n_prototypes, padded_columns), "float32"),
        lengths=runtime.empty((n_prototypes,), "float32"),
        centre=runtime.empty((padded_columns,), "float32"),
        spread=runtime.empty((n_spreads,), "int32"),
        widest=runtime.empty((1,), "int32"),
        rounded=runtime.empty((padded_rows, padded_columns), rounded_dtype),
        prototypes=runtime.empty((padded_rows, 2), "float32"),
        unit=unit,
        whole=whole,
    )
    copied = (np.int32(padded_columns), np.int32(unit), table.values, table.lengths)
    largest = runtime.empty((n_prototypes,), "int32")
    rounded = (np.int32(padded_rows), np.int32(whole), table.rounded, table.prototypes)

    def run(kernel: str, blocks: int, threads: int, arguments: tuple[Any, ...]) -> None:
        runtime.launch(_STEM, f"nearest_{kernel}", (blocks,), threads, arguments)

    run(
        f"copy_{dtype}",
        blocks_for(n_prototypes, _WARPS),
        _THREADS,
        (*_row_arguments(prototypes), *copied, largest, table.widest),
    )
    run("centre", n_spreads, _CENTRE_THREADS, (*table.arguments, table.centre, table.spread))
    run(
        "round_prototypes",
        blocks_for(padded_rows, _WARPS),
        _THREADS,
        (*table.arguments, largest, *rounded, table.widest),
    )
    return table


def _row_arguments(matrix: Any) -> tuple[Any, ...]:
    """ROW_ARGUMENTS."""
    n_rows, n_columns = matrix.shape
    stride = strides_of(matrix)[0]
    return matrix, np.int64(stride), np.int64(n_rows), np.int32(n_columns)


def _summing_error(n_columns: int) -> float:
    """γ of the source, an upper bound on a product's relative error ‖v̂‖‖ŵ‖."""
    first_order = (1.25 * n_columns + 24) * 2.0**-23
    return 1.001 * first_order / (1 - first_order) if first_order < 0.5 else math.inf

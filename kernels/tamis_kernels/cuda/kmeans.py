"""Launches of kmeans.cu: the rows of each label are summed, the same bits in every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis_kernels.arrays import strides_of
from tamis_kernels.cuda.launching import Runtime, blocks_for, integer_bytes

__all__ = ["Scratch", "label_sums", "row_norms", "scratch_for"]

_STEM = "kmeans"
_THREADS = 256  # BLOCK_THREADS in the source
_WARP = 32
_SCAN_THREADS = 512  # SCAN_WARPS · WARP
_START_THREADS = 1024
_PIECE = 512
_TILE_ROWS = 1024


@dataclass(frozen=True)
class Scratch:
    """Device memory of :func:`label_sums`; good for the next call with the same n, d and k.

    About 16 bytes a row, and 8·d for each label and for every 512 rows.

    Attributes:
        counts: (tiles, k) int64.
        starts: (k + 1,) int64.
        order: (n,) int64.
        partials: (pieces + k, d + 1) float64.
    """

    counts: Any
    starts: Any
    order: Any
    partials: Any


def scratch_for(runtime: Runtime, n_rows: int, n_columns: int, n_labels: int) -> Scratch:
    """Allocate what :func:`label_sums` needs."""
    n_tiles = blocks_for(n_rows, _tile_rows(n_labels))
    n_slots = blocks_for(n_rows, _PIECE) + n_labels
    return Scratch(
        counts=runtime.empty((n_tiles, n_labels), "int64"),
        starts=runtime.empty((n_labels + 1,), "int64"),
        order=runtime.empty((n_rows,), "int64"),
        partials=runtime.empty((n_slots, n_columns + 1), "float64"),
    )


def label_sums(
    runtime: Runtime,
    x: Any,
    x_dtype: str,
    labels: Any,
    weights: Any,
    n_labels: int,
    sums: Any,
    totals: Any,
    scratch: Scratch | None = None,
) -> None:
    """Sum the rows of each label, Σ w·x, and their weights, Σ w, in float64.

    Rows are added in an order that depends on the labels alone, so the sums are the same bits in
    every run and on every device. Rows with a label out of range are passed over; a label without
    rows sums to 0. One read of x; nothing waits for the device.

    Args:
        runtime: The device and its stream.
        x: (n ≥ 1, d ≥ 1), neighbouring columns side by side; rows may lie apart.
        x_dtype: "float32", "float16" or "bfloat16".
        labels: (n,) int64 or int32, contiguous.
        weights: (n,) float32, contiguous; None for ones.
        n_labels: k ≥ 1.
        sums: (k, d) float64, contiguous; written.
        totals: (k,) float64, contiguous; written.
        scratch: Of :func:`scratch_for`; allocated here where it is None.
    """
    n_rows, n_columns = x.shape
    scratch = scratch or scratch_for(runtime, n_rows, n_columns, n_labels)
    _sort(runtime, labels, n_rows, n_labels, scratch)
    threads = min(_THREADS, blocks_for(n_columns + 1, _WARP) * _WARP)
    column_blocks = blocks_for(n_columns + 1, threads)  # the last column sums the weights
    runtime.launch(
        _STEM,
        f"kmeans_sum_{x_dtype}",
        (blocks_for(n_rows, _PIECE), column_blocks),
        threads,
        (
            x,
            np.int64(strides_of(x)[0]),
            np.int32(n_columns),
            np.uint64(0) if weights is None else weights,  # a null pointer
            scratch.order,
            scratch.starts,
            np.int32(n_labels),
            scratch.partials,
        ),
    )
    runtime.launch(
        _STEM,
        "kmeans_add",
        (n_labels, column_blocks),
        threads,
        (scratch.partials, scratch.starts, np.int32(n_columns), sums, totals),
    )


def row_norms(runtime: Runtime, x: Any, x_dtype: str, norms: Any) -> None:
    """Write ‖x‖ of each of n ≥ 1 rows to norms (n,) float64; arguments as :func:`label_sums`."""
    n_rows, n_columns = x.shape
    arguments = (x, np.int64(strides_of(x)[0]), np.int64(n_rows), np.int32(n_columns), norms)
    grid = (blocks_for(n_rows, _THREADS // _WARP),)
    runtime.launch(_STEM, f"kmeans_norms_{x_dtype}", grid, _THREADS, arguments)


def _sort(runtime: Runtime, labels: Any, n_rows: int, n_labels: int, scratch: Scratch) -> None:
    """Fill ``order`` and ``starts``."""
    tile_rows = np.int32(_tile_rows(n_labels))
    n_tiles = scratch.counts.shape[0]
    label_bytes = np.int32(integer_bytes(labels))
    of_labels = (labels, label_bytes, np.int64(n_rows), np.int32(n_labels))
    counts, starts = scratch.counts, scratch.starts

    def run(kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        runtime.launch(_STEM, f"kmeans_{kernel}", (blocks,), threads, arguments)

    run("count", n_tiles, _THREADS, *of_labels, tile_rows, counts)
    n_groups = blocks_for(n_labels, _WARP)
    run(
        "scan_tiles", n_groups, _SCAN_THREADS, counts, np.int32(n_labels), np.int32(n_tiles), starts
    )
    run("scan_labels", 1, _START_THREADS, np.int32(n_labels), starts)
    n_blocks = blocks_for(n_tiles * _WARP, _THREADS)
    run("scatter", n_blocks, _THREADS, *of_labels, tile_rows, starts, counts, scratch.order)


def _tile_rows(n_labels: int) -> int:
    """At least one row for each label, so that the counts take at most 8 bytes a row."""
    return max(_TILE_ROWS, blocks_for(n_labels, _WARP) * _WARP)

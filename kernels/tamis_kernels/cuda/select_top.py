"""Launches of select_top.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis_kernels.cuda.launching import Runtime, blocks_for, integer_bytes

__all__ = ["launch"]

_STEM = "select_top"
# The source's BLOCK_THREADS, ITEMS, N_BINS, SHARED_BINS, N_PASSES.
_THREADS, _ITEMS, _BINS, _SHARED_BINS, _PASSES = 256, 4, 256, 8192, 16
_MOST_BLOCKS = 1024  # that count: each adds its bins to the same histogram
_THRESHOLD_WORDS = 3  # of 64 bits
_WARP = 32


def launch(
    runtime: Runtime,
    scores: Any,
    ids: Any,
    count: int,
    labels: Any | None,
    quotas: Any | None,
    key: int,
    kept: Any,
) -> None:
    """Mark the rows that are kept, n ≥ 1; all arrays contiguous.

    Args:
        runtime: The device and its stream.
        scores: (n,) float32.
        ids: (n,) int64 or int32.
        count: Rows to keep.
        labels: (n,) int64 or int32, or None.
        quotas: (n_classes,) int64 or int32, or None.
        key: What the hash adds to each id.
        kept: (n,) bool, is filled.
    """
    taken = runtime.empty((1,), "int64")
    rows = (scores, ids, np.int32(integer_bytes(ids)))
    by_class = labels is not None and quotas is not None and len(quotas) > 0
    if by_class:
        of_class = (labels, np.int32(integer_bytes(labels)), np.uint64(key))
        _round(runtime, (*rows, *of_class), quotas, count, taken, kept, filling=False)
    everyone = (np.uint64(0), np.int32(0), np.uint64(key))
    _round(runtime, (*rows, *everyone), None, count, taken, kept, filling=by_class)


def _round(
    runtime: Runtime,
    rows: tuple[Any, ...],
    quotas: Any | None,
    count: int,
    taken: Any,
    kept: Any,
    *,
    filling: bool,
) -> None:
    """Find every class's threshold and mark the rows up to it; without quotas there is one class.

    ``filling`` leaves the rows alone that are kept already, and wants as many fewer.
    """
    n_rows, n_classes = kept.shape[0], 1 if quotas is None else quotas.shape[0]
    thresholds = runtime.empty((n_classes, _THRESHOLD_WORDS), "int64")
    histogram = runtime.empty((n_classes, _BINS), "int32")
    is_open = runtime.empty((_PASSES + 1,), "int32")
    arguments = (*rows, np.int64(n_rows), np.int32(n_classes), np.int32(filling))
    wanted = (
        (np.uint64(0), np.int32(0)) if quotas is None else (quotas, np.int32(integer_bytes(quotas)))
    )

    def run(kernel: str, blocks: int, *values: Any) -> None:
        runtime.launch(_STEM, f"select_top_{kernel}", (blocks,), _THREADS, values)

    state = (thresholds, histogram, np.int32(n_classes))
    start = (*wanted, np.uint64(count), *state, is_open, taken, np.int32(filling))
    run("start", blocks_for(n_classes * _BINS, _THREADS), *start)
    counting = "count_shared" if n_classes * _BINS <= _SHARED_BINS else "count_global"
    blocks = min(blocks_for(n_rows, _THREADS * _ITEMS), _MOST_BLOCKS)
    for number in range(_PASSES):
        on = np.int32(number)
        run(counting, blocks, *arguments, thresholds, kept, on, is_open, histogram)
        run("narrow", blocks_for(n_classes * _WARP, _THREADS), *state, on, is_open, taken)
    run("mark", blocks_for(n_rows, _THREADS), *arguments, thresholds, kept)

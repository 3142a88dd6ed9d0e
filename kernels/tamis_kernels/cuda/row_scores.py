"""Launch of row_scores.cu: which variant, and how many blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis_kernels.arrays import strides_of
from tamis_kernels.cuda.launching import Runtime, blocks_for, columns_at_once, integer_bytes

__all__ = ["THREADS", "launch", "plan"]

THREADS = 256  # BLOCK_THREADS in the source
# Lanes of a row's group, logits a lane holds, rows a group takes so that each lane finishes one.
_SHAPES = ((1, 16, 1), (8, 4, 8), (8, 16, 8), (32, 8, 4), (32, 32, 4))


def launch(
    runtime: Runtime, logits: Any, dtype: str, labels: Any, outputs: tuple[Any, ...]
) -> None:
    """Score n ≥ 1 rows.

    Args:
        runtime: The device and its stream.
        logits: (n, c ≥ 2), neighbouring classes side by side; rows may lie apart.
        dtype: Of the logits: "float32", "float16" or "bfloat16".
        labels: (n,) int64 or int32, contiguous.
        outputs: Five (n,) float32 and one (n,) bool.
    """
    kernel, blocks, arguments = plan(logits, dtype, labels, outputs)
    runtime.launch("row_scores", f"row_scores_{kernel}", (blocks,), THREADS, arguments)


def plan(
    logits: Any, dtype: str, labels: Any, outputs: tuple[Any, ...]
) -> tuple[str, int, tuple[Any, ...]]:
    """The kernel's name without its stem, the number of blocks, and ARGUMENTS of the source.

    Args:
        logits: As :func:`launch`.
        dtype: As :func:`launch`.
        labels: As :func:`launch`.
        outputs: As :func:`launch`.
    """
    n_rows, n_classes = logits.shape
    shape, rows = _variant(n_classes, columns_at_once(logits, dtype))
    arguments = (
        logits,
        np.int64(strides_of(logits)[0]),
        labels,
        np.int32(integer_bytes(labels)),
        np.int64(n_rows),
        np.int32(n_classes),
        *outputs,
    )
    return f"{dtype}_{shape}", blocks_for(n_rows, rows), arguments


def _variant(n_classes: int, vector: int) -> tuple[str, int]:
    """Name of the kernel without its dtype, and the rows that one of its blocks takes."""
    for lanes, items, rows in _SHAPES:
        if n_classes <= lanes * items:
            by = vector if items >= 8 and lanes > 1 else 1
            return f"{lanes}x{items}_by{by}", THREADS // lanes * rows
    return f"block_by{vector}", 1

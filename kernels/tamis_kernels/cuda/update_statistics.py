"""Launches of update_statistics.cu."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tamis_kernels.cuda.launching import Runtime, blocks_for, integer_bytes

__all__ = ["claim", "launch", "state_arguments"]

_STEM = "update_statistics"
_THREADS = 256
_N_QUANTITIES = 5


def launch(
    runtime: Runtime,
    state: tuple[Any, ...],
    example_ids: Any,
    scores: Mapping[int, Any],
    correct: Any,
    *,
    distinct: bool,
) -> None:
    """Update the statistics by b ≥ 1 rows.

    Args:
        runtime: The device and its stream.
        state: The arrays of Statistics, changed in place.
        example_ids: (b,) int64 or int32, contiguous.
        scores: Number of a tracked quantity → (b,) float32, contiguous; as many as the state has.
        correct: (b,) bool, contiguous.
        distinct: No id comes twice.
    """
    if not distinct:
        claim(runtime, state, example_ids)
    n_rows = example_ids.shape[0]
    runtime.launch(
        _STEM,
        "update_statistics",
        (blocks_for(n_rows, _THREADS),),
        _THREADS,
        (
            np.int64(n_rows),
            *(scores.get(quantity, correct) for quantity in range(_N_QUANTITIES)),
            correct,
            *state_arguments(state, tuple(scores), example_ids, distinct=distinct),
        ),
    )


def claim(runtime: Runtime, state: tuple[Any, ...], example_ids: Any) -> None:
    """Find the last row of every id, for the launch that follows."""
    count, *_, scratch, _ = state
    n_rows = example_ids.shape[0]
    runtime.launch(
        _STEM,
        "claim_examples",
        (blocks_for(n_rows, _THREADS),),
        _THREADS,
        (
            np.int64(n_rows),
            example_ids,
            np.int32(integer_bytes(example_ids)),
            np.int64(count.shape[0]),
            scratch,
        ),
    )


def state_arguments(
    state: tuple[Any, ...], tracked: tuple[int, ...], example_ids: Any, *, distinct: bool
) -> tuple[Any, ...]:
    """STATE_ARGUMENTS of the source statistics.cuh.

    Args:
        state: The arrays of Statistics.
        tracked: Numbers of the tracked quantities.
        example_ids: (b,) int64 or int32, contiguous.
        distinct: No id comes twice.
    """
    bits = sum(1 << quantity for quantity in tracked)
    return (
        np.int64(state[0].shape[0]),
        np.int32(bits),
        *state,
        example_ids,
        np.int32(integer_bytes(example_ids)),
        np.int32(distinct),
    )

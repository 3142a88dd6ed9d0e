"""Launch of score_and_update.cu: row_scores and update_statistics in one kernel."""

from __future__ import annotations

from typing import Any

from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.cuda.row_scores import THREADS, plan
from tamis_kernels.cuda.update_statistics import claim, state_arguments

__all__ = ["launch"]


def launch(
    runtime: Runtime,
    logits: Any,
    dtype: str,
    labels: Any,
    outputs: tuple[Any, ...],
    state: tuple[Any, ...],
    tracked: tuple[int, ...],
    example_ids: Any,
    *,
    distinct: bool,
) -> None:
    """Score b ≥ 1 rows and update the statistics by them.

    Args:
        runtime: The device and its stream.
        logits: (b, c ≥ 2), neighbouring classes side by side; rows may lie apart.
        dtype: Of the logits: "float32", "float16" or "bfloat16".
        labels: (b,) int64 or int32, contiguous.
        outputs: Five (b,) float32 and one (b,) bool.
        state: The arrays of Statistics, changed in place.
        tracked: Numbers of the tracked quantities.
        example_ids: (b,) int64 or int32, contiguous.
        distinct: No id comes twice.
    """
    if not distinct:
        claim(runtime, state, example_ids)
    kernel, blocks, arguments = plan(logits, dtype, labels, outputs)
    runtime.launch(
        "score_and_update",
        f"score_and_update_{kernel}",
        (blocks,),
        THREADS,
        (*arguments, *state_arguments(state, tracked, example_ids, distinct=distinct)),
    )

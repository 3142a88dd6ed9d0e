"""row_scores and update_statistics at once: on a GPU one launch does both."""

from __future__ import annotations

from typing import Any

from tamis_kernels.arrays import check_matrix, check_vector, dtype_of, place_of, strides_of
from tamis_kernels.row_scores import QUANTITIES, RowScores, empty_scores, row_scores
from tamis_kernels.update_statistics import Statistics, check_presentation, update_statistics

__all__ = ["score_and_update"]


def score_and_update(
    logits: Any, labels: Any, state: Statistics, example_ids: Any, *, distinct: bool = False
) -> RowScores:
    """Score a batch and take it into the statistics of its examples.

    The same as :func:`row_scores` followed by :func:`update_statistics` with its result. On a GPU
    it is two launches on the caller's current stream, with ``distinct`` one; nothing is copied,
    nothing waits, and a CUDA graph of torch can capture it once it has run.

    Args:
        logits: (b, c) float32, float16 or bfloat16, c ≥ 2; see :func:`row_scores`.
        labels: (b,) int64 or int32 from 0 to c−1. On a GPU a row with a label out of range scores
            NaN and is taken into the statistics with that.
        state: Changed in place; its library and device are those of the other arrays.
        example_ids: (b,) int64 or int32 from 0 to n_examples − 1; an id that comes several times
            counts once, with its last row. On a GPU rows with an id out of range are scored but
            not taken into the statistics.
        distinct: A promise that no id comes twice, which saves a launch on a GPU; if it is broken
            there, statistics of that id are undefined.

    Returns:
        The scores of all rows. O(b · c).

    Raises:
        TypeError: Arrays of another kind or dtype, or of two libraries.
        ValueError: Shapes that do not fit, fewer than two classes, two devices, or on the CPU a
            label or an id out of range; nothing has been changed then.
    """
    n_rows = check_presentation(state, example_ids)
    place_of(example_ids=example_ids, logits=logits, labels=labels)
    check_matrix("logits", logits, ("float32", "float16", "bfloat16"), "(b, c ≥ 2)")
    if logits.shape[0] != n_rows or logits.shape[1] < 2:
        raise ValueError(
            "expected logits (b, c ≥ 2) and example_ids (b,); found "
            f"{tuple(logits.shape)}, ({n_rows},)"
        )
    check_vector("labels", labels, ("int64", "int32"), n_rows)
    if n_rows and state.place.on_gpu:
        return _on_gpu(logits, labels, state, example_ids, distinct)
    scores = row_scores(logits, labels)
    update_statistics(state, example_ids, scores)
    return scores


def _on_gpu(
    logits: Any, labels: Any, state: Statistics, example_ids: Any, distinct: bool
) -> RowScores:
    from tamis_kernels.cuda.cupy_door import CupyRuntime, contiguous
    from tamis_kernels.cuda.score_and_update import launch

    scores = empty_scores(state.place, int(logits.shape[0]))
    launch(
        CupyRuntime(state.place),
        logits if strides_of(logits)[1] == 1 else contiguous(logits),
        dtype_of(logits),
        contiguous(labels),
        tuple(vars(scores).values()),
        state.arrays,
        tuple(QUANTITIES.index(name) for name in state.tracked),
        contiguous(example_ids),
        distinct=distinct,
    )
    return scores

"""Loss, EL2N, margin, entropy, p(label) and correctness in one read of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis_kernels.arrays import (
    Place,
    check_integers,
    check_matrix,
    check_vector,
    dtype_of,
    frozen,
    place_of,
    strides_of,
)

__all__ = ["QUANTITIES", "RowScores", "empty_scores", "row_scores"]

QUANTITIES = ("loss", "el2n", "margin", "entropy", "p_label")
"""The scores that are numbers; the sources count them in this order."""

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class RowScores:
    """Six scores of n rows; see :func:`tamis_kernels.reference.row_scores` for the formulas.

    The arrays are of the library and on the device of the logits.

    Attributes:
        loss: (n,) float32, nats.
        el2n: (n,) float32, from 0 to √2.
        margin: (n,) float32, logits.
        entropy: (n,) float32, nats.
        p_label: (n,) float32, a probability.
        correct: (n,) bool.
    """

    loss: Any
    el2n: Any
    margin: Any
    entropy: Any
    p_label: Any
    correct: Any


def row_scores(logits: Any, labels: Any) -> RowScores:
    """Score each row of logits.

    Sums run over the classes other than the label, so that confident rows keep their differences,
    which the distance computed directly in float32 loses. Relative error against the float64
    definition is below 1e-6, of entropy 6e-6; results below float32's smallest normal number keep
    fewer digits, and a probability below e⁻⁸⁷ may add nothing to the entropy.

    On a GPU it is one launch on the caller's current stream; nothing is copied, nothing waits, and
    a CUDA graph of torch can capture it once it has run.

    Args:
        logits: (n, c) float32, float16 or bfloat16, c ≥ 2: a NumPy array, a torch tensor or a CuPy
            array. A row with a NaN, or with an infinite largest logit, scores NaN and is not
            correct.
        labels: (n,) integers from 0 to c−1, of the same library and on the same device; on a GPU
            int64 or int32. There a row with a label out of range scores NaN, because checking
            would stall the stream.

    Returns:
        The scores; n = 0 gives empty arrays. O(n · c), no temporary of that size; on a GPU logits
        whose neighbouring classes do not lie side by side are copied first.

    Raises:
        TypeError: Arrays of another kind or dtype, or of two libraries.
        ValueError: Shapes that do not fit, fewer than two classes, two devices, or on the CPU a
            label out of range.
    """
    place = place_of(logits=logits, labels=labels)
    _check(place, logits, labels)
    n_rows = int(logits.shape[0])
    scores = empty_scores(place, n_rows)
    if n_rows and place.on_gpu:
        _on_gpu(place, logits, labels, tuple(vars(scores).values()))
    elif n_rows:
        _on_cpu(place, logits, labels, tuple(vars(scores).values()))
    return scores


def empty_scores(place: Place, n_rows: int) -> RowScores:
    """Uninitialised scores of n rows."""
    floats = {name: place.empty((n_rows,), "float32") for name in QUANTITIES}
    return RowScores(**floats, correct=place.empty((n_rows,), "bool"))


def _check(place: Place, logits: Any, labels: Any) -> None:
    check_matrix("logits", logits, _DTYPES, "(n, c ≥ 2)")
    n_rows, n_classes = logits.shape
    if n_classes < 2:
        raise ValueError(f"logits: expected shape (n, c ≥ 2), found {tuple(logits.shape)}")
    check_integers("labels", labels, n_rows, below=n_classes)
    if place.on_gpu:
        check_vector("labels", labels, ("int64", "int32"), n_rows)


def _on_cpu(place: Place, logits: Any, labels: Any, outputs: tuple[Any, ...]) -> None:
    from tamis_kernels.cpu.row_scores import launch

    launch(
        *place.rows(logits),
        frozen(np.ascontiguousarray(place.host(labels), np.int64)),
        tuple(place.host(output) for output in outputs),
    )


def _on_gpu(place: Place, logits: Any, labels: Any, outputs: tuple[Any, ...]) -> None:
    from tamis_kernels.cuda.cupy_door import CupyRuntime, contiguous
    from tamis_kernels.cuda.row_scores import launch

    if strides_of(logits)[1] != 1:
        logits = contiguous(logits)
    launch(CupyRuntime(place), logits, dtype_of(logits), contiguous(labels), outputs)

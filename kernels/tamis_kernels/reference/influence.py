"""Definitions of influence_reduce and memorization, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["influence_reduce", "memorization"]

_Float64 = NDArray[np.float64]


def influence_reduce(masks: NDArray[Any], correct_test: NDArray[Any]) -> tuple[_Float64, _Float64]:
    """Largest influence of each training example on a test example, and Σ |influence|.

    The influence of i on j is the accuracy on j of the models that were trained on i, less that of
    the models that were not (Feldman & Zhang 2020, arXiv:2008.03703, §2; their estimator).
    O(m · n_train · n_test).

    Args:
        masks: (m, n_train), non-zero where model k was trained on example i.
        correct_test: (m, n_test), non-zero where model k is right on test example j.

    Returns:
        (n_train,) max over j, NaN without test examples, and (n_train,) Σ over j. Both are NaN for
        an example that all models were trained on, or none.
    """
    trained, right = np.asarray(masks) != 0, (np.asarray(correct_test) != 0).astype(np.float64)
    largest, total = np.full((2, trained.shape[1]), np.nan)
    for i, with_i in enumerate(trained.T):
        if with_i.all() or not with_i.any():
            continue
        influence = right[with_i].mean(axis=0) - right[~with_i].mean(axis=0)
        largest[i] = influence.max() if len(influence) else np.nan
        total[i] = np.abs(influence).sum()
    return largest, total


def memorization(masks: NDArray[Any], correct_train: NDArray[Any]) -> _Float64:
    """Influence of each training example on itself (Feldman & Zhang 2020, §2). O(m · n_train).

    Args:
        masks: (m, n_train), non-zero where model k was trained on example i.
        correct_train: (m, n_train), non-zero where model k is right on example i.

    Returns:
        (n_train,) float64; NaN for an example that all models were trained on, or none.
    """
    trained, right = np.asarray(masks) != 0, (np.asarray(correct_train) != 0).astype(np.float64)
    result = np.full(trained.shape[1], np.nan)
    for i, with_i in enumerate(trained.T):
        if with_i.any() and not with_i.all():
            result[i] = right[with_i, i].mean() - right[~with_i, i].mean()
    return result

"""Numba twin of row_scores: one row per iteration, float64 sums over a float32 row in cache."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np

__all__ = ["launch"]


def _score_rows(logits, labels, loss, el2n, margin, entropy, p_label, correct):  # type: ignore[no-untyped-def]
    """Fill the outputs for C-contiguous float32 logits (n, c ≥ 2) and int64 labels in range."""
    n_rows, n_classes = logits.shape
    for row in numba.prange(n_rows):
        z = logits[row]
        label = labels[row]
        top, other, broken = 0, -np.inf, False
        for j in range(n_classes):
            broken |= math.isnan(z[j])
            if z[j] > z[top]:
                top = j
            if j != label and z[j] > other:
                other = z[j]
        peak = np.float64(z[top])
        # Sums over every class but the largest one, whose exponential is exactly 1.
        rest, rest_squares, weighted = 0.0, 0.0, 0.0
        for j in range(n_classes):
            if j != top:
                gap = np.float64(z[j]) - peak
                e = math.exp(gap)
                rest += e
                rest_squares += e * e
                if e > 0.0:
                    weighted += e * gap
        total = 1.0 + rest
        label_gap = np.float64(z[label]) - peak
        label_e = math.exp(label_gap)
        if label == top:
            wrong, wrong_squares = rest, rest_squares
        else:
            wrong, wrong_squares = total - label_e, 1.0 + rest_squares - label_e * label_e
        share = wrong / total
        loss[row] = math.log1p(rest) - label_gap
        el2n[row] = math.sqrt(wrong_squares / (total * total) + share * share)
        margin[row] = np.float64(z[label]) - other
        entropy[row] = math.log1p(rest) - weighted / total
        p_label[row] = label_e / total
        correct[row] = label == top
        if broken or math.isinf(peak):
            loss[row] = el2n[row] = margin[row] = entropy[row] = p_label[row] = np.nan
            correct[row] = False


launch: Callable[..., None] = numba.njit(parallel=True, cache=True)(_score_rows)

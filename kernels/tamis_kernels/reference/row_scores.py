"""Definition of row_scores, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["row_scores"]


def row_scores(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Six scores of each row of logits z with label y; p = softmax(z).

    - ``loss``: −log p_y, the cross-entropy in nats.
    - ``el2n``: ‖p − onehot(y)‖₂ (Paul et al. 2021, arXiv:2107.07075).
    - ``margin``: z_y − max_{j≠y} z_j (on logits; Pleiss et al. 2020, arXiv:2001.10528).
    - ``entropy``: −Σ p_j log p_j in nats.
    - ``p_label``: p_y.
    - ``correct``: whether the first largest logit is the label's.

    Args:
        logits: (n, c), c ≥ 2.
        labels: (n,) integers from 0 to c−1.

    Returns:
        Name → (n,) float64, ``correct`` as bool.
    """
    z = np.asarray(logits, np.float64)
    rows = np.arange(len(z))
    top = z.argmax(axis=1)
    shifted = z - z.max(axis=1, keepdims=True)
    # log Σ exp as log1p of all but the largest term, and one minus p_y as a sum of the others:
    # adding to one or subtracting from it would lose the easy examples.
    below_top = np.exp(shifted)
    below_top[rows, top] = 0
    log_p = shifted - np.log1p(below_top.sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    others = p.copy()
    others[rows, labels] = 0
    z_others = z.copy()
    z_others[rows, labels] = -np.inf
    rest = others.sum(axis=1)
    p_log_p = np.multiply(p, log_p, out=np.zeros_like(p), where=p > 0)
    return {
        "loss": -log_p[rows, labels],
        "el2n": np.sqrt((others**2).sum(axis=1) + rest**2),
        "margin": z[rows, labels] - z_others.max(axis=1),
        "entropy": -p_log_p.sum(axis=1),
        "p_label": p[rows, labels],
        "correct": top == labels,
    }

"""Definition of last_layer_grand, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.reference.row_scores import row_scores

__all__ = ["last_layer_grand"]


def last_layer_grand(
    logits: NDArray[Any], labels: NDArray[Any], features: NDArray[Any], *, bias: bool = True
) -> NDArray[np.float64]:
    """Norm of each example's gradient with respect to the last layer (Paul et al. 2021, GraNd).

    For logits z = W h + b and the cross-entropy, the gradient is the outer product of p − onehot(y)
    with [h, 1], or with h where there is no bias; its Frobenius norm is the product of both norms.

    Args:
        logits: (n, c), c ≥ 2.
        labels: (n,) integers from 0 to c−1.
        features: (n, d), the input h of the layer.
        bias: Whether the layer has a bias.

    Returns:
        (n,) float64.
    """
    h = np.asarray(features, np.float64)
    squares = (h**2).sum(axis=1) + (1.0 if bias else 0.0)
    norms: NDArray[np.float64] = row_scores(logits, labels)["el2n"] * np.sqrt(squares)
    return norms

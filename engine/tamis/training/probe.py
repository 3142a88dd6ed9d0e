"""How much of the classes an embedding holds: a linear classifier on frozen features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_probe"]

_MOST_TRAINED_ON = 100_000  # the fit sees all rows in every iteration


def linear_probe(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
) -> float:
    """Test accuracy of multinomial logistic regression on standardised embeddings.

    Args:
        train: (n, d); of more than 100,000 rows evenly spaced ones are taken.
        train_labels: (n,) int64, of at least two classes.
        test: (m, d).
        test_labels: (m,) int64.

    Returns:
        Share of the test rows that are classified right.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    step = -(-len(train) // _MOST_TRAINED_ON)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    classifier.fit(train[::step], train_labels[::step])
    return float(classifier.score(test, test_labels))

"""How good a network is on a test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.arrays import to_numpy
from tamis.inference import infer
from tamis.loaders.batch import Loader
from tamis.models.small_resnet import SmallResNet
from tamis_kernels import row_scores

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Results on a test set.

    Attributes:
        accuracy: Share of examples whose first largest logit is the label's.
        loss: Mean cross-entropy in nats.
        per_class: (n_classes,) accuracy of each class; NaN where the test set has no example.
    """

    accuracy: float
    loss: float
    per_class: NDArray[np.float64]


def evaluate(
    model: SmallResNet, loader: Loader, n_classes: int, device: torch.device
) -> Evaluation:
    """Classify every example of one epoch without augmentation."""
    right, count, losses = np.zeros(n_classes), np.zeros(n_classes), 0.0
    for outputs in infer(model, loader, device):
        scores = row_scores(outputs.logits, outputs.labels)
        losses += float(scores.loss.double().sum())
        labels, correct = to_numpy(outputs.labels), to_numpy(scores.correct)
        count += np.bincount(labels, minlength=n_classes)
        right += np.bincount(labels[correct], minlength=n_classes)
    per_class = np.full(n_classes, np.nan)
    np.divide(right, count, out=per_class, where=count > 0)
    return Evaluation(float(right.sum() / count.sum()), losses / count.sum(), per_class)

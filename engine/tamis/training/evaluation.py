"""How good a network is on a test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.arrays import to_numpy
from tamis.inference import infer
from tamis.loaders.batch import Loader
from tamis.models.network import Network
from tamis.training.workers import Workers
from tamis_kernels import row_scores

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Results on a test set.

    Attributes:
        accuracy: Share of examples whose first largest logit is the label's.
        accuracy_top5: Share of examples whose label is among the five largest logits; of ties those
            in front count.
        loss: Mean cross-entropy in nats.
        per_class: (n_classes,) accuracy of each class; NaN where the test set has no example.
    """

    accuracy: float
    accuracy_top5: float
    loss: float
    per_class: NDArray[np.float64]


def evaluate(
    model: Network,
    loader: Loader,
    n_classes: int,
    device: torch.device,
    *,
    flip: bool = False,
    workers: Workers | None = None,
) -> Evaluation:
    """Classify every example of one epoch without augmentation.

    Args:
        model: On the device.
        loader: The test set; each process its shard.
        n_classes: Of the network.
        device: Where.
        flip: By the mean of the logits of an image and its mirror image.
        workers: Processes that test together; all get the result.
    """
    right, count = np.zeros(n_classes), np.zeros(n_classes)
    losses, among_five = 0.0, 0
    for outputs in infer(model, loader, device, flip=flip):
        scores = row_scores(outputs.logits, outputs.labels)
        losses += float(scores.loss.double().sum())
        first = outputs.logits.topk(min(5, n_classes), dim=1).indices
        among_five += int((first == outputs.labels[:, None]).sum())
        labels, correct = to_numpy(outputs.labels), to_numpy(scores.correct)
        count += np.bincount(labels, minlength=n_classes)
        right += np.bincount(labels[correct], minlength=n_classes)
    if workers is not None and workers.size > 1:
        parts = np.concatenate([right, count, [losses, among_five]])
        whole = workers.sum(torch.from_numpy(parts).to(workers.device)).cpu().numpy()
        right, count = whole[:n_classes], whole[n_classes:-2]
        losses, among_five = float(whole[-2]), int(whole[-1])
    per_class = np.full(n_classes, np.nan)
    np.divide(right, count, out=per_class, where=count > 0)
    n = count.sum()
    return Evaluation(float(right.sum() / n), float(among_five / n), float(losses / n), per_class)

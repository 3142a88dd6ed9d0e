"""What the statistics of a training take, without the training."""

from __future__ import annotations

import numpy as np
import torch

from tamis.metrics.metric import RunShape, Snapshot
from tamis.metrics.registry import METRICS
from tamis.metrics.watching import RunWatch
from tamis.models.small_resnet import SmallResNet

__all__ = ["watch_epochs"]

_BATCH = 1024


def watch_epochs(n_examples: int, n_classes: int = 1000, epochs: int = 90, shown: int = 2) -> None:
    """Watch the first epochs of a training of random logits for all metrics at once.

    Args:
        n_examples: In batches of 1,024, in random order.
        n_classes: Of the logits.
        epochs: Of the training, whose first ones are shown.
        shown: How many of them.
    """
    device = torch.device("cpu")
    shape = RunShape(n_examples, n_classes, epochs, device)
    watched = [m for m in METRICS.values() if not isinstance(m.reading, Snapshot)]
    ids = np.arange(n_examples)
    watch = RunWatch(watched, ids, shape)
    rng, model = np.random.default_rng(0), SmallResNet(2, 1, 8)
    # A few batches of logits, again and again: to draw them all would take longer than to watch.
    pool = torch.randn(8, _BATCH, n_classes, generator=torch.Generator().manual_seed(0)) * 3
    for epoch in range(shown):
        order = rng.permutation(ids)
        for number, start in enumerate(range(0, n_examples, _BATCH)):
            batch = order[start : start + _BATCH]
            labels = torch.from_numpy(batch % n_classes)
            watch.on_batch(epoch, batch, labels, pool[number % len(pool), : len(batch)])
        watch.on_epoch_end(epoch, model)

"""Loader + network → logits and embeddings, one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.devices import autocast
from tamis.loaders.batch import Loader
from tamis.models.network import Network

__all__ = ["Outputs", "infer"]


@dataclass(frozen=True)
class Outputs:
    """What a network says of one batch.

    Attributes:
        example_ids: (b,) int64 on the host.
        labels: (b,) int64 on the network's device.
        logits: (b, n_classes) float32 on the network's device.
        embeddings: (b, n_features) float32 on the network's device, the penultimate layer.
    """

    example_ids: NDArray[np.int64]
    labels: Tensor
    logits: Tensor
    embeddings: Tensor


def infer(
    model: Network, loader: Loader, device: torch.device, *, flip: bool = False
) -> Iterator[Outputs]:
    """Run the network over one epoch in evaluation mode, batch by batch.

    The mode is restored afterwards. Memory: one batch.

    Args:
        model: On the device.
        loader: Batches.
        device: Where to run.
        flip: Give the mean over each image and its mirror image, of logits and embeddings.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            with torch.no_grad():
                images = batch.images.to(device, non_blocking=True)
                with autocast(device):
                    features = model.features(images).float()
                    if flip:
                        features = (features + model.features(images.flip(3)).float()) / 2
                # In float32: logits rounded to bfloat16 would tie half of the easy examples.
                logits = model.classify(features)
            yield Outputs(batch.example_ids, batch.labels.to(device), logits, features)
    finally:
        model.train(was_training)

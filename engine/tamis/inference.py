"""Loader + network → logits and embeddings, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.devices import autocast
from tamis.loaders.batch import Loader
from tamis.memory import keep_freed
from tamis.models.network import Network

__all__ = ["Outputs", "in_parts", "infer"]

# Pixels that go through a network at once for each thread of a CPU: eight images of 224 × 224. What
# lies between two of its layers is then read from a cache, and is memory that is used again
# (bench/records/NOTES.md). Of larger ones as many, or products are too small to be fast; never a
# single one of several, whose products are rounded otherwise.
_PIXELS_A_THREAD, _LEAST = 8 * 224 * 224, 8


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
                    features = in_parts(model.features, images).float()
                    if flip:
                        mirrored = in_parts(model.features, images.flip(3)).float()
                        features = (features + mirrored) / 2
                # In float32: logits rounded to bfloat16 would tie half of the easy examples.
                logits = model.classify(features)
            yield Outputs(batch.example_ids, batch.labels.to(device), logits, features)
    finally:
        model.train(was_training)


def in_parts(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``network(images)``; on a CPU of a few images at a time, which takes two thirds of the time.

    There the process keeps freed memory from then on (:func:`tamis.memory.keep_freed`).

    Args:
        network: (b, 3, r, r) → (b, …), each row of its image alone, as in evaluation mode.
        images: Where the network is.
    """
    if images.device.type != "cpu":
        return network(images)
    keep_freed()
    room = torch.get_num_threads() * _PIXELS_A_THREAD // max(1, images.shape[2:].numel())
    step = max(_LEAST, room)
    n_parts = max(1, (len(images) + step - _LEAST) // step)  # what is left over joins the last one
    starts = [step * part for part in range(1, n_parts)]
    parts = [network(part) for part in torch.tensor_split(images, starts)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)

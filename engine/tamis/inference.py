"""Loader + network → logits and embeddings, one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.arrays import to_numpy
from tamis.devices import autocast
from tamis.loaders.batch import Loader
from tamis.models.small_resnet import SmallResNet
from tamis.progress import QUIET, Progress

__all__ = ["Outputs", "embed", "embed_pixels", "infer"]


@dataclass(frozen=True)
class Outputs:
    """What a network says of one batch.

    Attributes:
        example_ids: (b,) int64.
        labels: (b,) int64.
        logits: (b, n_classes) float32.
        embeddings: (b, n_features) float32, the penultimate layer.
    """

    example_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def infer(model: SmallResNet, loader: Loader, device: torch.device) -> Iterator[Outputs]:
    """Run the network over one epoch in evaluation mode, batch by batch.

    The mode is restored afterwards. Memory: one batch.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            with torch.no_grad():
                with autocast(device):
                    features = model.features(batch.images.to(device))
                # In float32: logits rounded to bfloat16 would tie half of the easy examples.
                logits = model.head(features.float())
            yield Outputs(
                batch.example_ids,
                to_numpy(batch.labels),
                to_numpy(logits),
                to_numpy(features.float()),
            )
    finally:
        model.train(was_training)


def embed(
    model: SmallResNet, loader: Loader, device: torch.device, *, progress: Progress = QUIET
) -> NDArray[np.float32]:
    """Penultimate-layer embeddings of one epoch in the loader's order, (n, n_features) float32."""
    embeddings = np.empty((loader.n_examples, model.n_features), np.float32)
    with progress.task("embed", loader.n_examples) as advance:
        done = 0
        for outputs in infer(model, loader, device):
            embeddings[done : done + len(outputs.labels)] = outputs.embeddings
            done += len(outputs.labels)
            advance(len(outputs.labels))
    return embeddings


def embed_pixels(loader: Loader) -> NDArray[np.float32]:
    """The images themselves, (n, 3·h·w) float32 in 0…1: the floor for any encoder."""
    return np.concatenate(
        [to_numpy(batch.images.flatten(1)).astype(np.float32) / 255 for batch in loader]
    )

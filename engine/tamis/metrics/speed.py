"""How fast this device trains and infers, measured with images of the bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.inference import infer
from tamis.loaders.batch import Loader
from tamis.loaders.opening import open_loader
from tamis.training.loop import Seeds, augmentation_for, train
from tamis.training.recipes import Recipe
from tamis.training.runs import EVALUATION_BATCH

__all__ = ["Speed", "measure_speed"]

_STEPS = 8  # timed after as many that warm up
_IMAGES = 1024  # at most, unless a GPU's batch is larger
_CPU_BATCH = 64


@dataclass(frozen=True)
class Speed:
    """Measured on this device with images of the bundle; seconds.

    Attributes:
        step: An optimizer step of a full batch.
        image: Inference of one image.
        decode: Decoding one image, all cores at work.
        in_memory: Whether the set is decoded once.
        compiling: The network, once; 0 where it is not compiled, or was in this process before.
    """

    step: float
    image: float
    decode: float
    in_memory: bool
    compiling: float = 0.0

    def training(self, n_examples: int, recipe: Recipe, epochs: int) -> float:
        """Seconds of a training."""
        step = self.step if self.in_memory else max(self.step, self.decode * recipe.batch_size)
        return epochs * -(-n_examples // recipe.batch_size) * step

    def inference(self, n_examples: int) -> float:
        """Seconds of a pass."""
        return n_examples * (self.image if self.in_memory else max(self.image, self.decode))


def measure_speed(bundle: Bundle, recipe: Recipe, device: torch.device, in_memory: bool) -> Speed:
    """Decode, train and infer with a few images. A second or two, and what compiling takes.

    Args:
        bundle: Its first images are used.
        recipe: What is trained.
        device: Where.
        in_memory: For the result.

    Raises:
        As :func:`tamis.training.loop.train`.
    """
    # A GPU in the recipe's batches, which alone are compiled. A CPU, which a batch of thousands may
    # take a minute, in parts: they take it as long as the whole.
    batch = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, _CPU_BATCH)
    shown = min(bundle.n_examples, max(1, _IMAGES // batch) * batch)
    shown -= shown % min(batch, shown)  # no batch is smaller than the others
    ids = bundle.example_ids[:shown]

    def opened(ids: NDArray[np.int64], size: int, **more: Any) -> Loader:
        return open_loader(
            bundle, backend="memory", batch_size=size, resolution=recipe.resolution,
            device=device, selection=ids, on_error="skip", **recipe.decoding, **more,
        )  # fmt: skip

    opened(ids[:1], 1)  # where nothing was decoded before, loops are compiled
    start = time.perf_counter()
    augmentation = augmentation_for(recipe, Seeds.from_one(0))
    loader = opened(ids, batch, mode="train", augmentation=augmentation)
    decode = (time.perf_counter() - start) / len(ids)
    first, trained = (
        train(
            loader, recipe, max(2, bundle.n_classes), steps=_STEPS, seeds=Seeds.from_one(0),
            device=device,
        )
        for _ in range(2)
    )  # fmt: skip
    evaluation = opened(ids, EVALUATION_BATCH)
    for _ in range(2):
        start = time.perf_counter()
        for outputs in infer(trained.model, evaluation, device):
            float(outputs.logits[0, 0])  # waits for the device
        image = (time.perf_counter() - start) / len(ids)
    full = min(batch, shown) / recipe.batch_size
    return Speed(trained.seconds / _STEPS / full, image, decode, in_memory, first.compile_seconds)

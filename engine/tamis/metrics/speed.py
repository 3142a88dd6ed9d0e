"""How fast this device trains and infers, measured with images of the bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis.bundles.bundle import Bundle
from tamis.inference import infer
from tamis.loaders.memory_loader import ImageSet, load_image_set
from tamis.loaders.opening import open_loader
from tamis.training.loop import Seeds, Trained, augmentation_for, train
from tamis.training.recipes import Recipe
from tamis.training.runs import EVALUATION_BATCH

__all__ = ["Speed", "measure_speed"]

_STEPS = 8  # timed after as many that warm up
_IMAGES = 1024  # at most, unless a GPU's batch is larger
_PART = 64  # of a batch, for a CPU
_STEP_SECONDS = 0.25


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
    """Decode, train and infer with a few images. Some seconds, and what compiling takes.

    Args:
        bundle: Its first images are used.
        recipe: What is trained.
        device: Where.
        in_memory: For the result.

    Raises:
        As :func:`tamis.training.loop.train`.
    """
    ids = bundle.example_ids[: max(_IMAGES, recipe.batch_size if device.type == "cuda" else 0)]
    where: dict[str, Any] = {"device": device, "on_error": "skip", **recipe.decoding}

    def decoded(n: int) -> ImageSet:
        return load_image_set(bundle, recipe.resolution, positions=np.arange(n), **where)

    decoded(1)  # where nothing was decoded before, loops are compiled
    start = time.perf_counter()
    images = decoded(len(ids))
    decode = (time.perf_counter() - start) / len(ids)
    steps = _Steps(images, recipe, max(2, bundle.n_classes), device)
    # A GPU in the recipe's batches, which alone are compiled. A CPU, which a batch of thousands may
    # take a minute, in as large a part as takes it a quarter of a second.
    batch = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, _PART)
    trained, compiling = steps.timed(batch)
    affordable = int(batch * _STEPS * _STEP_SECONDS / trained.seconds)
    larger = min(recipe.batch_size, _IMAGES, affordable)
    if larger > batch:
        batch = larger
        trained, _ = steps.timed(batch)
    evaluation = open_loader(images, batch_size=EVALUATION_BATCH, resolution=recipe.resolution)
    for _ in range(2):
        start = time.perf_counter()
        for outputs in infer(trained.model, evaluation, device):
            float(outputs.logits[0, 0])  # waits for the device
        image = (time.perf_counter() - start) / len(ids)
    full = min(batch, len(images.labels)) / recipe.batch_size
    return Speed(trained.seconds / _STEPS / full, image, decode, in_memory, compiling)


class _Steps:
    """Takes steps with some images, in batches of one size."""

    def __init__(
        self, images: ImageSet, recipe: Recipe, n_classes: int, device: torch.device
    ) -> None:
        self._images, self._recipe = images, recipe
        self._n_classes, self._device = n_classes, device

    def timed(self, batch: int) -> tuple[Trained, float]:
        """A training after one that warms up, and what that one took to compile."""
        n = len(self._images.labels)
        n -= n % max(1, min(batch, n))  # no batch is smaller than the others
        seeds = Seeds.from_one(0)
        loader = open_loader(
            self._images,
            batch_size=batch,
            resolution=self._recipe.resolution,
            mode="train",
            augmentation=augmentation_for(self._recipe, seeds),
            selection=self._images.example_ids[:n],
        )
        first, second = (
            train(
                loader, self._recipe, self._n_classes, steps=_STEPS, seeds=seeds,
                device=self._device,
            )
            for _ in range(2)
        )  # fmt: skip
        return second, first.compile_seconds

"""How fast this device trains and infers, measured with images of the bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from tamis.bundles.bundle import Bundle
from tamis.inference import infer
from tamis.loaders.opening import open_loader
from tamis.training.loop import Extras, Seeds, augmentation_for, train
from tamis.training.recipes import Recipe
from tamis.training.runs import EVALUATION_BATCH
from tamis.training.stepping import NetworkCache

__all__ = ["Speed", "measure_speed"]

_STEPS = 8  # timed after as many that warm up
_IMAGES = 1024  # at most, unless a batch is larger


@dataclass(frozen=True)
class Speed:
    """Measured on this device with images of the bundle; seconds.

    Attributes:
        step: An optimizer step of a full batch.
        image: Inference of one image.
        decode: Decoding one image, all cores at work.
        in_memory: Whether the set is decoded once.
    """

    step: float
    image: float
    decode: float
    in_memory: bool

    def training(self, n_examples: int, recipe: Recipe, epochs: int) -> float:
        """Seconds of a training."""
        step = self.step if self.in_memory else max(self.step, self.decode * recipe.batch_size)
        return epochs * -(-n_examples // recipe.batch_size) * step

    def inference(self, n_examples: int) -> float:
        """Seconds of a pass."""
        return n_examples * (self.image if self.in_memory else max(self.image, self.decode))


def measure_speed(
    bundle: Bundle,
    recipe: Recipe,
    device: torch.device,
    in_memory: bool,
    networks: NetworkCache | None = None,
) -> Speed:
    """Decode, train and infer with a few images. A second or two, and what compiling takes.

    Args:
        bundle: Its first images are used: a whole batch of them, where it has so many.
        recipe: What is trained.
        device: Where.
        in_memory: For the result.
        networks: Keeps what is compiled for the trainings that are planned.
    """
    ids = bundle.example_ids[: max(_IMAGES, recipe.batch_size)]
    extras = Extras(networks=networks or NetworkCache())  # the second run compiles nothing
    some = {
        "resolution": recipe.resolution,
        "device": device,
        "selection": ids,
        "on_error": "skip",
        **recipe.decoding,
    }
    start = time.perf_counter()
    loader = open_loader(
        bundle,
        backend="memory",
        batch_size=recipe.batch_size,
        mode="train",
        augmentation=augmentation_for(recipe, Seeds.from_one(0)),
        **some,  # type: ignore[arg-type]
    )
    decode = (time.perf_counter() - start) / len(ids)
    for _ in range(2):
        trained = train(
            loader, recipe, max(2, bundle.n_classes), steps=_STEPS, seeds=Seeds.from_one(0),
            device=device, extras=extras,
        )  # fmt: skip
    evaluation = open_loader(
        bundle,
        backend="memory",
        batch_size=EVALUATION_BATCH,
        **some,  # type: ignore[arg-type]
    )
    for _ in range(2):
        start = time.perf_counter()
        for outputs in infer(trained.model, evaluation, device):
            float(outputs.logits[0, 0])  # waits for the device
        image = (time.perf_counter() - start) / len(ids)
    full = min(len(ids), recipe.batch_size) / recipe.batch_size  # of a batch, in a small set
    return Speed(trained.seconds / _STEPS / full, image, decode, in_memory)

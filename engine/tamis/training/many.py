"""Many runs on one pair of sets, which are decoded once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.loaders.memory_loader import ImageSet, MemoryLoader, load_image_set
from tamis.loaders.opening import choose_backend
from tamis.loaders.settings import LoaderSettings, Resample
from tamis.progress import QUIET, Progress
from tamis.training.loop import Observer, Trained
from tamis.training.recipes import Recipe
from tamis.training.records import RunRecord
from tamis.training.runs import (
    EVALUATION_BATCH,
    RunOptions,
    check_same_classes,
    full_options,
    loader_settings,
    run_training,
    train_on_bundle,
)

__all__ = ["TrainSpec", "Trainer", "train_many"]


@dataclass(frozen=True)
class TrainSpec:
    """One run of many.

    Attributes:
        recipe: What to train and how.
        example_ids: (k,) int64, train on these only; None for all.
        options: See :class:`RunOptions`; one process.
    """

    recipe: Recipe
    example_ids: NDArray[np.int64] | None = None
    options: RunOptions = field(default_factory=RunOptions)


class Trainer:
    """Runs one after the other on a training set and a test set.

    Each set is decoded once for each size of images, where it fits into memory and the recipe cuts
    no random parts of whole images.
    Memory: 3 · side² bytes an example of both sets, on the device.

    Args:
        training: An opened bundle.
        testing: With the same classes.
        device: Where to train.
        workers: Threads that decode and augment; None takes all cores.
        progress: Told of decoding and of every step.

    Raises:
        BundleError: Classes that differ.
    """

    def __init__(
        self,
        training: Bundle,
        testing: Bundle,
        device: torch.device,
        *,
        workers: int | None = None,
        progress: Progress = QUIET,
    ) -> None:
        check_same_classes(training.classes, testing.classes)
        self._bundles, self._device = (training, testing), device
        self._workers, self._progress = workers, progress
        self._sets: dict[tuple[str, int, float, Resample, bool], ImageSet] = {}
        self._fits: dict[int, bool] = {}

    def run(
        self, spec: TrainSpec, *, observer: Observer | None = None, label: str = "train"
    ) -> tuple[Trained, RunRecord]:
        """Train and test.

        Args:
            spec: Of the run.
            observer: Watches the training.
            label: Names the run in the progress.

        Raises:
            As :func:`tamis.training.runs.train_on_bundle`.
        """
        start = time.perf_counter()
        recipe, (training, testing) = spec.recipe, self._bundles
        if self._has_to_stream(recipe):
            return train_on_bundle(
                training,
                testing,
                recipe,
                spec.options,
                example_ids=spec.example_ids,
                device=self._device,
                observer=observer,
                progress=self._progress,
            )
        images = self._images(training, recipe, recipe.resolution)
        settings = loader_settings(recipe, spec.options.seeds)
        positions = None if spec.example_ids is None else training.positions(spec.example_ids)
        test_settings = LoaderSettings(EVALUATION_BATCH, recipe.test_side, **recipe.decoding)
        ids = training.example_ids if spec.example_ids is None else spec.example_ids
        options = full_options(spec.options, training, ids)
        return run_training(
            MemoryLoader(images, settings, positions=positions, workers=self._workers),
            MemoryLoader(
                self._images(testing, recipe, recipe.test_side, recipe.center_ratio),
                test_settings,
                workers=self._workers,
            ),
            recipe,
            options,
            n_classes=max(training.n_classes, testing.n_classes),
            example_ids=ids,
            device=self._device,
            train_digest=training.digest,
            test_digest=testing.digest,
            setup_seconds=time.perf_counter() - start,
            observer=observer,
            progress=self._progress,
            label=label,
        )

    def _has_to_stream(self, recipe: Recipe) -> bool:
        """Of images that grow or are cut at random the whole is needed, again and again."""
        side = max(recipe.resolution, recipe.test_side)
        if side not in self._fits:  # asked once: later the sets themselves take the room
            n = sum(bundle.n_examples for bundle in self._bundles)
            self._fits[side] = choose_backend(n, side, self._device, recipe.resample) == "memory"
        return bool(recipe.start_resolution) or recipe.random_crop or not self._fits[side]

    def _images(
        self, bundle: Bundle, recipe: Recipe, side: int, center_ratio: float = 1.0
    ) -> ImageSet:
        key = (bundle.digest, side, center_ratio, recipe.resample, recipe.exact)
        if key not in self._sets:
            self._sets[key] = load_image_set(
                bundle,
                side,
                self._device,
                center_ratio=center_ratio,
                **recipe.decoding,
                workers=self._workers,
                progress=self._progress,
            )
        return self._sets[key]


def train_many(
    training: Bundle,
    testing: Bundle,
    specs: Iterable[TrainSpec],
    device: torch.device,
    *,
    progress: Progress = QUIET,
) -> Iterator[RunRecord]:
    """Records of runs, each as it is finished; as if each had been run alone.

    Args:
        training: An opened bundle.
        testing: With the same classes.
        specs: The runs, in their order.
        device: Where to train.
        progress: Told of decoding and of every step.

    Raises:
        As :class:`Trainer` and :meth:`Trainer.run`.
    """
    trainer = Trainer(training, testing, device, progress=progress)
    for number, spec in enumerate(specs, 1):
        yield trainer.run(spec, label=f"train: run {number}")[1]

"""One training run on bundles: train, evaluate, record."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis import __version__
from tamis.bundles.bundle import Bundle
from tamis.devices import autocast
from tamis.errors import BundleError, UsageError
from tamis.loaders.batch import Loader, Skipped
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import LoaderSettings, OnError
from tamis.progress import QUIET, Progress
from tamis.training.evaluation import Evaluation, evaluate
from tamis.training.loop import Budget, Seeds, Trained, augmentation_for, n_steps, train
from tamis.training.recipes import Recipe

__all__ = [
    "EVALUATION_BATCH",
    "RunRecord",
    "check_same_classes",
    "environment",
    "loader_settings",
    "run_training",
    "train_on_bundle",
]

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run; times in seconds.

    Attributes:
        test_accuracy: Share of the test set.
        test_loss: Mean cross-entropy in nats.
        per_class_accuracy: In label order; None for a class without test examples.
        train_seconds: The training loop alone.
        setup_seconds: Decoding and everything else before it.
        evaluation_seconds: The pass over the test set.
        steps: Optimizer steps.
        examples_seen: Examples shown, repetitions counted.
        images_per_second: In the training loop.
        n_examples: Examples trained on.
        full_examples: Examples of the full set that they are a part of.
        budget: The compute protocol, "steps" or "epochs".
        seed: Of order, augmentation and initialisation.
        recipe: Every value of the recipe.
        train_digest: Content digest of the training bundle.
        test_digest: Content digest of the test bundle.
        epoch_losses: Mean training loss of each epoch, in nats.
        skipped: Damaged examples of either bundle that were left out.
        environment: Device, versions, threads.
    """

    test_accuracy: float
    test_loss: float
    per_class_accuracy: tuple[float | None, ...]
    train_seconds: float
    setup_seconds: float
    evaluation_seconds: float
    steps: int
    examples_seen: int
    images_per_second: float
    n_examples: int
    full_examples: int
    budget: Budget
    seed: int
    recipe: dict[str, Any]
    train_digest: str
    test_digest: str
    epoch_losses: tuple[float, ...]
    skipped: tuple[Skipped, ...]
    environment: dict[str, Any]


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and versions that a measured number belongs to."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the platform's own word stands
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    with autocast(device):
        precision = "bfloat16" if torch.is_autocast_enabled(device.type) else "float32"
    return {
        "device": gpu or processor,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "tamis": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def check_same_classes(train: tuple[str, ...] | None, test: tuple[str, ...] | None) -> None:
    """Refuse a test set whose labels mean other classes.

    Raises:
        BundleError: Both name their classes, and differently.
    """
    if train and test and train != test:
        odd = next((a, b) for a, b in zip((*train, None), (*test, None), strict=False) if a != b)
        raise BundleError(
            "test bundle",
            expected=f"the training bundle's {len(train)} classes",
            found=f"{len(test)}, which differ first at {odd[0]!r} against {odd[1]!r}",
            do="convert the test images with --classes, from the training set's class list",
        )


def run_training(
    train_loader: Loader,
    test_loader: Loader,
    recipe: Recipe,
    *,
    n_classes: int,
    full_examples: int,
    budget: Budget,
    seed: int,
    device: torch.device,
    train_digest: str,
    test_digest: str,
    setup_seconds: float = 0.0,
    progress: Progress = QUIET,
    label: str = "train",
) -> tuple[Trained, RunRecord]:
    """Train on a set and evaluate on another.

    Args:
        train_loader: Shuffles and augments with the run's seed; see :func:`loader_settings`.
        test_loader: The test set in any order, without augmentation.
        recipe: What to train and how.
        n_classes: Outputs of the network.
        full_examples: Examples of the full set; with ``budget="steps"`` decides the steps.
        budget: See :func:`tamis.training.loop.n_steps`.
        seed: Of order, augmentation and initialisation.
        device: Where to train.
        train_digest: For the record.
        test_digest: For the record.
        setup_seconds: For the record.
        progress: Told of every step.
        label: Names the run in the progress.
    """
    n_examples = train_loader.n_examples
    trained = train(
        train_loader,
        recipe,
        n_classes,
        steps=n_steps(n_examples, full_examples, recipe, budget),
        seeds=Seeds.from_one(seed),
        device=device,
        progress=progress,
        label=label,
    )
    start = time.perf_counter()
    result = evaluate(trained.model, test_loader, n_classes, device)
    record = RunRecord(
        test_accuracy=result.accuracy,
        test_loss=result.loss,
        per_class_accuracy=_without_nan(result),
        train_seconds=trained.seconds,
        setup_seconds=setup_seconds,
        evaluation_seconds=time.perf_counter() - start,
        steps=trained.steps,
        examples_seen=trained.examples_seen,
        images_per_second=trained.examples_seen / trained.seconds,
        n_examples=train_loader.n_examples,  # without those that were skipped
        full_examples=full_examples,
        budget=budget,
        seed=seed,
        recipe=asdict(recipe),
        train_digest=train_digest,
        test_digest=test_digest,
        epoch_losses=trained.epoch_losses,
        skipped=(*train_loader.skipped, *test_loader.skipped),
        environment=environment(device),
    )
    return trained, record


def loader_settings(recipe: Recipe, seed: int) -> LoaderSettings:
    """What the training loader of a run is asked for."""
    seeds = Seeds.from_one(seed)
    return LoaderSettings(
        recipe.batch_size,
        recipe.resolution,
        "train",
        seed=seeds.order,
        augmentation=augmentation_for(recipe, seeds),
    )


def train_on_bundle(
    training: Bundle,
    testing: Bundle,
    recipe: Recipe,
    *,
    example_ids: NDArray[np.int64] | None = None,
    budget: Budget = "steps",
    full_examples: int | None = None,
    seed: int = 0,
    loader: str = "auto",
    on_error: OnError = "fail",
    device: torch.device,
    progress: Progress = QUIET,
) -> tuple[Trained, RunRecord]:
    """Train on a bundle or on some of its examples, and test.

    A pruned bundle and the same selection of its parent give the same run: order and
    augmentation belong to the example ids, and a pruned bundle knows the size of its full set.

    Args:
        training: Real or pruned.
        testing: With the same classes.
        recipe: What to train and how.
        example_ids: (k,) int64, train on these only.
        budget: See :func:`tamis.training.loop.n_steps`.
        full_examples: Size of the full set; None takes the oldest ancestor's, or the bundle's.
        seed: Of order, augmentation and initialisation.
        loader: Its backend, as in :func:`tamis.loaders.opening.open_loader`.
        on_error: ``skip`` leaves out damaged examples; the record names them.
        device: Where to train.
        progress: Told of decoding and of every step.

    Raises:
        BundleError: Classes that differ, unknown ids, or a record that does not decode.
        UsageError: An unknown loader.
    """
    start = time.perf_counter()
    check_same_classes(training.classes, testing.classes)
    n_kept = training.n_examples if example_ids is None else len(example_ids)
    if full_examples is not None and full_examples < n_kept:
        raise UsageError(
            "--full-examples",
            expected=f"at least the {n_kept} examples that are trained on",
            found=str(full_examples),
            do="give the size of the set before pruning",
        )
    settings = loader_settings(recipe, seed)
    train_loader = open_loader(
        training,
        backend=loader,
        batch_size=settings.batch_size,
        resolution=settings.resolution,
        mode=settings.mode,
        seed=settings.seed,
        augmentation=settings.augmentation,
        selection=example_ids,
        on_error=on_error,
        device=device,
        progress=progress,
    )
    test_loader = open_loader(
        testing,
        backend=loader,
        batch_size=EVALUATION_BATCH,
        resolution=recipe.resolution,
        on_error=on_error,
        device=device,
        progress=progress,
    )
    ancestor = training.manifest.full_examples if training.manifest else None
    return run_training(
        train_loader,
        test_loader,
        recipe,
        n_classes=max(training.n_classes, testing.n_classes),
        full_examples=full_examples or ancestor or training.n_examples,
        budget=budget,
        seed=seed,
        device=device,
        train_digest=training.digest,
        test_digest=testing.digest,
        setup_seconds=time.perf_counter() - start,
        progress=progress,
    )


def _without_nan(result: Evaluation) -> tuple[float | None, ...]:
    return tuple(None if value != value else value for value in result.per_class.tolist())

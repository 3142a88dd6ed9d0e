"""One self-supervised training on bundles: train an encoder, probe it, record."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.arrays import to_numpy
from tamis.bundles.bundle import Bundle
from tamis.errors import UsageError
from tamis.inference import infer
from tamis.loaders.batch import Loader, Skipped
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import OnError
from tamis.models.network import Network
from tamis.progress import QUIET, Progress
from tamis.training.probe import linear_probe
from tamis.training.recipes import Recipe
from tamis.training.records import environment
from tamis.training.runs import EVALUATION_BATCH, check_same_classes
from tamis.training.selfsup import SelfsupSettings, new_encoder, train_encoder

__all__ = ["SelfsupRecord", "train_encoder_on_bundle"]


@dataclass(frozen=True)
class SelfsupRecord:
    """What is kept of a run without labels; times in seconds.

    Attributes:
        probe_accuracy: Test accuracy of a linear classifier on the embeddings. Labels train it,
            not the encoder.
        untrained_probe_accuracy: The same before the first step: what the architecture gives.
        train_seconds: The training loop alone.
        setup_seconds: Decoding and everything else before it.
        probe_seconds: Embedding both sets twice, and both classifiers.
        images_per_second: In the training loop; each image is two views.
        n_examples: Examples trained on.
        seed: Of order, views and initialisation.
        recipe: Every value of the recipe.
        selfsup: Every setting of the training.
        train_digest: Content digest of the training bundle.
        test_digest: Content digest of the test bundle.
        skipped: Damaged examples of either bundle that were left out.
        environment: Device, versions, threads.
    """

    probe_accuracy: float
    untrained_probe_accuracy: float
    train_seconds: float
    setup_seconds: float
    probe_seconds: float
    images_per_second: float
    n_examples: int
    seed: int
    recipe: dict[str, Any]
    selfsup: dict[str, Any]
    train_digest: str
    test_digest: str
    skipped: tuple[Skipped, ...]
    environment: dict[str, Any]


def train_encoder_on_bundle(
    training: Bundle,
    testing: Bundle,
    recipe: Recipe,
    settings: SelfsupSettings,
    *,
    example_ids: NDArray[np.int64] | None = None,
    seed: int = 0,
    loader: str = "auto",
    on_error: OnError = "fail",
    device: torch.device,
    progress: Progress = QUIET,
) -> tuple[Network, SelfsupRecord]:
    """Train an encoder without labels, and say how well a linear classifier does on it.

    Args:
        training: Real or pruned.
        testing: With the same classes.
        recipe: Gives the network, its resolution, and whether mirror images mean the same.
        settings: Of the training.
        example_ids: (k,) int64, train on these only.
        seed: Of order, views and initialisation.
        loader: Its backend, as in :func:`tamis.loaders.opening.open_loader`.
        on_error: ``skip`` leaves out damaged examples; the record names them.
        device: Where to train.
        progress: Told of decoding and of every step.

    Raises:
        BundleError: Classes that differ, unknown ids, or a record that does not decode.
        UsageError: An unknown loader, or fewer than two classes to tell apart.
    """
    start = time.perf_counter()
    check_same_classes(training.classes, testing.classes)
    recipe.check_plain_images("--recipe")

    def opened(bundle: Bundle, batch_size: int, **options: Any) -> Loader:
        return open_loader(
            bundle,
            backend=loader,
            batch_size=batch_size,
            resolution=recipe.resolution,
            on_error=on_error,
            device=device,
            progress=progress,
            **recipe.decoding,
            **options,
        )

    shuffled = opened(training, settings.batch_size, selection=example_ids, mode="train", seed=seed)
    probed = (
        opened(training, EVALUATION_BATCH, selection=example_ids),
        opened(testing, EVALUATION_BATCH),
    )
    setup = time.perf_counter() - start
    floor, floor_seconds = _probe(new_encoder(recipe, seed, device), *probed, device)
    start = time.perf_counter()
    model = train_encoder(shuffled, recipe, settings, seed=seed, device=device, progress=progress)
    seconds = time.perf_counter() - start
    accuracy, probe_seconds = _probe(model, *probed, device)
    record = SelfsupRecord(
        probe_accuracy=accuracy,
        untrained_probe_accuracy=floor,
        train_seconds=seconds,
        setup_seconds=setup,
        probe_seconds=floor_seconds + probe_seconds,
        images_per_second=settings.epochs * shuffled.n_examples / seconds,
        n_examples=shuffled.n_examples,
        seed=seed,
        recipe=asdict(recipe),
        selfsup=asdict(settings),
        train_digest=training.digest,
        test_digest=testing.digest,
        skipped=(*probed[0].skipped, *probed[1].skipped),
        environment=environment(device),
    )
    return model, record


def _probe(
    model: Network, training: Loader, testing: Loader, device: torch.device
) -> tuple[float, float]:
    """Accuracy, and seconds."""
    start = time.perf_counter()
    (train, train_labels), (test, test_labels) = (
        _embedded(model, loader, device) for loader in (training, testing)
    )
    if len(np.unique(train_labels)) < 2:
        raise UsageError(
            "--objective selfsup",
            expected="at least two classes, which the probe tells apart",
            found="one",
            do="add examples of others, or embed with --encoder selfsup, which does not probe",
        )
    accuracy = linear_probe(train, train_labels, test, test_labels)
    return accuracy, time.perf_counter() - start


def _embedded(
    model: Network, loader: Loader, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows, labels = [], []
    for outputs in infer(model, loader, device):
        rows.append(to_numpy(outputs.embeddings))
        labels.append(to_numpy(outputs.labels))
    return np.concatenate(rows), np.concatenate(labels)

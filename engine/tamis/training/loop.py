"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.devices import autocast
from tamis.errors import UsageError, WorkFailedError
from tamis.loaders.batch import Batch, Loader
from tamis.loaders.settings import Augmentation
from tamis.models.small_resnet import SmallResNet
from tamis.progress import QUIET, Progress
from tamis.training.recipes import Recipe

__all__ = ["Budget", "Observer", "Seeds", "Trained", "augmentation_for", "n_steps", "train"]

Budget = Literal["steps", "epochs"]


@dataclass(frozen=True)
class Seeds:
    """Independent seeds for what is random in a run."""

    init: int
    order: int
    augmentation: int

    @classmethod
    def from_one(cls, seed: int) -> Seeds:
        """All three from one number."""
        return cls(init=seed, order=seed, augmentation=seed)


class Observer(Protocol):
    """Watches a run, for scores that come from training dynamics."""

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """After each forward pass; logits as trained on, detached."""

    def on_epoch_end(self, epoch: int, model: SmallResNet) -> None:
        """After the last step of each epoch, counted from 0."""


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        model: The network, in evaluation mode.
        steps: Optimizer steps taken.
        examples_seen: Examples shown, repetitions counted.
        seconds: Wall time of the loop.
        epoch_losses: Mean training loss of each epoch, in nats.
    """

    model: SmallResNet
    steps: int
    examples_seen: int
    seconds: float
    epoch_losses: tuple[float, ...]


def augmentation_for(recipe: Recipe, seeds: Seeds) -> Augmentation:
    """The recipe's augmentation with the run's seed."""
    return Augmentation(flip=recipe.flip, translate=recipe.translate, seed=seeds.augmentation)


def n_steps(n_examples: int, full_examples: int, recipe: Recipe, budget: Budget) -> int:
    """Optimizer steps of a run on a part of a set.

    Args:
        n_examples: Examples trained on.
        full_examples: Examples of the full set, unpruned.
        recipe: Gives epochs and batch size.
        budget: ``steps``: as many steps as the full set would get, so that a pruned run costs the
            same; ``epochs``: as many epochs, so that it costs the keep fraction of it (the
            paper's protocol, App. C).

    Raises:
        UsageError: An unknown budget.
    """
    if budget not in ("steps", "epochs"):
        raise UsageError(
            "--budget", expected="steps or epochs", found=str(budget), do="choose one of them"
        )
    n = full_examples if budget == "steps" else n_examples
    return recipe.epochs * math.ceil(n / recipe.batch_size)


def train(
    loader: Loader,
    recipe: Recipe,
    n_classes: int,
    *,
    steps: int,
    seeds: Seeds,
    device: torch.device,
    stop_after: int | None = None,
    observer: Observer | None = None,
    progress: Progress = QUIET,
    label: str = "train",
) -> Trained:
    """Train a fresh network.

    Every example of the loader is shown in every epoch, the last partial batch included; the last
    epoch stops when the steps are used up. On a CPU the result depends on nothing but the
    arguments and the number of threads.

    Args:
        loader: Shuffled and augmented batches.
        recipe: See :class:`tamis.training.recipes.Recipe`.
        n_classes: Outputs of the network.
        steps: Optimizer steps, see :func:`n_steps`.
        seeds: ``init`` is used here, the others by the loader.
        device: Where to train.
        stop_after: Epochs after which the training is broken off, as it then is; None goes on to
            the end. The rate follows ``steps`` either way.
        observer: Watches the run.
        progress: Told of every step.
        label: Names the run in the progress.

    Raises:
        UsageError: Nothing to train on, or fewer than two classes.
        WorkFailedError: The loss is no longer finite.
    """
    if steps < 1 or loader.n_examples < 1 or n_classes < 2:
        raise UsageError(
            f"recipe {recipe.name}",
            expected="at least one step, one example and two classes",
            found=f"{steps} steps, {loader.n_examples} examples, {n_classes} classes",
            do="check --full-examples and the bundle",
        )
    model = _new_model(recipe, n_classes, seeds, device)
    optimizer = _optimizer(model, recipe)
    total = steps if stop_after is None else min(steps, stop_after * len(loader))
    start, seen, taken, losses = time.perf_counter(), 0, 0, _EpochLosses()
    with progress.task(label, total) as advance:
        for step, epoch, batch in _schedule(loader, steps):
            if batch is None:
                losses.close(recipe, epoch)
                if observer is not None:
                    observer.on_epoch_end(epoch, model)
                if epoch + 1 == stop_after:
                    break
                continue
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _triangle((step + 0.5) / steps, recipe.warmup)
            with autocast(device):
                features = model.features(batch.images.to(device, non_blocking=True))
            # In float32: scores are read off these logits, too.
            logits = model.head(features.float())
            labels = batch.labels.to(device)
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen += len(labels)
            losses.add(loss.detach(), len(labels))
            if observer is not None:
                observer.on_batch(epoch, batch.example_ids, labels, logits.detach())
            taken = step + 1
            advance()
    seconds = time.perf_counter() - start
    return Trained(model.eval(), taken, seen, seconds, tuple(losses.means))


def _new_model(recipe: Recipe, n_classes: int, seeds: Seeds, device: torch.device) -> SmallResNet:
    # Forked, so that a run neither reads nor moves the caller's random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.init)
        model = SmallResNet(n_classes, recipe.width, recipe.resolution)
    return model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others},
    ]
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def _triangle(progress: float, warmup: float) -> float:
    """Rises from 0 to 1 over the warm-up, then falls to 0."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def _schedule(loader: Loader, steps: int) -> Iterator[tuple[int, int, Batch | None]]:
    """Step, epoch, batch, epoch after epoch; after the last batch of each, None.

    A loader that skips damaged examples may give fewer batches than it has.
    """
    step = epoch = 0
    while step < steps:
        loader.set_epoch(epoch)
        before = step
        for batch in loader:
            yield step, epoch, batch
            step += 1
            if step == steps:
                break
        if step == before:
            raise WorkFailedError(
                "training",
                expected="at least one example that is not damaged",
                found="none",
                do="run: tamis verify --deep on the bundle",
            )
        yield step, epoch, None
        epoch += 1


class _EpochLosses:
    """Mean losses per epoch, read from the device once an epoch."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, loss: Tensor, count: int) -> None:
        self._sum, self._count = self._sum + loss * count, self._count + count

    def close(self, recipe: Recipe, epoch: int) -> None:
        mean = float(self._sum) / self._count
        if not math.isfinite(mean):
            raise WorkFailedError(
                f"recipe {recipe.name}",
                expected="a finite training loss",
                found=f"{mean} in epoch {epoch + 1}",
                do=f"lower the rate, e.g. --set learning_rate={recipe.learning_rate / 4:g}",
            )
        self.means.append(mean)
        self._sum, self._count = 0.0, 0

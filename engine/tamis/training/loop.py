"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.errors import UsageError, WorkFailedError
from tamis.loaders.batch import Batch, Loader
from tamis.loaders.settings import Augmentation, RandomResizedCrop
from tamis.memory import keep_freed
from tamis.models.network import Network
from tamis.progress import QUIET, Progress
from tamis.training.dynamic import DynamicPruning
from tamis.training.interrupting import NEVER, StopRequest
from tamis.training.networks import new_network
from tamis.training.objective import Objective, Teacher
from tamis.training.progress_file import ProgressFile
from tamis.training.recipes import Recipe
from tamis.training.stepping import Stepping
from tamis.training.workers import Workers

__all__ = [
    "Budget",
    "EpochReport",
    "Extras",
    "Observer",
    "Seeds",
    "Trained",
    "augmentation_for",
    "n_steps",
    "train",
]

Budget = Literal["steps", "epochs"]

_WHITENED = 5000  # images that a network may look at before its first step


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

    def __str__(self) -> str:
        if self.init == self.order == self.augmentation:
            return str(self.init)
        return f"{self.init} (order {self.order}, augmentation {self.augmentation})"


class Observer(Protocol):
    """Watches a run, for scores that come from training dynamics."""

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """After each forward pass; logits as trained on, detached."""

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        """After the last step of each epoch, counted from 0."""


@dataclass(frozen=True)
class EpochReport:
    """What there is to say after an epoch.

    Attributes:
        epoch: From 0.
        loss: Mean training loss in nats.
        rate: The learning rate of its last step.
        images_per_second: Of this process, in this epoch.
    """

    epoch: int
    loss: float
    rate: float
    images_per_second: float


@dataclass(frozen=True)
class Extras:
    """What a training may do besides the recipe.

    Attributes:
        start: A network to go on from, instead of a fresh one; it is trained itself.
        teacher: To learn from.
        dynamic: Leaves out examples while training.
        accumulate: Parts of each batch that go through the network one after the other: as many
            times less memory, the same step but for the statistics of norms.
        workers: Processes that train together.
        file: Where the run is kept while it is under way; None keeps nothing.
        stop: Asked after each step whether to end early.
        report: Told after each epoch.
    """

    start: Network | None = None
    teacher: Teacher | None = None
    dynamic: DynamicPruning | None = None
    accumulate: int = 1
    workers: Workers = field(default_factory=Workers)
    file: ProgressFile | None = None
    stop: StopRequest = NEVER
    report: Callable[[EpochReport], None] | None = None


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        model: The network, in evaluation mode; with an average of weights, the average.
        steps: Optimizer steps taken.
        examples_seen: Examples shown, repetitions counted, by all processes.
        seconds: Wall time of the loop, of its earlier parts too.
        compile_seconds: Of them, what the first step took longer than the second, of a network
            that is compiled; else 0.
        epoch_losses: Mean training loss of each epoch, in nats.
    """

    model: Network
    steps: int
    examples_seen: int
    seconds: float
    epoch_losses: tuple[float, ...]
    compile_seconds: float = 0.0


def augmentation_for(recipe: Recipe, seeds: Seeds) -> Augmentation:
    """The recipe's augmentation with the run's seed."""
    return Augmentation(
        crop=RandomResizedCrop() if recipe.random_crop else None,
        flip=recipe.flip,
        alternating=recipe.alternating_flip,
        translate=recipe.translate,
        cutout=recipe.cutout,
        seed=seeds.augmentation,
    )


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
    extras: Extras | None = None,
    progress: Progress = QUIET,
    label: str = "train",
) -> Trained:
    """Train a network.

    Every example of the loader is shown in every epoch, the last partial batch included; the last
    epoch stops when the steps are used up. On a CPU the result depends on nothing but the
    arguments and the number of threads, whether or not the run was interrupted in between.

    Args:
        loader: Shuffled and augmented batches; of this process's shard, where there are several.
        recipe: See :class:`tamis.training.recipes.Recipe`.
        n_classes: Outputs of the network.
        steps: Optimizer steps, see :func:`n_steps`. With dynamic pruning fewer are taken: the
            share of each epoch that is shown.
        seeds: ``init`` is used here, the others by the loader.
        device: Where to train.
        stop_after: Epochs after which the training is broken off, as it then is; None goes on to
            the end. The rate follows ``steps`` either way.
        observer: Watches the run.
        extras: See :class:`Extras`.
        progress: Told of every step.
        label: Names the run in the progress.

    Raises:
        UsageError: Nothing to train on, or fewer than two classes.
        WorkFailedError: The loss is no longer finite, or the device has too little memory.
        InterruptedRunError: It was asked to stop; what there is is kept.
    """
    if steps < 1 or loader.n_examples < 1 or n_classes < 2:
        raise UsageError(
            f"recipe {recipe.name}",
            expected="at least one step, one example and two classes",
            found=f"{steps} steps, {loader.n_examples} examples, {n_classes} classes",
            do="check --full-examples and the bundle",
        )
    if device.type == "cpu":
        keep_freed()
    extras = extras or Extras()
    model = extras.start if extras.start is not None else new_network(recipe, n_classes, seeds.init)
    run = _Run(loader, recipe, steps, device, model, extras)
    total = steps if stop_after is None else stop_after * len(loader)
    # What a network draws itself, as dropout does, is the run's, too.
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        extras.stop.listening(),
        progress.task(label, total) as advance,
    ):
        torch.manual_seed(seeds.augmentation)
        advance(run.begin())
        for epoch, batch in run.batches(stop_after):
            if batch is None:
                if observer is not None:
                    observer.on_epoch_end(epoch, run.stepping.network)
                continue
            logits = run.step(batch)
            if observer is not None:
                labels = batch.labels.to(device, non_blocking=True)
                observer.on_batch(epoch, batch.example_ids, labels, logits)
            advance()
    return run.finished()


class _Run:
    """Where a training stands, and what it takes to go on from there."""

    def __init__(
        self,
        loader: Loader,
        recipe: Recipe,
        steps: int,
        device: torch.device,
        model: Network,
        extras: Extras,
    ) -> None:
        self._loader, self._recipe, self._steps = loader, recipe, steps
        self._device, self._extras, self._dynamic = device, extras, extras.dynamic
        self._full_batches = len(loader)
        objective = Objective(recipe.label_smoothing, extras.teacher)
        self.stepping = Stepping(model, recipe, objective, device, extras)
        self._epoch = self._taken = self._seen = 0
        self._position = 0.0  # in epochs, where dynamic pruning makes them differ in length
        self._in_epoch = 0
        self._losses = _EpochLosses(extras.workers)
        self._start, self._before = time.perf_counter(), 0.0
        self._compiled_before = 0.0
        self._step_seconds: list[float] = []

    def begin(self) -> int:
        """Prepare the network, or go on from where an earlier process was; steps done."""
        file = self._extras.file
        state = file.load(self._device) if file is not None else None
        self._agree_on(state)
        if state is None:
            self._prepare()
            return 0
        self.stepping.load_state_dict(state["stepping"])
        self._epoch, self._taken = state["epoch"], state["taken"]
        self._seen = state["seen"] if self._extras.workers.writes else 0
        self._in_epoch, self._before = state["in_epoch"], state["seconds"]
        self._compiled_before = state["compile_seconds"]
        self._losses.load_state_dict(state["losses"])
        if self._dynamic is not None:
            self._dynamic.load_state_dict(state["dynamic"])
            self._loader.restrict(self._dynamic.shown(self._epoch))
        # The state that was saved last in an epoch is that of the next one's beginning.
        if self._in_epoch:
            self._loader.load_state_dict(state["loader"])
        return self._taken

    def _agree_on(self, state: dict[str, Any] | None) -> None:
        """Processes go on from the same place, or all begin."""
        workers = self._extras.workers
        if workers.size == 1:
            return
        own = float(state["taken"]) if state is not None else -1.0
        if float(workers.sum(workers.tensor(own))) != own * workers.size:
            raise UsageError(
                "--resume",
                expected="one --out folder that all processes see",
                found="different states in theirs",
                do="put it on storage that they share",
            )

    def _prepare(self) -> None:
        """Show the network some images of the set, if it wants to see any."""
        if self._extras.start is not None or not self.stepping.network.looks_at_images:
            return
        self._loader.set_epoch(0)
        images, n = [], 0
        for batch in self._loader:
            images.append(batch.images)
            n += len(batch.images)
            if n >= _WHITENED:
                break
        self.stepping.prepare(torch.cat(images)[:_WHITENED])

    def batches(self, stop_after: int | None) -> Iterator[tuple[int, Batch | None]]:
        """Epoch and batch; after the last batch of each epoch None.

        A loader that skips damaged examples may give fewer batches than it has.
        """
        while not self._is_done(stop_after):
            resumed = self._in_epoch > 0
            if not resumed and self._dynamic is not None:
                epochs = self._steps / self._full_batches
                self._loader.restrict(self._dynamic.begin(self._epoch, epochs))
            self._loader.set_epoch(self._epoch)
            length, before = len(self._loader), self._in_epoch
            began, seen = time.perf_counter(), self._seen
            for batch in self._loader:
                self._position = self._epoch + (self._in_epoch + 0.5) / length
                yield self._epoch, batch
                self._in_epoch += 1
                if self._is_over():
                    break
                self._stop_if_asked()
            if self._in_epoch == before and not resumed:
                raise WorkFailedError(
                    "training",
                    expected="at least one example that is not damaged",
                    found="none",
                    do="run: tamis verify --deep on the bundle",
                )
            self._check_finite()
            self._losses.close()
            yield self._epoch, None
            self._epoch, self._in_epoch = self._epoch + 1, 0
            self._keep()
            self._report(began, seen)

    def step(self, batch: Batch) -> Tensor:
        """Take one step; the batch's logits, detached."""
        start = time.perf_counter()
        progress = (self._taken + 0.5) / self._steps
        if self._dynamic is not None:
            progress = min(self._position * self._full_batches / self._steps, 1 - 1e-9)
        logits, loss, n = self.stepping.step(batch, progress)
        self._losses.add(loss, n)
        self._taken, self._seen = self._taken + 1, self._seen + n
        if self.stepping.was_compiled and len(self._step_seconds) < 2:
            self._step_seconds.append(time.perf_counter() - start)
        return logits

    def finished(self) -> Trained:
        """What came of it; kept, so that whoever is interrupted while testing need not train."""
        seconds = self._before + time.perf_counter() - self._start
        self._keep(now=True)
        return Trained(
            self.stepping.result(),
            self._taken,
            self._seen_by_all(),
            seconds,
            tuple(self._losses.means),
            self._compile_seconds,
        )

    @property
    def _compile_seconds(self) -> float:
        own = 0.0
        if len(self._step_seconds) == 2:
            own = max(0.0, self._step_seconds[0] - self._step_seconds[1])
        return self._compiled_before + own

    def _report(self, began: float, seen: int) -> None:
        report = self._extras.report
        if report is not None:
            speed = (self._seen - seen) / (time.perf_counter() - began)
            loss = self._losses.means[-1]
            report(EpochReport(self._epoch - 1, loss, self.stepping.rate, speed))

    def _seen_by_all(self) -> int:
        workers = self._extras.workers
        return int(workers.sum(workers.tensor(self._seen))) if workers.size > 1 else self._seen

    def _check_finite(self) -> None:
        """Never keep, and never hand out, what is no number; one wait for the device."""
        loss, recipe = self._losses.mean(), self._recipe
        if math.isfinite(loss) and self.stepping.is_finite():
            return
        found = f"{loss}" if not math.isfinite(loss) else "weights that are no numbers"
        kept = self._extras.file.kept_text() if self._extras.file is not None else ""
        raise WorkFailedError(
            f"recipe {recipe.name}",
            expected="a finite training loss",
            found=f"{found} in epoch {self._epoch + (self._in_epoch > 0)}",
            do=f"lower the rate, e.g. --set learning_rate={recipe.learning_rate / 4:g}{kept}",
        )

    def _is_over(self) -> bool:
        """Whether the steps are used up; of dynamic epochs, the share of them."""
        if self._dynamic is None:
            return self._taken == self._steps
        passed = self._epoch + self._in_epoch / max(1, len(self._loader))
        return passed * self._full_batches >= self._steps - 1e-9

    def _is_done(self, stop_after: int | None) -> bool:
        return self._is_over() or self._epoch == stop_after

    def _stop_if_asked(self) -> None:
        if self._extras.stop.asked(self._extras.workers):
            self._keep(now=True)
            file = self._extras.file
            self._extras.stop.obey(file.path if file is not None else None)

    def _keep(self, *, now: bool = False) -> None:
        file = self._extras.file
        if file is None or not (now or file.is_due(self._extras.workers)):
            return
        self._check_finite()
        file.save(self._state(), self._device, self._extras.workers)

    def _state(self) -> dict[str, Any]:
        return {
            "stepping": self.stepping.state_dict(),
            "epoch": self._epoch,
            "in_epoch": self._in_epoch,
            "taken": self._taken,
            "seen": self._seen_by_all(),
            "seconds": self._before + time.perf_counter() - self._start,
            "compile_seconds": self._compile_seconds,
            "losses": self._losses.state_dict(),
            "loader": self._loader.state_dict(),  # the same of all shards
            "dynamic": self._dynamic.state_dict() if self._dynamic is not None else None,
        }


class _EpochLosses:
    """Mean losses per epoch, read from the device once an epoch."""

    def __init__(self, workers: Workers) -> None:
        self.means: list[float] = []
        self._workers = workers
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, total: Tensor, count: int) -> None:
        self._sum, self._count = self._sum + total, self._count + count

    def mean(self) -> float:
        """Of the epoch so far, by all processes; 0 where nothing was shown."""
        total, count = self._totals()
        return total / count if count else 0.0

    def _totals(self) -> tuple[float, float]:
        both = (float(self._sum), float(self._count))
        if self._workers.size == 1:
            return both
        total, count = (float(self._workers.sum(self._workers.tensor(part))) for part in both)
        return total, count

    def close(self) -> None:
        """End the epoch."""
        self.means.append(self.mean())
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        total, count = self._totals()
        return {"means": self.means, "sum": total, "count": count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = list(state["means"])
        if self._workers.writes:  # what all have met counts once
            self._sum, self._count = state["sum"], int(state["count"])

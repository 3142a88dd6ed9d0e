"""One training run on bundles: train, evaluate, record."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import BundleError, UsageError
from tamis.loaders.batch import Loader
from tamis.loaders.opening import choose_streaming, open_loader
from tamis.loaders.progressive import ProgressiveLoader
from tamis.loaders.settings import LoaderSettings, OnError
from tamis.models.network import Network
from tamis.models.weights import weights_digest
from tamis.progress import QUIET, Progress
from tamis.training.dynamic import DynamicPruning, check_ratio
from tamis.training.early_stop import EarlyStop, Judge
from tamis.training.energy import energy_joules
from tamis.training.evaluation import Evaluation, evaluate
from tamis.training.loop import (
    Budget,
    Extras,
    Observer,
    Seeds,
    Trained,
    augmentation_for,
    n_steps,
    train,
)
from tamis.training.objective import Teacher
from tamis.training.progress_file import ProgressFile
from tamis.training.recipes import Recipe
from tamis.training.records import RunRecord, environment

__all__ = [
    "EVALUATION_BATCH",
    "Keeping",
    "RunOptions",
    "check_same_classes",
    "full_options",
    "ids_digest",
    "loader_settings",
    "run_training",
    "teacher_facts",
    "train_on_bundle",
]

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Keeping:
    """Where a run is kept while it is under way.

    Attributes:
        path: The file; whoever records the run removes it.
        resume: Go on from it, where it is there.
        every: Seconds between two writings.
    """

    path: Path
    resume: bool = False
    every: float = 60.0

    def file(self, identity: dict[str, object]) -> ProgressFile:
        """Of a run that agrees with an earlier one in ``identity``."""
        return ProgressFile(self.path, identity, resume=self.resume, every=self.every)


@dataclass(frozen=True)
class RunOptions:
    """How a run departs from its recipe's plain course.

    Attributes:
        budget: See :func:`tamis.training.loop.n_steps`.
        full_examples: Size of the full set; None takes the oldest ancestor's, or the bundle's.
        seed: Of order, augmentation and initialisation.
        order_seed: Of the order, and of what dynamic pruning leaves out; None takes ``seed``. What
            ``cifar-fast`` whitens by are the first images as they are shown: that part of its first
            network goes with order and augmentation.
        augmentation_seed: Of the augmentation; None takes ``seed``.
        dynamic: The ratio of dynamic pruning, see :class:`DynamicPruning`; 0 for none.
        keeping: None keeps nothing until the run is finished.
        extras: See :class:`Extras`; its ``dynamic`` and ``file`` are made here.
        started_from: What ``extras.start`` is, for the record.
        early_stop: Gives the run up where it is hopeless; None trains it to its end.
    """

    budget: Budget = "steps"
    full_examples: int | None = None
    seed: int = 0
    order_seed: int | None = None
    augmentation_seed: int | None = None
    dynamic: float = 0.0
    keeping: Keeping | None = None
    extras: Extras = field(default_factory=Extras)
    started_from: str | None = None
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        check_ratio(self.dynamic)

    @property
    def seeds(self) -> Seeds:
        """One for each that is random."""
        order, augmentation = self.order_seed, self.augmentation_seed
        return Seeds(
            init=self.seed,
            order=self.seed if order is None else order,
            augmentation=self.seed if augmentation is None else augmentation,
        )


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
    options: RunOptions,
    *,
    n_classes: int,
    example_ids: NDArray[np.int64],
    device: torch.device,
    train_digest: str,
    test_digest: str,
    setup_seconds: float = 0.0,
    observer: Observer | None = None,
    progress: Progress = QUIET,
    label: str = "train",
) -> tuple[Trained, RunRecord]:
    """Train on a set and evaluate on another.

    Args:
        train_loader: Shuffles and augments with the run's seed; see :func:`loader_settings`.
        test_loader: The test set in any order, without augmentation.
        recipe: What to train and how.
        options: See :class:`RunOptions`; ``full_examples`` is needed.
        n_classes: Outputs of the network.
        example_ids: (k,) int64 of all examples that are trained on, by all processes.
        device: Where to train.
        train_digest: For the record.
        test_digest: For the record.
        setup_seconds: For the record.
        observer: Watches the training.
        progress: Told of every step.
        label: Names the run in the progress.

    Raises:
        As :func:`tamis.training.loop.train`.
        HopelessError: The run is given up, by ``options.early_stop``.
    """
    assert options.full_examples is not None
    extras, workers = options.extras, options.extras.workers
    seeds = options.seeds
    shown = _without_skipped(example_ids, train_loader)  # as far as decoding has found them
    steps = n_steps(len(shown), options.full_examples, recipe, options.budget)
    file = None
    if options.keeping is not None:
        file = options.keeping.file(_identity(recipe, options, example_ids, steps, train_digest))
    dynamic = None
    if options.dynamic:
        dynamic = DynamicPruning(shown, options.dynamic, seeds.order, device, workers)

    def test(model: Network) -> Evaluation:
        return evaluate(
            model, test_loader, n_classes, device, flip=recipe.flip_test, workers=workers
        )

    rule, judge = options.early_stop, None
    if rule is not None:
        n_epochs = steps / len(train_loader)
        judge = Judge(rule, n_epochs, lambda model: test(model).accuracy, device, observer)
    before = energy_joules(device)
    trained = train(
        train_loader,
        recipe,
        n_classes,
        steps=steps,
        seeds=seeds,
        device=device,
        observer=judge or observer,
        extras=replace(extras, dynamic=dynamic, file=file),
        progress=progress,
        label=label,
    )
    after = energy_joules(device)
    judging, joules = (judge.seconds, judge.joules) if judge is not None else (0.0, 0.0)
    seconds, start = trained.seconds - judging, time.perf_counter()
    result = test(trained.model)
    skipped = (*train_loader.skipped, *test_loader.skipped)
    record = RunRecord(
        test_accuracy=result.accuracy,
        test_accuracy_top5=result.accuracy_top5,
        test_loss=result.loss,
        per_class_accuracy=_without_nan(result),
        train_seconds=seconds,
        compile_seconds=trained.compile_seconds,
        setup_seconds=setup_seconds,
        evaluation_seconds=time.perf_counter() - start,
        steps=trained.steps,
        examples_seen=trained.examples_seen,
        images_per_second=trained.examples_seen / (seconds - trained.compile_seconds),
        energy_joules=after - before - joules if after is not None and before is not None else None,
        n_examples=len(_without_skipped(example_ids, train_loader)),
        examples_digest=ids_digest(example_ids),
        n_classes=n_classes,
        accumulate=extras.accumulate,
        full_examples=options.full_examples,
        budget=options.budget,
        seed=seeds.init,
        order_seed=seeds.order,
        augmentation_seed=seeds.augmentation,
        recipe=asdict(recipe),
        recipe_digest=recipe.digest,
        started_from=options.started_from,
        teacher=teacher_facts(extras.teacher),
        dynamic=options.dynamic,
        processes=workers.size,
        train_digest=train_digest,
        test_digest=test_digest,
        epoch_losses=trained.epoch_losses,
        skipped=skipped,
        environment=environment(device),
    )
    return trained, record


def _without_skipped(ids: NDArray[np.int64], loader: Loader) -> NDArray[np.int64]:
    return ids[~np.isin(ids, [one.example_id for one in loader.skipped])]


def ids_digest(example_ids: NDArray[np.int64]) -> str:
    """Hash of a set of ids, whatever their order."""
    return hashlib.sha256(np.sort(example_ids).tobytes()).hexdigest()[:16]


def _identity(
    recipe: Recipe,
    options: RunOptions,
    example_ids: NDArray[np.int64],
    steps: int,
    train_digest: str,
) -> dict[str, object]:
    """What a run that goes on must have in common with the one that was interrupted."""
    return {
        "recipe": recipe.digest,
        "bundle": train_digest,
        "examples": ids_digest(example_ids),
        "steps": steps,
        "seed": str(options.seeds),
        "dynamic": options.dynamic,
        "accumulate": options.extras.accumulate,
        "teacher": teacher_facts(options.extras.teacher),
        "start": options.started_from,
    }


def teacher_facts(teacher: Teacher | None) -> dict[str, Any] | None:
    """What a record says of a teacher."""
    if teacher is None:
        return None
    return {
        "weights": weights_digest(teacher.network),
        "weight": teacher.weight,
        "temperature": teacher.temperature,
    }


def loader_settings(
    recipe: Recipe, seeds: Seeds, shard: tuple[int, int] = (0, 1)
) -> LoaderSettings:
    """What the training loader of a run is asked for.

    Args:
        recipe: Its batch is that of all shards together.
        seeds: The run's.
        shard: Which of how many processes.

    Raises:
        UsageError: A batch that cannot be shared out evenly.
    """
    _, n_shards = shard
    if recipe.batch_size % n_shards:
        raise UsageError(
            f"batches of {recipe.batch_size}",
            expected=f"a multiple of {n_shards}, the number of processes",
            found=f"{recipe.batch_size % n_shards} left over",
            do=f"pass --set batch_size={-(-recipe.batch_size // n_shards) * n_shards}",
        )
    return LoaderSettings(
        recipe.batch_size // n_shards,
        recipe.resolution,
        "train",
        seed=seeds.order,
        augmentation=augmentation_for(recipe, seeds),
        shard=shard,
        **recipe.decoding,
    )


def train_on_bundle(
    training: Bundle,
    testing: Bundle,
    recipe: Recipe,
    options: RunOptions | None = None,
    *,
    example_ids: NDArray[np.int64] | None = None,
    loader: str = "auto",
    on_error: OnError = "fail",
    device: torch.device,
    observer: Observer | None = None,
    progress: Progress = QUIET,
) -> tuple[Trained, RunRecord]:
    """Train on a bundle or on some of its examples, and test.

    A pruned bundle and the same selection of its parent give the same run: order and
    augmentation belong to the example ids, and a pruned bundle knows the size of its full set.

    Args:
        training: Real or pruned.
        testing: With the same classes.
        recipe: What to train and how.
        options: See :class:`RunOptions`.
        example_ids: (k,) int64, train on these only.
        loader: Its backend, as in :func:`tamis.loaders.opening.open_loader`. ``auto`` streams for
            recipes with random crops, which it cuts from whole images.
        on_error: ``skip`` leaves out damaged examples; the record names them.
        device: Where to train.
        observer: Watches the training.
        progress: Told of decoding and of every step.

    Raises:
        BundleError: Classes that differ, unknown ids, or a record that does not decode.
        UsageError: An unknown loader, or another run's state to go on from.
    """
    start, options = time.perf_counter(), options or RunOptions()
    check_same_classes(training.classes, testing.classes)
    ids = training.example_ids if example_ids is None else example_ids
    options = full_options(options, training, ids)
    workers = options.extras.workers
    if workers.size > 1 and on_error == "skip":
        raise UsageError(
            "--on-error skip",
            expected="one process, which knows of all damage",
            found=f"{workers.size}",
            do="cut the damaged examples out first (tamis score --on-error skip, tamis cut)",
        )
    shard = (workers.rank, workers.size)
    if loader == "auto" and recipe.random_crop:
        loader = choose_streaming(device, recipe.resample)
    settings = loader_settings(recipe, options.seeds, shard)

    def opened(bundle: Bundle, **asked: Any) -> Loader:
        return open_loader(
            bundle, backend=loader, on_error=on_error, device=device, progress=progress,
            shard=shard, **recipe.decoding, **asked,
        )  # fmt: skip

    def train_loader(side: int) -> Loader:
        return opened(
            training,
            batch_size=settings.batch_size,
            resolution=side,
            mode="train",
            seed=settings.seed,
            augmentation=settings.augmentation,
            selection=example_ids,
        )

    grows = recipe.start_resolution not in (0, recipe.resolution)
    own = ProgressiveLoader(recipe.side, train_loader) if grows else train_loader(recipe.resolution)
    return run_training(
        own,
        opened(
            testing,
            batch_size=EVALUATION_BATCH,
            resolution=recipe.test_side,
            center_ratio=recipe.center_ratio,
        ),
        recipe,
        options,
        n_classes=max(training.n_classes, testing.n_classes),
        example_ids=ids,
        device=device,
        train_digest=training.digest,
        test_digest=testing.digest,
        setup_seconds=time.perf_counter() - start,
        observer=observer,
        progress=progress,
    )


def full_options(
    options: RunOptions, training: Bundle, example_ids: NDArray[np.int64]
) -> RunOptions:
    """Options that say how large the full set is.

    Args:
        options: Of a run.
        training: What is trained on.
        example_ids: (k,) int64, those of its examples.

    Raises:
        UsageError: A full set smaller than its part, or an id twice.
    """
    full, n_kept = options.full_examples, len(example_ids)
    if len(np.unique(example_ids)) < n_kept:
        raise UsageError(
            "selection",
            expected="each id once",
            found=f"{n_kept - len(np.unique(example_ids))} repeated",
            do="leave the repeated ones out",
        )
    if full is not None and full < n_kept:
        raise UsageError(
            "--full-examples",
            expected=f"at least the {n_kept} examples that are trained on",
            found=str(full),
            do="give the size of the set before pruning",
        )
    ancestor = training.manifest.full_examples if training.manifest else None
    return replace(options, full_examples=full or ancestor or training.n_examples)


def _without_nan(result: Evaluation) -> tuple[float | None, ...]:
    return tuple(None if value != value else value for value in result.per_class.tolist())

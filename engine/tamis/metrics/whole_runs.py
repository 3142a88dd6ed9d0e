"""Trainings on the whole set: each is watched for every metric that it can give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.hashing import derived_seed
from tamis.loaders.batch import Loader
from tamis.metrics.context import Context
from tamis.metrics.metric import Metric, Needs, Presentations, RunShape, Snapshot, Tracking
from tamis.metrics.store import Arrays
from tamis.metrics.tdds import keeps_all_classes
from tamis.metrics.watching import RunWatch, column_name, snapshots
from tamis.metrics.windows import early_part, window_length
from tamis.models.network import Network
from tamis.models.weights import weights_digest
from tamis.training.loop import Observer, Seeds

__all__ = ["WholeRuns"]


class WholeRuns:
    """Networks trained on the whole set.

    A training is kept as two results: what was read at its early epoch, and the rest. A network
    that only the early metrics need is trained no further than to the early epoch, at the rates of
    the whole schedule, so that it is the same as a whole training's at that time.

    Args:
        context: The campaign's.
        wanted: Metrics asked for.
        known: All metrics: what costs nothing more is kept for later campaigns.
    """

    def __init__(self, context: Context, wanted: Sequence[Metric], known: Sequence[Metric]) -> None:
        self._context = context
        self._early = _of(wanted, Needs.EARLY_RUNS)
        self._late = _of(wanted, Needs.FULL_RUNS)
        self._known_early = _kept(known, self._early, Needs.EARLY_RUNS)
        self._known_late = _kept(known, self._late, Needs.FULL_RUNS)
        settings = context.settings
        n_full = settings.models if self._late else 0
        n_early = 0
        if self._early:
            n_early = 1 if all(m.first_only for m in self._early) else settings.n_early
        self.full = range(n_full)
        self.early = range(n_early)
        self.early_epoch = settings.early_epochs

    def missing(self) -> tuple[list[int], list[int]]:
        """Numbers of whole trainings, and of trainings to the early epoch, that have to be run."""
        full = [number for number in self.full if self._lacks_training(number)]
        early = [
            number
            for number in self.early
            if number not in full and not self._context.store.holds(self._name("early", number))
        ]
        return full, early

    def run(self) -> None:
        """Train what is missing, and read what is missing off networks that are kept."""
        full, early = self.missing()
        for number in sorted({*full, *early}):
            self.train(number, whole=number in full, of=len(full) + len(early))
        for number in self.early:
            self._read_later("early", number, self._early)
        for number in self.full:
            self._read_later("full", number, self._late)

    def mean(self, metric: Metric) -> NDArray[np.float32]:
        """(n,) float32 mean of a metric over its networks."""
        kind, numbers = self._networks(metric)
        total = np.zeros(self._context.n_examples)
        for number in numbers:
            name = column_name(metric)
            total += self._load(kind, number, name)[name]
        return (total / len(numbers)).astype(np.float32)

    def provenance(self, metric: Metric) -> dict[str, Any]:
        """What the scores of a metric depend on."""
        recipe = self._context.settings.recipe
        kind, numbers = self._networks(metric)
        about: dict[str, Any] = {
            "models": len(numbers),
            "seed": self._context.settings.seed,
            "machine": self._context.machine(),
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "epochs": recipe.epochs,
            "networks": [str(self._load(kind, number, "network")["network"]) for number in numbers],
        }
        if kind == "early":
            about["early_epoch"] = self.early_epoch
        if isinstance(metric.reading, Tracking):
            about["window"] = window_length(recipe.epochs)
            about["early_part"] = early_part(recipe.epochs)
        if metric.name == "tdds":
            shape = (self._context.n_examples, self._context.bundle.n_classes)
            about["classes_kept"] = "all" if keeps_all_classes(*shape) else "the 16 likeliest"
        return about

    def _networks(self, metric: Metric) -> tuple[str, range]:
        """Kind and numbers of those that a metric is read off."""
        is_early = metric.needs is Needs.EARLY_RUNS
        numbers = self.early if is_early else self.full
        return "early" if is_early else "full", numbers[:1] if metric.first_only else numbers

    def _lacks_training(self, number: int) -> bool:
        kept = self._context.store.columns(self._name("full", number))
        watched = [m for m in self._late if isinstance(m.reading, Presentations | Tracking)]
        return any(column_name(m) not in kept for m in watched) or not kept

    def train(self, number: int, *, whole: bool, of: int = 1) -> None:
        """Train one, to the end or to the early epoch, and keep what it gives.

        Args:
            number: Of the network, from 0.
            whole: To the end.
            of: How many are to be trained, for whoever waits.
        """
        context = self._context
        seeds = Seeds.from_one(derived_seed(context.settings.seed, "whole", number))
        watch = self._watch(context.ids) if whole else None
        evaluation = context.evaluation()
        trained = context.train(
            seeds,
            stop_after=None if whole else self.early_epoch,
            observer=_EarlyEpoch(self, number, evaluation, watch),
            label=f"score: network {number + 1}, {of} to train",
        )
        if watch is not None:
            late = [m for m in self._known_late if isinstance(m.reading, Snapshot)]
            arrays = watch.finish() | snapshots(late, trained.model, evaluation, context.device)
            self._save("full", number, arrays, trained.model)

    def _watch(self, ids: NDArray[np.int64]) -> RunWatch:
        context = self._context
        epochs = context.settings.recipe.epochs
        shape = RunShape(len(ids), context.bundle.n_classes, epochs, context.device)
        watched = [m for m in self._known_late if not isinstance(m.reading, Snapshot)]
        return RunWatch(watched, ids, shape)

    @property
    def state_bytes(self) -> int:
        """Memory for statistics while a network trains on the whole set."""
        return self._watch(self._context.ids).state_bytes

    @property
    def bytes_of_a_run(self) -> int:
        """On disk, without networks."""
        late = 4 * self._context.n_examples * len(self._known_late)
        return late + (self.bytes_of_an_early_run if self._early else 0)

    @property
    def bytes_of_an_early_run(self) -> int:
        """On disk, without networks."""
        return 4 * self._context.n_examples * len(self._known_early)

    def keep_early(self, number: int, model: Network, evaluation: Loader) -> None:
        """Read the early metrics off a network that stands at the early epoch."""
        arrays = snapshots(self._known_early, model, evaluation, self._context.device)
        self._save("early", number, arrays, model)

    def _read_later(self, kind: str, number: int, wanted: Sequence[Metric]) -> None:
        """Metrics that were not known, or not asked for, when the network was trained."""
        kept = self._load(kind, number)
        lacking = [m for m in wanted if column_name(m) not in kept]
        if not lacking:
            return
        context = self._context
        model = context.store.load_model(self._name(kind, number), context.device)
        kept |= snapshots(lacking, model, context.evaluation(), context.device)
        context.store.save(self._name(kind, number), kept)

    def _save(self, kind: str, number: int, arrays: Arrays, model: Network) -> None:
        name = self._name(kind, number)
        self._context.store.save_model(name, model)
        digest = np.array(weights_digest(model))
        self._context.store.save(name, {**arrays, "network": digest})

    def _load(self, kind: str, number: int, *only: str) -> Arrays:
        kept = self._context.store.load(self._name(kind, number), *only)
        assert kept is not None  # after run()
        return kept

    def _name(self, kind: str, number: int) -> str:
        about = self._context.about() | {"seed": self._context.settings.seed}
        if kind == "early":
            about["early_epoch"] = self.early_epoch
        return self._context.store.name(kind, number, **about)


def _of(metrics: Sequence[Metric], needs: Needs) -> list[Metric]:
    return [metric for metric in metrics if metric.needs is needs]


def _kept(known: Sequence[Metric], wanted: Sequence[Metric], needs: Needs) -> list[Metric]:
    """Those wanted, and those that cost no further pass."""
    return [
        metric
        for metric in _of(list(dict.fromkeys([*known, *wanted])), needs)
        if metric in wanted
        or not (isinstance(metric.reading, Snapshot) and metric.reading.measure is not None)
    ]


class _EarlyEpoch:
    """Takes the early metrics at their epoch, and hands everything on to the watch."""

    def __init__(
        self, runs: WholeRuns, number: int, evaluation: Loader, watch: Observer | None
    ) -> None:
        self._runs, self._number, self._evaluation, self._watch = runs, number, evaluation, watch

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Any, logits: Any
    ) -> None:
        if self._watch is not None:
            self._watch.on_batch(epoch, example_ids, labels, logits)

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        if self._watch is not None:
            self._watch.on_epoch_end(epoch, model)
        if epoch + 1 == self._runs.early_epoch:
            self._runs.keep_early(self._number, model, self._evaluation)

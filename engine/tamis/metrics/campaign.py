"""One campaign, all scores: the fewest trainings that serve the metrics asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.opening import open_bundle
from tamis.cluster import ClusterOptions, run_on_cluster
from tamis.devices import resolve_device
from tamis.errors import BundleError, UsageError, WorkFailedError
from tamis.loaders.batch import Skipped
from tamis.metrics.acquisition import Acquisition
from tamis.metrics.context import Context
from tamis.metrics.embeddings import EmbeddingWork
from tamis.metrics.evidence import Embedded, Examples
from tamis.metrics.metric import (
    FromEmbeddings,
    FromExamples,
    FromSubsets,
    Metric,
    Needs,
    Tracking,
)
from tamis.metrics.plan import CampaignPlan, make_plan
from tamis.metrics.registry import METRICS, get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.metrics.speed import measure_speed
from tamis.metrics.store import RunStore
from tamis.metrics.subset_runs import SubsetTrainings
from tamis.metrics.whole_runs import WholeRuns
from tamis.progress import QUIET, Progress
from tamis.score_table import ScoreColumn, ScoreTable, merge_columns, unscored_table
from tamis.training.runs import check_same_classes

__all__ = ["ScoreReport", "plan_campaign", "score"]


@dataclass(frozen=True)
class ScoreReport:
    """A finished campaign.

    Attributes:
        table: The scores.
        seconds: What each kind of work took, by the name of :class:`Needs`.
        skipped: Damaged examples, which have no row in the table.
    """

    table: ScoreTable
    seconds: dict[Needs, float]
    skipped: tuple[Skipped, ...]


def score(
    bundle: Bundle,
    metrics: Sequence[Metric],
    settings: CampaignSettings,
    device: torch.device,
    *,
    test: Bundle | None = None,
    beside: ScoreTable | None = None,
    work: Path | None = None,
    cluster: ClusterOptions | None = None,
    progress: Progress = QUIET,
) -> ScoreReport:
    """Compute metrics for every example of a bundle.

    Trains what :func:`plan_campaign` says, whatever the number of metrics. Memory besides the
    loader's: some 190 bytes an example while networks train; for m subset networks 2 m bytes an
    example where they are read, and m more bits each for what they said; for embeddings n · d
    floats.

    Args:
        bundle: What is scored.
        metrics: Of :data:`tamis.metrics.registry.METRICS`.
        settings: How.
        device: Where.
        test: Examples that influence is measured on; they are never trained on.
        beside: A table that the columns are to be added to; None for a table of their own.
        work: A folder for finished networks and statistics. A campaign that was interrupted goes
            on from there, and a later one with more metrics uses them. None keeps nothing.
        progress: Told of everything.

    Raises:
        UsageError: Settings that contradict each other.
        ScoreTableError: The table to add to holds other examples.
        BundleError: A record that does not decode, or a test set with other classes or a damaged
            record; of the latter two before anything is trained.
    """
    campaign = _Campaign(bundle, metrics, settings, device, test, work, progress)
    campaign.prepare(beside)
    if test is not None:
        campaign.context.read_test_set()
    if cluster is not None:
        campaign.train_on(cluster, work)
    columns, seconds = campaign.columns()
    table = replace(unscored_table(bundle, campaign.context.positions), columns=columns)
    return ScoreReport(table, seconds, campaign.context.skipped)


def plan_campaign(
    bundle: Bundle,
    metrics: Sequence[Metric],
    settings: CampaignSettings,
    device: torch.device,
    *,
    test: Bundle | None = None,
    beside: ScoreTable | None = None,
    work: Path | None = None,
) -> CampaignPlan:
    """What :func:`score` would train, with estimates from a few measured steps.

    Raises:
        UsageError, ScoreTableError, BundleError: As :func:`score`.
    """
    campaign = _Campaign(bundle, metrics, settings, device, test, work, QUIET)
    campaign.prepare(beside)
    return campaign.plan()


@dataclass(frozen=True)
class _Training:
    """What one worker trains: a network, whole, early (to its early epoch) or on a subset, from 0;
    the encoder; or all rounds of acquisition, each of which goes on from the one before.
    """

    kind: Literal["whole", "early", "subset", "encoder", "acquisition"]
    number: int = 0

    def __str__(self) -> str:
        alone = self.kind in ("encoder", "acquisition")
        return self.kind if alone else f"{self.kind} network {self.number}"


@dataclass(frozen=True)
class _Job:
    """A campaign as another process begins it."""

    bundle: Path
    metrics: tuple[str, ...]
    settings: CampaignSettings
    device: str
    test: Path | None
    work: Path


def _open(job: _Job, threads: int) -> Callable[[_Training], None]:
    test = open_bundle(job.test) if job.test is not None else None
    campaign = _Campaign(
        open_bundle(job.bundle),
        get_metrics(list(job.metrics)),
        job.settings,
        resolve_device(job.device),
        test,
        job.work,
        QUIET,
    )
    campaign.prepare(None)
    return campaign.train


class _Campaign:
    def __init__(
        self,
        bundle: Bundle,
        metrics: Sequence[Metric],
        settings: CampaignSettings,
        device: torch.device,
        test: Bundle | None,
        work: Path | None,
        progress: Progress,
    ) -> None:
        self._metrics = metrics
        self.context = Context(bundle, test, settings, device, RunStore(work), progress)
        self._whole = WholeRuns(self.context, metrics, list(METRICS.values()))
        needed = {metric.needs for metric in metrics}
        self._subsets = self._acquisition = self._embeddings = None
        if Needs.SUBSET_RUNS in needed:
            self._subsets = SubsetTrainings(self.context, test=test is not None)
        if Needs.ROUNDS in needed:
            self._acquisition = Acquisition(self.context)
        if Needs.EMBEDDINGS in needed:
            self._embeddings = EmbeddingWork(self.context)

    def prepare(self, beside: ScoreTable | None) -> None:
        """Find what is damaged; refuse before the first training what would fail after it."""
        self._check()
        if self.context.settings.on_error == "skip":
            self.context.leave_out_damaged()
            self._check()  # what holds of all examples may not hold of fewer
        if beside is not None:
            merge_columns(beside, unscored_table(self.context.bundle, self.context.positions))

    def _check(self) -> None:
        context, settings = self.context, self.context.settings
        bundle = context.bundle
        trains = any(m.needs not in (Needs.IDS, Needs.EMBEDDINGS) for m in self._metrics)
        if trains and bundle.n_classes < 2:
            raise UsageError(
                bundle.path, expected="at least two classes", found="one", do="add the others"
            )
        self._check_test(context.test)
        for metric in self._metrics:
            reading = metric.reading
            if isinstance(reading, Tracking) and settings.recipe.epochs < reading.least_epochs:
                raise UsageError(
                    f"--metrics {metric.name}",
                    expected=f"a recipe of at least {reading.least_epochs} epochs",
                    found=str(settings.recipe.epochs),
                    do="raise them with --set epochs=…, or leave the metric out",
                )
        if self._embeddings is not None:
            self._embeddings.check(self._metrics)
        elif settings.k:
            raise UsageError(
                "--k",
                expected="a metric of embeddings, such as selfsup-prototypes",
                found=", ".join(metric.name for metric in self._metrics),
                do="leave it out",
            )
        if self._subsets is not None:
            self._subsets.check()

    def _check_test(self, test: Bundle | None) -> None:
        asking = [
            m.name for m in self._metrics if isinstance(m.reading, FromSubsets) and m.reading.test
        ]
        if asking and test is None:
            raise UsageError(
                f"--metrics {','.join(asking)}",
                expected="a test set, whose examples are influenced",
                found="none",
                do="pass --test TEST.beton, or leave them out",
            )
        if test is None:
            return
        if not asking:
            raise UsageError(
                "--test",
                expected="a metric that needs it, such as influence-max",
                found=", ".join(metric.name for metric in self._metrics),
                do="leave it out",
            )
        bundle = self.context.bundle
        check_same_classes(bundle.classes, test.classes)
        if test.n_classes > bundle.n_classes:
            raise BundleError(
                test.path,
                expected=f"the {bundle.n_classes} classes of {bundle.path}",
                found=str(test.n_classes),
                do="give the test set of this training set",
            )

    def plan(self) -> CampaignPlan:
        """See :func:`plan_campaign`."""
        context = self.context
        recipe = context.settings.recipe
        speed = measure_speed(context.bundle, recipe, context.device, context.in_memory)
        return make_plan(
            context,
            self._metrics,
            speed,
            self._whole,
            self._subsets,
            self._acquisition,
            self._embeddings,
        )

    def train_on(self, cluster: ClusterOptions, work: Path | None) -> None:
        """Have a cluster train and embed what is missing."""
        if work is None:
            raise UsageError(
                "a campaign on a cluster",
                expected="a folder for its networks, which all nodes see",
                found="none",
                do="pass one as work",
            )
        self._train_missing_on(cluster, work)
        if self._embeddings is not None:
            self._embeddings.make(cluster)

    def _train_missing_on(self, cluster: ClusterOptions, work: Path) -> None:
        context, trainings = self.context, self.missing()
        if not trainings:
            return
        test = context.test.path if context.test is not None else None
        names = tuple(metric.name for metric in self._metrics)
        device = context.device.type
        # Workers show the same pixels, whatever their own memory would have them choose.
        settings = replace(context.settings, loader=context.backend)
        job = _Job(context.bundle.path, names, settings, device, test, work.resolve())
        with context.progress.task("score: trainings on the cluster", len(trainings)) as advance:
            for training, given_up in run_on_cluster(
                partial(_open, job), trainings, cluster, use_gpus=device == "cuda"
            ):
                if given_up is not None:
                    raise WorkFailedError(
                        f"score: {training}",
                        expected="a worker that trains it",
                        found=given_up.reason,
                        do="run the same command again: what is finished is kept",
                    )
                advance()
        if left := self.missing():
            raise WorkFailedError(
                "score",
                expected="workers that compute as this machine does, in the same precision",
                found=f"others, whose {left[0]} it cannot use",
                do="call it on a machine like the workers, or give --device",
            )

    def missing(self) -> list[_Training]:
        """What has to be trained and does not need each other; what takes longest first."""
        full, early = self._whole.missing()
        whole = [_Training("whole" if n in full else "early", n) for n in sorted({*full, *early})]
        subsets = self._subsets.missing() if self._subsets is not None else []
        alone: list[_Training] = []
        if self._acquisition is not None and self._acquisition.missing():
            alone.append(_Training("acquisition"))
        if self._embeddings is not None and self._embeddings.needs_encoder():
            alone.append(_Training("encoder"))
        return alone + whole + [_Training("subset", number) for number in subsets]

    def train(self, training: _Training) -> None:
        """Train one of them."""
        if training.kind == "acquisition":
            assert self._acquisition is not None
            self._acquisition.run()
        elif training.kind == "encoder":
            assert self._embeddings is not None
            self._embeddings.train_encoder()
        elif training.kind == "subset":
            assert self._subsets is not None
            self._subsets.train(training.number)
        else:
            self._whole.train(training.number, whole=training.kind == "whole")

    def columns(self) -> tuple[dict[str, ScoreColumn], dict[Needs, float]]:
        """Name → scores in the order asked for, and seconds of each kind of work."""
        found: dict[str, ScoreColumn] = {}
        seconds: dict[Needs, float] = {}
        start = time.perf_counter()
        self._whole.run()
        both = time.perf_counter() - start  # early and full runs are trained together
        for needs, compute in (
            (Needs.IDS, self._from_examples),
            (Needs.EARLY_RUNS, self._from_whole_runs),
            (Needs.FULL_RUNS, self._from_whole_runs),
            (Needs.SUBSET_RUNS, self._from_subsets),
            (Needs.ROUNDS, self._from_rounds),
            (Needs.EMBEDDINGS, self._from_embeddings),
        ):
            metrics = [metric for metric in self._metrics if metric.needs is needs]
            if metrics:
                start = time.perf_counter()
                found |= {
                    m.name: _column(m, values, about) for m, values, about in compute(metrics)
                }
                seconds[needs] = time.perf_counter() - start
                if compute == self._from_whole_runs:
                    seconds[needs] += both
        in_order = {metric.name: found[metric.name] for metric in self._metrics}
        return in_order | found, seconds

    def _from_examples(self, metrics: Sequence[Metric]) -> Iterator[_Computed]:
        seed = self.context.settings.seed
        examples = Examples(self.context.ids, seed)
        for metric in metrics:
            assert isinstance(metric.reading, FromExamples)
            yield metric, metric.reading.read(examples), {"seed": seed}

    def _from_whole_runs(self, metrics: Sequence[Metric]) -> Iterator[_Computed]:
        for metric in metrics:
            yield metric, self._whole.mean(metric), self._whole.provenance(metric)

    def _from_subsets(self, metrics: Sequence[Metric]) -> Iterator[_Computed]:
        assert self._subsets is not None
        self._subsets.run()
        evidence, about = self._subsets.evidence(), self._subsets.provenance()
        for metric in metrics:
            assert isinstance(metric.reading, FromSubsets)
            yield metric, metric.reading.read(evidence), about

    def _from_rounds(self, metrics: Sequence[Metric]) -> Iterator[_Computed]:
        assert self._acquisition is not None
        self._acquisition.run()
        for metric in metrics:
            yield metric, self._acquisition.scores(), self._acquisition.provenance()

    def _from_embeddings(self, metrics: Sequence[Metric]) -> Iterator[_Computed]:
        assert self._embeddings is not None
        context, ks = self.context, self._embeddings.ks
        examples = Examples(context.ids, context.settings.seed)
        rows = self._embeddings.rows()
        embedded = Embedded(examples, context.labels, rows, ks[0], context.progress)
        about = self._embeddings.provenance()
        for metric in metrics:
            assert isinstance(metric.reading, FromEmbeddings)
            yield metric, metric.reading.read(embedded), about
            for k in ks[1:] if metric.name == "selfsup-prototypes" else ():
                named = replace(metric, name=f"{metric.name}-k{k}")
                yield named, metric.reading.read(replace(embedded, k=k)), about | {"k": k}


_Computed = tuple[Metric, NDArray[Any], dict[str, Any]]


def _column(metric: Metric, values: NDArray[Any], parameters: dict[str, Any]) -> ScoreColumn:
    about = {
        "metric": metric.name,
        "version": metric.version,
        "high_means": metric.high_means,
        "flipped": metric.flipped,
        "labels_used": metric.labels or _encoder_saw_labels(parameters),
        "parameters": parameters,
    }
    return ScoreColumn(np.asarray(values, np.float32), about)


def _encoder_saw_labels(parameters: dict[str, Any]) -> bool:
    """What a file of embeddings, or the encoder itself, says of its training."""
    about = parameters.get("embeddings") or {}
    return bool(about.get("encoder", about).get("labels_used"))

"""What a campaign will train, and what that will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tamis.bundles.bundle import Bundle
from tamis.loaders.opening import choose_backend
from tamis.metrics.acquisition import SHARES, Acquisition
from tamis.metrics.context import Context
from tamis.metrics.embeddings import EmbeddingWork
from tamis.metrics.metric import Metric, Needs
from tamis.metrics.registry import METRICS
from tamis.metrics.settings import CampaignSettings
from tamis.metrics.speed import Speed, measure_speed
from tamis.metrics.subset_runs import SubsetTrainings
from tamis.metrics.whole_runs import WholeRuns

__all__ = ["CampaignPlan", "PlannedWork", "cost", "make_plan", "measure_cost"]


@dataclass(frozen=True)
class PlannedWork:
    """Trainings of one kind.

    Attributes:
        kind: For people.
        n: How many.
        n_done: Of them, kept from earlier campaigns.
        trainings: What those that are missing cost, in trainings on the whole set.
        seconds: Estimate for those that are missing, with their passes over the set; None where
            nothing was measured.
    """

    kind: str
    n: int
    n_done: int
    trainings: float
    seconds: float | None

    @property
    def missing(self) -> int:
        """How many have to be done."""
        return self.n - self.n_done


@dataclass(frozen=True)
class CampaignPlan:
    """A campaign before it starts.

    Attributes:
        work: What has to be trained.
        trainings: Sum of the missing work, in trainings on the whole set.
        seconds: Estimate of the whole, decoding and compiling included, without what is not
            estimated.
        not_estimated: Metrics whose reading is not in it: clusters, neighbours and gradients, which
            need no training but may take minutes.
        state_bytes: Memory for statistics while a network trains, besides images and network.
        disk_bytes: What missing work adds to the folder of the campaign, without networks, and
            without embeddings of an encoder whose width is not known before it is loaded.
    """

    work: tuple[PlannedWork, ...]
    trainings: float
    seconds: float
    not_estimated: tuple[str, ...]
    state_bytes: int
    disk_bytes: int


def make_plan(
    context: Context,
    metrics: Sequence[Metric],
    speed: Speed,
    whole: WholeRuns,
    subsets: SubsetTrainings | None,
    acquisition: Acquisition | None,
    embeddings: EmbeddingWork | None,
) -> CampaignPlan:
    """Count what is missing, and estimate it."""
    n = context.n_examples
    one = _Seconds(n, context.settings, speed)
    work = _whole_work(context, one, whole)
    full, early = whole.missing()
    disk = whole.bytes_of_a_run * len(full) + whole.bytes_of_an_early_run * len(early)
    if subsets is not None:
        work.append(_subset_work(context, one, subsets))
        disk += subsets.bytes_of_a_run * work[-1].missing
    if acquisition is not None:
        work.append(_acquisition_work(one, acquisition))
        disk += 4 * n * work[-1].missing
    if embeddings is not None:
        work.append(_embedding_work(context, one, embeddings))
        disk += embeddings.bytes_of_selfsup * work[-1].missing
    decoding = speed.decode * n if speed.in_memory and any(part.missing for part in work) else 0.0
    compiling = speed.compiling if any(part.trainings for part in work) else 0.0
    return CampaignPlan(
        tuple(part for part in work if part.n),
        sum(part.trainings for part in work),
        decoding + compiling + sum(part.seconds or 0.0 for part in work),
        tuple(metric.name for metric in metrics if metric.reading_takes_long),
        whole.state_bytes if whole.full else 0,
        disk,
    )


class _Seconds:
    """Estimates for one network of each kind, its passes over the set included."""

    def __init__(self, n_examples: int, settings: CampaignSettings, speed: Speed) -> None:
        self._n, self._settings, self._speed = n_examples, settings, speed

    def whole(self) -> float:
        return self._train(1.0) + 2 * self._speed.inference(self._n)

    def early(self) -> float:
        return self._train(1.0, self._settings.early_epochs) + self._speed.inference(self._n)

    def subset(self, n_test: int) -> float:
        share = self._settings.subset_share
        asked = round((2 - share) * self._n) + n_test
        return self._train(share) + self._speed.inference(asked)

    def round(self, share: float, members: int) -> float:
        return self._train(share) + members * self._speed.inference(round((1 - share) * self._n))

    def encoder(self) -> float | None:
        """None where the encoder's network is not the recipe's.

        At the speed of the recipe's steps; on a GPU, where those are compiled, it takes longer.
        """
        settings = self._settings
        if settings.encoder == "pixels" or settings.encoder.startswith("npy:"):
            return 0.0
        if settings.encoder != "selfsup":
            return None
        views = 2 * self._n * settings.selfsup.epochs
        steps = views / settings.recipe.batch_size
        return steps * self._speed.step + self._speed.inference(self._n)

    def _train(self, share: float, epochs: int | None = None) -> float:
        recipe = self._settings.recipe
        return self._speed.training(round(share * self._n), recipe, epochs or recipe.epochs)


def _whole_work(context: Context, one: _Seconds, whole: WholeRuns) -> list[PlannedWork]:
    settings = context.settings
    full, early = whole.missing()
    n_full = len(whole.full)
    # A whole training that was kept may lack another early epoch.
    n_early = len({*whole.early} - {*whole.full} | {*early})
    early_epoch, epochs = settings.early_epochs, settings.recipe.epochs
    part = early_epoch / epochs
    return [
        PlannedWork(
            "on the whole set",
            n_full,
            n_full - len(full),
            float(len(full)),
            len(full) * one.whole(),
        ),
        PlannedWork(
            f"on the whole set, to epoch {early_epoch} of {epochs}",
            n_early,
            n_early - len(early),
            part * len(early),
            len(early) * one.early(),
        ),
    ]


def _subset_work(context: Context, one: _Seconds, subsets: SubsetTrainings) -> PlannedWork:
    share, n = context.settings.subset_share, len(subsets.numbers)
    missing = len(subsets.missing())
    n_test = context.test.n_examples if context.test is not None else 0
    return PlannedWork(
        f"on random {100 * share:.0f} %",
        n,
        n - missing,
        share * missing,
        missing * one.subset(n_test),
    )


def _acquisition_work(one: _Seconds, acquisition: Acquisition) -> PlannedWork:
    shares = [SHARES[number] for number in acquisition.missing()]
    n = len(acquisition.rounds)
    seconds = sum(one.round(share, acquisition.n_members) for share in shares)
    return PlannedWork("on a subset that grows", n, n - len(shares), sum(shares), seconds)


def _embedding_work(context: Context, one: _Seconds, embeddings: EmbeddingWork) -> PlannedWork:
    done = embeddings.are_there()
    seconds = 0.0 if done else one.encoder()
    return PlannedWork(f"encoder {context.settings.encoder}", 1, int(done), 0.0, seconds)


def cost(metric: Metric, settings: CampaignSettings) -> float:
    """What a metric costs alone, in trainings on the whole set; of encoders 0."""
    early = settings.early_epochs / settings.recipe.epochs
    return {
        Needs.IDS: 0.0,
        Needs.EARLY_RUNS: early * (1 if metric.first_only else settings.n_early),
        Needs.FULL_RUNS: float(settings.models),
        Needs.SUBSET_RUNS: settings.subset_models * settings.subset_share,
        Needs.ROUNDS: float(sum(SHARES[:-1])),
        Needs.EMBEDDINGS: 0.0,
    }[metric.needs]


def measure_cost(
    bundle: Bundle, settings: CampaignSettings, device: torch.device
) -> dict[str, float | None]:
    """Metric name → seconds that it would take alone, without decoding and compiling.

    Takes a second or two, and what compiling takes.

    None where an encoder's network was not measured.
    """
    n, recipe = bundle.n_examples, settings.recipe
    in_memory = choose_backend(n, recipe.resolution, device, recipe.resample) == "memory"
    one = _Seconds(n, settings, measure_speed(bundle, recipe, device, in_memory))
    members = (recipe.epochs + 1) // 2
    by_needs: dict[Needs, float | None] = {
        Needs.IDS: 0.0,
        Needs.FULL_RUNS: settings.models * one.whole(),
        Needs.SUBSET_RUNS: settings.subset_models * one.subset(0),
        Needs.ROUNDS: sum(one.round(share, members) for share in SHARES[:-1]),
        Needs.EMBEDDINGS: one.encoder(),
    }
    return {
        name: (1 if metric.first_only else settings.n_early) * one.early()
        if metric.needs is Needs.EARLY_RUNS
        else by_needs[metric.needs]
        for name, metric in METRICS.items()
    }

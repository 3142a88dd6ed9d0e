"""What a metric is: what it says, what it needs, and how it is read off what was computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.inference import Outputs
from tamis.loaders.batch import Batch
from tamis.models.network import Network
from tamis_kernels import RowScores, Statistics

if TYPE_CHECKING:
    from tamis.metrics.evidence import Embedded, Examples, SubsetRuns

__all__ = [
    "FromEmbeddings",
    "FromExamples",
    "FromRounds",
    "FromSubsets",
    "Metric",
    "Needs",
    "Presentations",
    "Reading",
    "RunShape",
    "Snapshot",
    "Tracker",
    "Tracking",
]


class Needs(Enum):
    """What a metric is computed from; the value is for people."""

    IDS = "nothing but the example ids"
    EARLY_RUNS = "the first epochs of trainings"
    FULL_RUNS = "trainings on the whole set"
    SUBSET_RUNS = "trainings on random subsets"
    ROUNDS = "rounds of training and acquisition"
    EMBEDDINGS = "embeddings of an encoder"


@dataclass(frozen=True)
class RunShape:
    """What a tracker has to know of the training that it will watch.

    Attributes:
        n_examples: Of the set; positions count from 0.
        n_classes: Outputs of the network.
        epochs: Of the whole training.
        device: Where logits lie, and so the tracker's state.
    """

    n_examples: int
    n_classes: int
    epochs: int
    device: torch.device


class Tracker(Protocol):
    """Watches one training, in memory that does not grow with its epochs."""

    def on_batch(self, epoch: int, at: Tensor, logits: Tensor, scores: RowScores) -> None:
        """Take in one batch as it is trained on.

        Args:
            epoch: From 0.
            at: (b,) int64 positions of the examples, each once an epoch.
            logits: (b, n_classes) float32.
            scores: Of these logits.
        """

    def on_epoch_end(self, epoch: int) -> None:
        """All examples have been shown."""

    def finish(self) -> dict[str, Tensor]:
        """Metric name → (n,) float32, high = hard."""

    @property
    def state_bytes(self) -> int:
        """Memory that it holds."""


@dataclass(frozen=True)
class Presentations:
    """Read off the counters and moments of all presentations of one training.

    Attributes:
        read: (statistics, epochs) → (n,) floats, high = hard.
        tracked: Quantities whose moments have to be kept.
    """

    read: Callable[[Statistics, int], NDArray[Any]]
    tracked: tuple[str, ...] = ()
    needs: Needs = Needs.FULL_RUNS


@dataclass(frozen=True)
class Tracking:
    """Read off a tracker that watches one training; metrics may share one.

    Attributes:
        tracker: Makes it.
        least_epochs: That a training must have for the metric to be defined.
    """

    tracker: Callable[[RunShape], Tracker]
    least_epochs: int = 1
    needs: Needs = Needs.FULL_RUNS


@dataclass(frozen=True)
class Snapshot:
    """Read off a network without augmentation and dropout, batch by batch.

    Attributes:
        when: ``early``: after the campaign's early epoch; ``end``: after the last one.
        read: (outputs, their row scores) → (b,) floats, high = hard; or None with ``measure``.
        measure: (network, batch) → (b,) floats; for what needs more than one forward pass. Only
            computed when asked for.
        first_only: The first network alone instead of the mean over all.
    """

    when: Literal["early", "end"]
    read: Callable[[Outputs, RowScores], Tensor] | None = None
    measure: Callable[[Network, Batch], Tensor] | None = None
    first_only: bool = False

    @property
    def needs(self) -> Needs:
        """Early snapshots do without the rest of the training."""
        return Needs.EARLY_RUNS if self.when == "early" else Needs.FULL_RUNS


@dataclass(frozen=True)
class FromSubsets:
    """Read off trainings on random subsets.

    Attributes:
        read: → (n,) floats, high = hard.
        test: Whether a test set is needed.
    """

    read: Callable[[SubsetRuns], NDArray[Any]]
    test: bool = False
    needs: Needs = Needs.SUBSET_RUNS


@dataclass(frozen=True)
class FromEmbeddings:
    """Read off embeddings.

    Attributes:
        read: → (n,) floats, high = hard.
        takes_long: Clusters or neighbours, of O(n · k) and more, rather than means.
    """

    read: Callable[[Embedded], NDArray[Any]]
    takes_long: bool = False
    needs: Needs = Needs.EMBEDDINGS


@dataclass(frozen=True)
class FromExamples:
    """Needs nothing but the examples' ids and the seed.

    Attributes:
        read: → (n,) floats.
    """

    read: Callable[[Examples], NDArray[Any]]
    needs: Needs = Needs.IDS


@dataclass(frozen=True)
class FromRounds:
    """The order in which an ensemble acquires examples; see ``acquisition``."""

    needs: Needs = Needs.ROUNDS


Reading = (
    Presentations | Tracking | Snapshot | FromSubsets | FromEmbeddings | FromExamples | FromRounds
)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in ``--metrics`` and in score tables.
        high_means: What a high stored score says of an example.
        labels: Whether an example's own label enters its score, other than by training networks.
        reading: From what it is computed, and how.
        source: Paper and formula.
        flipped: Whether the paper's quantity was negated so that high is hard.
        version: Raised when the same input would give other scores.
    """

    name: str
    high_means: str
    labels: bool
    reading: Reading
    source: str
    flipped: bool = False
    version: int = 1

    @property
    def needs(self) -> Needs:
        """What it is computed from."""
        return self.reading.needs

    @property
    def reading_takes_long(self) -> bool:
        """Whether it takes more than a pass over the examples once networks are trained."""
        reading = self.reading
        if isinstance(reading, FromEmbeddings):
            return reading.takes_long
        return isinstance(reading, Snapshot) and reading.measure is not None

    @property
    def first_only(self) -> bool:
        """Whether it is read off the first network alone."""
        return isinstance(self.reading, Snapshot) and self.reading.first_only

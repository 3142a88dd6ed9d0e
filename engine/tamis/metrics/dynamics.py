"""Metrics that come from watching training runs, in O(N) memory.

Forgetting is counted on the batches as they are trained on (Toneva et al. 2019: between
consecutive presentations); EL2N, loss, margin and entropy come from passes over the whole set in
evaluation mode without augmentation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.arrays import to_numpy
from tamis.inference import Outputs, infer
from tamis.loaders.batch import Loader
from tamis.models.small_resnet import SmallResNet
from tamis_kernels import Statistics, new_statistics, row_scores, score_and_update

__all__ = ["DynamicsScores", "RunDynamics", "forgetting_scores"]


class RunDynamics:
    """Watches one run (an :class:`tamis.training.loop.Observer`).

    Args:
        example_ids: (n,) int64 ids of the set, in its order.
        evaluation: The same set in its order, without augmentation.
        early_epoch: EL2N is taken after this many epochs; None leaves it out.
        device: Where the network runs.
    """

    def __init__(
        self,
        example_ids: NDArray[np.int64],
        evaluation: Loader,
        early_epoch: int | None,
        device: torch.device,
    ) -> None:
        self._sorter = np.argsort(example_ids, kind="stable")
        self._sorted_ids = example_ids[self._sorter]
        self._evaluation, self._early_epoch, self._device = evaluation, early_epoch, device
        self._statistics: Statistics | None = None
        self._n_epochs, self._epoch = 0, -1
        self.el2n: NDArray[np.float64] | None = None

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """Count forgetting on the logits as trained on."""
        if self._statistics is None:
            self._statistics = new_statistics(len(self._sorter), tracked=(), like=logits)
        if epoch != self._epoch:
            self._statistics.begin_epoch(epoch)
            self._epoch = epoch
        positions = self._sorter[np.searchsorted(self._sorted_ids, example_ids)]
        at = torch.from_numpy(positions).to(logits.device)
        score_and_update(logits.detach(), labels, self._statistics, at)

    def on_epoch_end(self, epoch: int, model: SmallResNet) -> None:
        """Take EL2N at the early epoch."""
        self._n_epochs = epoch + 1
        if self._n_epochs == self._early_epoch:
            scores = [row_scores(o.logits, o.labels).el2n for o in self._passes(model)]
            self.el2n = np.concatenate(scores).astype(np.float64)

    def finish(self, model: SmallResNet) -> dict[str, NDArray[np.float64]]:
        """All metrics of this run, (n,) float64 each, high = hard."""
        final = [row_scores(o.logits, o.labels) for o in self._passes(model)]
        scores = {
            "loss": np.concatenate([part.loss for part in final]).astype(np.float64),
            "margin": -np.concatenate([part.margin for part in final]).astype(np.float64),
            "entropy": np.concatenate([part.entropy for part in final]).astype(np.float64),
        }
        if self._statistics is not None:
            scores["forgetting"] = forgetting_scores(self._statistics, self._n_epochs)
        if self.el2n is not None:
            scores["el2n"] = self.el2n
        return scores

    def _passes(self, model: SmallResNet) -> Iterator[Outputs]:
        return infer(model, self._evaluation, self._device)


def forgetting_scores(statistics: Statistics, n_epochs: int) -> NDArray[np.float64]:
    """(n,) forgetting events; one never right counts ``n_epochs``, as the hardest."""
    learned = to_numpy(statistics.first_learned) >= 0
    return np.where(learned, to_numpy(statistics.forgetting), n_epochs).astype(np.float64)


class DynamicsScores:
    """Means of the metrics over several runs; 8 bytes an example and metric."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self.n_runs = 0

    def add(self, scores: dict[str, NDArray[np.float64]]) -> None:
        """Take the metrics of one run."""
        self.n_runs += 1
        for name, values in scores.items():
            self._sums[name] = self._sums.get(name, 0.0) + values

    def mean(self, name: str) -> NDArray[np.float32]:
        """(n,) float32 mean over the runs."""
        return (self._sums[name] / self.n_runs).astype(np.float32)

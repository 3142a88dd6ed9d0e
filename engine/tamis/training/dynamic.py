"""Pruning while training: each epoch leaves out some of what is learned already.

InfoBatch (Qin et al. 2024, arXiv:2303.04947): an example whose last loss lies below the mean is
left out of an epoch with probability r; if it is shown, its gradient counts 1 / (1 − r) times, so
that the expected gradient is that of the whole set. The last eighth of the epochs shows everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.errors import UsageError
from tamis.hashing import example_uniform
from tamis.training.workers import Workers

__all__ = ["DynamicPruning", "check_ratio"]

_WHOLE_FROM = 0.875  # share of the epochs


def check_ratio(ratio: float) -> None:
    """Refuse a ratio out of range.

    Raises:
        UsageError: It is.
    """
    if not 0 <= ratio < 1:
        raise UsageError(
            "--dynamic",
            expected="0 ≤ ratio < 1, the chance that an easy example is left out of an epoch",
            found=f"{ratio:g}",
            do="InfoBatch takes 0.5",
        )


class DynamicPruning:
    """Which examples an epoch shows, and how much each counts.

    State: 4 bytes an example.

    Args:
        example_ids: (n,) int64, distinct, of the training set.
        ratio: r, 0 ≤ r < 1.
        seed: Of the draws; they belong to (seed, epoch, example id).
        device: Where losses are kept.
        workers: Processes that train together; each knows the losses of its own examples.

    Raises:
        UsageError: A ratio out of range.
    """

    def __init__(
        self,
        example_ids: NDArray[np.int64],
        ratio: float,
        seed: int,
        device: torch.device,
        workers: Workers | None = None,
    ) -> None:
        check_ratio(ratio)
        self._ids = np.sort(example_ids)
        self._ratio, self._seed, self._workers = ratio, seed, workers or Workers()
        # Not yet shown: as hard as can be, so that the first epoch is whole.
        self._losses = torch.full((len(example_ids),), torch.inf, device=device)
        self._fresh = torch.zeros(len(example_ids), dtype=torch.bool, device=device)
        self._weights = torch.ones(len(example_ids), device=device)

    def begin(self, epoch: int, epochs: float) -> NDArray[np.int64] | None:
        """Choose what an epoch shows.

        Args:
            epoch: From 0.
            epochs: Of the whole training.

        Returns:
            Ids, or None for all. The same in every process.
        """
        self._share()
        self._weights.fill_(1.0)
        if epoch == 0 or epoch >= _WHOLE_FROM * epochs or not self._ratio:
            return None
        # Of what was never shown, as damaged examples, the loss stays infinite.
        known = torch.isfinite(self._losses)
        easy = self._losses < self._losses[known].mean()
        self._weights[easy] = 1 / (1 - self._ratio)
        return self.shown(epoch)

    def shown(self, epoch: int) -> NDArray[np.int64] | None:
        """What :meth:`begin` chose for an epoch that is under way."""
        easy = (self._weights > 1).cpu().numpy()
        if not easy.any():
            return None
        drawn = example_uniform(self._ids, self._seed, "dynamic", epoch) < self._ratio
        return self._ids[~(easy & drawn)]  # never empty: something lies above the mean

    def weighted(self, example_ids: NDArray[np.int64], losses: Tensor) -> Tensor:
        """Note the losses of a batch, and return them as they are to count.

        Args:
            example_ids: (b,) int64.
            losses: (b,) float32 on the device.
        """
        at = torch.from_numpy(np.searchsorted(self._ids, example_ids))
        at = at.to(losses.device, non_blocking=True)
        self._losses[at] = losses.detach()
        self._fresh[at] = True
        return losses * self._weights[at]

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints; called in all processes."""
        self._share()
        return {"losses": self._losses, "weights": self._weights, "fresh": self._fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave, of the same examples."""
        self._losses.copy_(state["losses"])
        self._weights.copy_(state["weights"])
        self._fresh.copy_(state["fresh"])

    def _share(self) -> None:
        """Learn of the losses that other processes met in the epoch before."""
        if self._workers.size > 1:
            met = self._workers.sum(self._fresh.float())
            total = self._workers.sum(torch.where(self._fresh, self._losses, 0.0))
            self._losses = torch.where(met > 0, total / met.clamp(min=1), self._losses)
        self._fresh.zero_()

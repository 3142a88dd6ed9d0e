"""Giving a hopeless training up: the rule, and who applies it.

A training is judged once, by its own accuracy and by nothing else, so that what becomes of it does
not depend on other runs. One that goes on ends with the weights that it would have had without the
rule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.models.network import Network
from tamis.training.energy import energy_joules
from tamis.training.loop import Observer

__all__ = ["EarlyStop", "HopelessError", "Judge"]


@dataclass(frozen=True)
class EarlyStop:
    """Which trainings are hopeless.

    Attributes:
        after: Share of the epochs after which a training is judged, at the end of an epoch.
        below: Accuracy on the test set; a training that has less by then is given up.
    """

    after: float
    below: float

    def epoch(self, n_epochs: float) -> int:
        """After how many epochs of all a training is judged; never if there are no more."""
        return math.ceil(round(self.after * n_epochs, 9))  # shares are to give back whole epochs


class HopelessError(Exception):
    """Ends a training that is given up; nothing went wrong.

    Attributes:
        accuracy: Share of the test set at that point.
        epochs: That it had had by then.
    """

    def __init__(self, accuracy: float, epochs: int) -> None:
        super().__init__(f"accuracy {accuracy:.4f} after {epochs} epochs")
        self.accuracy, self.epochs = accuracy, epochs


class Judge:
    """Watches a training (:class:`tamis.training.loop.Observer`) and ends it where it is hopeless.

    Attributes:
        seconds: That judging took, of those of the training loop.
        joules: The same of its energy.

    Args:
        rule: What hopeless is.
        n_epochs: Of the whole training; the last one may be a part.
        accuracy: The network as it is → its share of the test set. Of recipes that average
            weights it is that of the weights that are trained.
        device: Whose energy is counted.
        watching: Told of everything before.
    """

    def __init__(
        self,
        rule: EarlyStop,
        n_epochs: float,
        accuracy: Callable[[Network], float],
        device: torch.device,
        watching: Observer | None = None,
    ) -> None:
        self._rule, self._accuracy, self._device = rule, accuracy, device
        due = rule.epoch(n_epochs)
        self._due = due if due < n_epochs else None  # at the end nothing would be saved
        self._watching = watching
        self.seconds, self.joules = 0.0, 0.0

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """Nothing of its own: what is judged is the network."""
        if self._watching is not None:
            self._watching.on_batch(epoch, example_ids, labels, logits)

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        """Judge, if it is time.

        Raises:
            HopelessError: The accuracy is below the rule's.
        """
        if self._watching is not None:
            self._watching.on_epoch_end(epoch, model)
        if epoch + 1 != self._due:
            return
        before, start = energy_joules(self._device), time.perf_counter()
        accuracy = self._accuracy(model)
        self.seconds = time.perf_counter() - start
        after = energy_joules(self._device)
        if before is not None and after is not None:
            self.joules = after - before
        if accuracy < self._rule.below:
            raise HopelessError(accuracy, epoch + 1)

"""Metrics of how p(label) wavers within windows of epochs: dynamic uncertainty and DUAL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tamis.metrics.metric import Metric, RunShape, Tracking
from tamis_kernels import RowScores

__all__ = ["LEAST_EPOCHS", "METRICS", "WindowTracker", "early_part", "window_length"]

LEAST_EPOCHS = 5  # three epochs in a window that ends in the first half
_CHUNK = 1 << 16  # examples whose windows are looked at together, so that temporaries stay small


def early_part(epochs: int) -> int:
    """T, the epochs that DUAL and TDDS look at: half of them.

    Both were proposed for a part of the training (30 of 200 epochs on CIFAR, 60 of 90 on
    ImageNet), because later windows of a converged network say little.
    """
    return math.ceil(epochs / 2)


def window_length(epochs: int) -> int:
    """J, the epochs of a window: 10 as in the papers, fewer where T has no room for ten of them."""
    return max(3, min(10, early_part(epochs) // 2 + 1))


class WindowTracker:
    """Keeps the last J probabilities of the label: 4·J + 8 bytes an example.

    Dynamic uncertainty (He et al. 2024, arXiv:2306.05175, eqs. 1–2) is the mean over all windows
    of J consecutive epochs of the standard deviation of p_y (with J − 1 degrees of freedom). DUAL
    (Cho et al. 2025, arXiv:2502.06905, eq. 4) is the mean over the windows within the first T
    epochs of standard deviation × (1 − mean of p_y).

    Args:
        shape: Of the training, of at least :data:`LEAST_EPOCHS` epochs.
    """

    def __init__(self, shape: RunShape) -> None:
        self._window, self._early = window_length(shape.epochs), early_part(shape.epochs)
        n, device = shape.n_examples, shape.device
        self._ring = torch.zeros((self._window, n), dtype=torch.float32, device=device)
        self._uncertainty = torch.zeros(n, dtype=torch.float32, device=device)
        self._dual = torch.zeros(n, dtype=torch.float32, device=device)
        self._n_windows = self._n_early = 0

    def on_batch(self, epoch: int, at: Tensor, logits: Tensor, scores: RowScores) -> None:
        """Keep p(label)."""
        self._ring[epoch % self._window, at] = scores.p_label

    def on_epoch_end(self, epoch: int) -> None:
        """Look at the window that ends here."""
        if epoch + 1 < self._window:
            return
        self._n_windows += 1
        early = epoch < self._early
        self._n_early += early
        for start in range(0, self._ring.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            deviation, mean = torch.std_mean(self._ring[:, part], dim=0)
            self._uncertainty[part] += deviation
            if early:
                self._dual[part] += deviation * (1 - mean)

    def finish(self) -> dict[str, Tensor]:
        """Means over the windows."""
        return {
            "dynamic-uncertainty": self._uncertainty / self._n_windows,
            "dual": self._dual / self._n_early,
        }

    @property
    def state_bytes(self) -> int:
        """Memory that it holds."""
        return sum(int(part.nbytes) for part in (self._ring, self._uncertainty, self._dual))


METRICS = (
    Metric(
        "dynamic-uncertainty",
        "p(label) wavers throughout training",
        labels=True,
        reading=Tracking(WindowTracker, LEAST_EPOCHS),
        source="mean over windows of epochs of the standard deviation of p_y; He et al. 2024,"
        " arXiv:2306.05175",
    ),
    Metric(
        "dual",
        "p(label) wavers and is low in the first half of training",
        labels=True,
        reading=Tracking(WindowTracker, LEAST_EPOCHS),
        source="mean over early windows of std(p_y)·(1 − mean(p_y)); Cho et al. 2025,"
        " arXiv:2502.06905",
    ),
)

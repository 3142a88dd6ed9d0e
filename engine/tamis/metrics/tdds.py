"""TDDS: how unsteadily the predicted distribution moves from epoch to epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis.metrics.metric import Metric, RunShape, Tracking
from tamis.metrics.windows import LEAST_EPOCHS, early_part, window_length
from tamis_kernels import RowScores

__all__ = ["METRICS", "TDDSTracker", "keeps_all_classes"]

_EPSILON = 1e-8  # added to probabilities in logarithms, as the authors' code does
_DECAY = 0.9
_WHOLE_BYTES = 256_000_000  # of the last epoch's distributions, if all probabilities are kept
_TOP = 16  # probabilities that are kept otherwise: 64 bytes an example


class TDDSTracker:
    """Temporal dual-depth scoring (Zhang et al. 2024, arXiv:2311.13613) with bounded state.

    Of two consecutive epochs, K_t = Σ_c |p_t+1,c · (log p_t+1,c − log p_t,c)|. In each window of J
    epochs the J − 1 values K give ‖K − mean(K)‖₂; windows within the first T epochs are added up
    with weights 0.9 · 0.1^(age), the last window's age being 0.

    The last epoch's distributions are kept whole where they take no more than 256 MB (CIFAR-100:
    20 MB). Otherwise their 16 largest probabilities are, and what is left of 1 counts as spread
    over the other classes, which is an approximation: on random walks of 100 logits its scores'
    rank correlation with the exact ones is 0.94, of 1,000 logits 0.65 to 0.86, lower the flatter
    the distributions. What was done stands in the column's metadata.

    Args:
        shape: Of the training, of at least :data:`tamis.metrics.windows.LEAST_EPOCHS` epochs.
    """

    def __init__(self, shape: RunShape) -> None:
        self._shape = shape
        self._window, self._early = window_length(shape.epochs), early_part(shape.epochs)
        self._last = _Distributions(shape)
        n, device = shape.n_examples, shape.device
        self._moves = torch.zeros((self._window - 1, n), dtype=torch.float32, device=device)
        self._score = torch.zeros(n, dtype=torch.float32, device=device)

    def on_batch(self, epoch: int, at: Tensor, logits: Tensor, scores: RowScores) -> None:
        """Compare with the epoch before."""
        if epoch >= self._early:
            return
        now = torch.softmax(logits, dim=1)
        if epoch:
            ratio = torch.log(now + _EPSILON) - self._last.logs(at)
            self._moves[(epoch - 1) % len(self._moves), at] = (now * ratio).abs().sum(dim=1)
        self._last.set(at, now)

    def on_epoch_end(self, epoch: int) -> None:
        """Look at the window that ends here."""
        if epoch + 1 >= self._window and epoch < self._early:
            away = self._moves - self._moves.mean(dim=0)
            self._score *= 1 - _DECAY
            self._score += _DECAY * torch.linalg.vector_norm(away, dim=0)

    def finish(self) -> dict[str, Tensor]:
        """The weighted sum over windows."""
        return {"tdds": self._score}

    @property
    def state_bytes(self) -> int:
        """Memory that it holds."""
        return int(self._moves.nbytes + self._score.nbytes) + self._last.nbytes


def keeps_all_classes(n_examples: int, n_classes: int) -> bool:
    """Whether whole distributions of all examples take no more than 256 MB."""
    return n_classes <= _TOP or 4 * n_examples * n_classes <= _WHOLE_BYTES


class _Distributions:
    """The last distribution of each example, as logarithms."""

    def __init__(self, shape: RunShape) -> None:
        self._n_classes = shape.n_classes
        self._whole = keeps_all_classes(shape.n_examples, shape.n_classes)
        width = shape.n_classes if self._whole else _TOP
        # In float16, of a probability near 1 the logarithm still has its three digits; of a small
        # one they weigh little.
        dtype = torch.float32 if self._whole else torch.float16
        size = (shape.n_examples, width)
        self._logs = torch.zeros(size, dtype=dtype, device=shape.device)
        if not self._whole:
            fits = shape.n_classes <= torch.iinfo(torch.int16).max
            self._classes = torch.zeros(
                size, dtype=torch.int16 if fits else torch.int32, device=shape.device
            )

    @property
    def nbytes(self) -> int:
        return int(self._logs.nbytes + (0 if self._whole else self._classes.nbytes))

    def set(self, at: Tensor, rows: Tensor) -> None:
        """Keep (b, n_classes) probabilities."""
        if not self._whole:
            rows, classes = rows.topk(_TOP, dim=1)
            self._classes[at] = classes.to(self._classes.dtype)
        self._logs[at] = torch.log(rows + _EPSILON).to(self._logs.dtype)

    def logs(self, at: Tensor) -> Tensor:
        """(b, n_classes) float32, log(p + ε)."""
        logs = self._logs[at].float()
        if self._whole:
            return logs
        kept = logs.exp().sum(dim=1, keepdim=True)
        rest = (1 - kept).clamp(min=0) / (self._n_classes - _TOP)
        rows = torch.log(rest + _EPSILON).expand(-1, self._n_classes).contiguous()
        return rows.scatter_(1, self._classes[at].long(), logs)


METRICS = (
    Metric(
        "tdds",
        "the prediction moves unsteadily in the first half of training",
        labels=False,
        reading=Tracking(TDDSTracker, LEAST_EPOCHS),
        source="weighted sum over windows of how far the epochs' KL terms stray from their mean;"
        " Zhang et al. 2024, arXiv:2311.13613; labels only train the networks",
    ),
)

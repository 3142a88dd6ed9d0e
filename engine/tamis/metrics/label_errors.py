"""Label errors, by networks that were not trained on the example (confident learning)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.metrics.evidence import SubsetRuns
from tamis.metrics.metric import FromSubsets, Metric

__all__ = ["METRICS", "class_thresholds", "confident_elsewhere", "label_doubt"]


def class_thresholds(p_label: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """t_j, the mean probability of class j over the held-out examples labelled j.

    Args:
        p_label: (h,) float32, probability of the own label.
        labels: (h,) int64.
        n_classes: C.

    Returns:
        (C,) float32; infinity for a class without examples, which nothing then exceeds.
    """
    zeros = torch.zeros(n_classes, dtype=torch.float64, device=labels.device)
    sums = zeros.index_add(0, labels, p_label.double())
    counts = zeros.index_add(0, labels, torch.ones_like(p_label, dtype=torch.float64))
    return torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf).float()


def confident_elsewhere(p: Tensor, labels: Tensor, thresholds: Tensor) -> Tensor:
    """Whether an example counts off the diagonal of the confident joint.

    Of the classes whose probability reaches their threshold, the most probable one is not the
    label (Northcutt et al. 2021, arXiv:1911.00068, eq. 1).

    Args:
        p: (b, C) float32 held-out probabilities.
        labels: (b,) int64.
        thresholds: (C,) of :func:`class_thresholds`.

    Returns:
        (b,) bool.
    """
    reached = torch.where(p >= thresholds, p, -1.0)
    best, where = reached.max(dim=1)
    return (best >= 0) & (where != labels)


def label_doubt(p: Tensor, labels: Tensor, thresholds: Tensor) -> Tensor:
    """max over other classes j of (p_j − t_j), less (p_y − t_y); (b,) float32.

    The margin of probabilities that are adjusted for how sure the network is of each class on
    the whole (Northcutt et al. 2021, §3.2).
    """
    above = p - torch.where(torch.isinf(thresholds), 1.0, thresholds)
    own = above.gather(1, labels[:, None])
    others = above.scatter(1, labels[:, None], -torch.inf)
    return others.max(dim=1).values - own[:, 0]


def _share_flagged(runs: SubsetRuns) -> NDArray[Any]:
    held_out = len(runs.masks) - runs.masks.sum(axis=0, dtype=np.int64)
    flagged: NDArray[Any] = runs.flags.sum(axis=0, dtype=np.int64) / held_out
    return flagged


_PAPER = "Northcutt et al. 2021, arXiv:1911.00068"

METRICS = (
    Metric(
        "label-errors",
        "networks that did not see it are confident of another class",
        labels=True,
        reading=FromSubsets(_share_flagged),
        source="share of the held-out networks in whose confident joint it lies off the diagonal;"
        f" 0.5 or more: flagged; {_PAPER}",
    ),
    Metric(
        "label-doubt",
        "networks that did not see it prefer another class",
        labels=True,
        reading=FromSubsets(lambda runs: runs.held_out_doubt),
        source="mean over held-out networks of max_j≠y (p_j − t_j) − (p_y − t_y), t the mean"
        f" self-confidence of a class: a finer ranking than label-errors; cf. {_PAPER}",
    ),
)

"""Metrics counted over all presentations of a training, on the logits as they are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.arrays import to_numpy
from tamis.metrics.metric import Metric, Presentations
from tamis_kernels import Statistics

__all__ = ["METRICS", "forgetting_scores"]


def forgetting_scores(statistics: Statistics, n_epochs: int) -> NDArray[np.float64]:
    """(n,) forgetting events; one never right counts ``n_epochs``, as the hardest."""
    learned = to_numpy(statistics.first_learned) >= 0
    return np.where(learned, to_numpy(statistics.forgetting), n_epochs).astype(np.float64)


def _area_under_margin(statistics: Statistics, n_epochs: int) -> NDArray[Any]:
    return -to_numpy(statistics.mean("margin"))


METRICS = (
    Metric(
        "forgetting",
        "often forgotten, or never learned",
        labels=True,
        reading=Presentations(forgetting_scores),
        source="correct → wrong transitions between presentations, never learned = number of"
        " epochs; Toneva et al. 2019, arXiv:1812.05159",
    ),
    Metric(
        "aum",
        "small or negative margin throughout training",
        labels=True,
        reading=Presentations(_area_under_margin, tracked=("margin",)),
        source="−mean over epochs of (z_y − max other z), the area under the margin; Pleiss et"
        " al. 2020, arXiv:2001.10528",
        flipped=True,
    ),
)

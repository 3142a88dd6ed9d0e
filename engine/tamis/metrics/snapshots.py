"""Metrics of a network's answers without augmentation, early in training or at its end."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis.inference import Outputs
from tamis.metrics.metric import Metric, Snapshot
from tamis.training.gradients import gradient_norms
from tamis_kernels import RowScores, last_layer_grand

__all__ = ["METRICS"]


def _last_layer(outputs: Outputs, scores: RowScores) -> Tensor:
    norms: Tensor = last_layer_grand(outputs.logits, outputs.labels, outputs.embeddings)
    return norms


def _wrong(outputs: Outputs, scores: RowScores) -> Tensor:
    wrong: Tensor = ~scores.correct
    return wrong.to(torch.float32)


_EL2N = "‖softmax − onehot‖₂ at the early epoch; Paul et al. 2021, arXiv:2107.07075"
_GRAND = "norm of the loss's gradient at the early epoch; Paul et al. 2021, arXiv:2107.07075"

METRICS = (
    Metric(
        "el2n",
        "large error early in training",
        labels=True,
        reading=Snapshot("early", lambda outputs, scores: scores.el2n),
        source=f"mean over networks of {_EL2N}",
    ),
    Metric(
        "el2n-1",
        "large error early in training",
        labels=True,
        reading=Snapshot("early", lambda outputs, scores: scores.el2n, first_only=True),
        source=f"of one network: {_EL2N}",
    ),
    Metric(
        "grand",
        "large gradient early in training",
        labels=True,
        reading=Snapshot("early", _last_layer),
        source=f"{_GRAND}, for the last layer in closed form",
    ),
    Metric(
        "grand-full",
        "large gradient early in training",
        labels=True,
        reading=Snapshot("early", measure=gradient_norms),
        source=f"{_GRAND}, for all weights, one backward pass an example: slow",
    ),
    Metric(
        "loss",
        "large loss",
        labels=True,
        reading=Snapshot("end", lambda outputs, scores: scores.loss),
        source="mean −log p_y at the end of training",
    ),
    Metric(
        "margin",
        "small or negative margin",
        labels=True,
        reading=Snapshot("end", lambda outputs, scores: -scores.margin),
        source="−(z_y − max other z) at the end of training",
        flipped=True,
    ),
    Metric(
        "entropy",
        "uncertain prediction",
        labels=False,
        reading=Snapshot("end", lambda outputs, scores: scores.entropy),
        source="mean −Σ p log p at the end of training; labels only train the networks",
    ),
    Metric(
        "ddd",
        "many networks are wrong",
        labels=True,
        reading=Snapshot("end", _wrong),
        source="share of the networks that misclassify it (dichotomous data difficulty);"
        " Meding et al. 2022, arXiv:2110.05922",
    ),
)

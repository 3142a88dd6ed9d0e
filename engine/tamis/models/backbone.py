"""A network that somebody else trained, to be fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tamis.models.network import Network

__all__ = ["Backbone"]


class Backbone(Network):
    """Somebody else's network without its classifier, and a new one.

    It is not built again from its config alone: its ``spec`` has to be opened again.

    Args:
        n_classes: Outputs.
        body: (b, 3, r, r) normalised → (b, n_features) or (b, n_features, 1, 1).
        n_features: Of the body.
        mean: Of the three channels, in units of 0…255; subtracted.
        std: Likewise; divided by.
        spec: What the body was opened by.
        resolution: Side of its images in pixels.
    """

    kind = "backbone"

    def __init__(
        self,
        n_classes: int,
        body: nn.Module,
        n_features: int,
        mean: Sequence[float],
        std: Sequence[float],
        spec: str,
        resolution: int,
    ) -> None:
        config = {"n_classes": n_classes, "spec": spec, "resolution": resolution}
        super().__init__(config, n_features)
        self.body = body.requires_grad_(True)
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)

    def features(self, images: Tensor) -> Tensor:
        """See :meth:`Network.features`."""
        rows: Tensor = self.body(self.normalised(images))
        # Pooling may have left sides of one pixel.
        return rows.flatten(1) if rows.ndim == 4 else rows

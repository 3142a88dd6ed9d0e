"""What every network that is trained here has in common."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["Network"]

# ImageNet's channel statistics, in units of 0…255.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class Network(nn.Module):
    """Images in 0…255 → features → logits; normalises by itself.

    Features may be computed in bfloat16; logits are computed of them in float32, because scores
    are read off logits.

    Attributes:
        kind: Its name in recipes and checkpoints.
        looks_at_images: Whether :meth:`prepare` does anything.
        config: With which :func:`tamis.models.registry.build_network` builds it again; JSON values.
        head: The linear classifier.
    """

    kind: ClassVar[str]
    looks_at_images: ClassVar[bool] = False

    def __init__(self, config: dict[str, Any], n_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.config = {"network": self.kind, **config}
        self.head = nn.Linear(n_features, config["n_classes"], bias=bias)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @property
    def n_features(self) -> int:
        """Width of :meth:`features`."""
        return self.head.in_features

    @property
    def rate_share(self) -> float:
        """What Muon's recipes multiply their rates of the head and the norms by."""
        return 1.0

    def placed(self, device: torch.device) -> Self:
        """Itself on a device, weights lying in channels-last memory as the images do."""
        return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def normalised(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) uint8 or float in 0…255 → float32 of mean 0 and deviation 1 on ImageNet."""
        x = (images.float() - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> None:
        """Look at some training images before the first step; most networks need not.

        Args:
            images: (n, 3, h, w) uint8.
        """

    def features(self, images: Tensor) -> Tensor:
        """Penultimate layer: (n, 3, h, w) uint8 or float in 0…255 → (n, n_features)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """(n, n_features) float32 → logits (n, n_classes)."""
        return self.head(features)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits: (n, 3, h, w) uint8 or float in 0…255 → (n, n_classes)."""
        return self.classify(self.features(images))

"""The images themselves: the floor for any encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tamis import __version__
from tamis.encoders.base import Preparation
from tamis.loaders.settings import USUAL_DECODING, Decoding

__all__ = ["PixelEncoder"]


@dataclass(frozen=True)
class PixelEncoder:
    """Pixels in 0…1, channel after channel; see :class:`tamis.encoders.base.Encoder`.

    Attributes:
        resolution: Side in pixels.
        device: Where rows are made.
        decoding: How images become pixels.
    """

    resolution: int
    device: torch.device
    decoding: Decoding = field(default_factory=lambda: USUAL_DECODING)

    spec = "pixels"
    crop_ratio = 1.0
    mean = (0.0, 0.0, 0.0)
    std = (255.0, 255.0, 255.0)

    def __post_init__(self) -> None:
        Preparation(self.resolution)  # refuses what is out of range

    @property
    def n_features(self) -> int:
        """3 · resolution²."""
        return 3 * self.resolution**2

    def provenance(self) -> dict[str, Any]:
        """See :meth:`tamis.encoders.base.Encoder.provenance`."""
        return {
            "spec": self.spec,
            "weights": None,
            "library": f"tamis {__version__}",
            "labels_used": False,
            "training": None,
            "n_features": self.n_features,
            "resolution": self.resolution,
            "crop_ratio": self.crop_ratio,
            "mean": list(self.mean),
            "std": list(self.std),
            **self.decoding,
            "precision": "float32",
        }

    def __call__(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) uint8 → (b, 3·h·w) float32."""
        return images.to(self.device).flatten(1).float() / 255

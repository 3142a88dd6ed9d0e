"""What an encoder is, and how images are prepared for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from tamis.errors import UsageError
from tamis.loaders.settings import USUAL_DECODING, Decoding

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Encoder", "Preparation", "levels", "unusable"]

# Channel statistics in units of 0…255, as torchvision's models and those trained by SwAV, DINO and
# DINOv2 expect them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preparation:
    """How images become a network's input.

    Attributes:
        resolution: Side of the input in pixels.
        crop_ratio: Side of the centred square by the image's shorter side. ``Resize(256)`` and
            ``CenterCrop(224)`` show the square of 224 / 256 = 0.875.
        mean: Of each channel, subtracted; in units of 0…255.
        std: Of each channel, divided by; in units of 0…255.
        decoding: How images become pixels.
    """

    resolution: int = 224
    crop_ratio: float = 224 / 256
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    decoding: Decoding = field(default_factory=lambda: USUAL_DECODING)

    def __post_init__(self) -> None:
        for name, fits, expected, found in (
            ("--resolution", self.resolution >= 1, "at least 1 pixel", self.resolution),
            ("crop", 0 < self.crop_ratio <= 1, "above 0, at most 1", self.crop_ratio),
            ("std", min(self.std) > 0, "three positive numbers", self.std),
        ):
            if not fits:
                raise UsageError(name, expected=expected, found=str(found), do="correct it")


class Encoder(Protocol):
    """Images in, one row of features for each out."""

    @property
    def spec(self) -> str:
        """What it was opened by, as ``--encoder`` takes it."""

    @property
    def n_features(self) -> int:
        """d, the width of a row."""

    @property
    def resolution(self) -> int:
        """Side of the images that it takes, in pixels."""

    @property
    def crop_ratio(self) -> float:
        """Side of the centred square that it is shown, by the image's shorter side."""

    @property
    def decoding(self) -> Decoding:
        """How the images that it takes become pixels."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted from each channel, in units of 0…255."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Divides each channel, in units of 0…255."""

    def provenance(self) -> dict[str, Any]:
        """What its rows depend on: spec, digest of the weights, versions, whether labels were used.

        Plain JSON types. ``labels_used`` is None where nobody says.
        """

    def __call__(self, images: Tensor) -> Tensor:
        """(b, 3, resolution, resolution) uint8, 0…255 → (b, d) float32 on the encoder's device."""


def levels(values: tuple[float, float, float]) -> tuple[float, float, float]:
    """Channel statistics of other libraries, in units of 0…1, in those of 0…255."""
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue


def unusable(spec: str, *, expected: str, found: str, do: str) -> UsageError:
    """The error that says why an encoder cannot be used."""
    return UsageError(f"--encoder {spec}", expected=expected, found=found, do=do)

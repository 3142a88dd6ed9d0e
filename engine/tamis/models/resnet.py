"""ResNet-18 and -50 that are trained here, for images of ImageNet's size and of CIFAR's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tamis.models.network import Network
from tamis.models.resnet_body import ResNetBody, Stem, standard_blocks

__all__ = ["CifarResNet18", "ResNet18", "ResNet50"]


class _ResNet(Network):
    depth: ClassVar[int]
    stem: ClassVar[Stem] = "imagenet"

    def __init__(self, n_classes: int, *, blurpool: bool = False) -> None:
        body = ResNetBody(standard_blocks(self.depth), self.stem, blurpool=blurpool)
        super().__init__({"n_classes": n_classes, "blurpool": blurpool}, body.n_features)
        self.body = body

    def features(self, images: Tensor) -> Tensor:
        """See :meth:`Network.features`."""
        return self.body(self.normalised(images))  # type: ignore[no-any-return]


class ResNet18(_ResNet):
    """He et al. 2016 as torchvision builds it; 11.7 million weights for 1000 classes.

    Args:
        n_classes: Outputs.
        blurpool: See :class:`ResNetBody`.
    """

    kind, depth = "resnet18", 18


class ResNet50(_ResNet):
    """He et al. 2016 as torchvision builds it; 25.6 million weights for 1000 classes.

    Args:
        n_classes: Outputs.
        blurpool: See :class:`ResNetBody`.
    """

    kind, depth = "resnet50", 50


class CifarResNet18(_ResNet):
    """With a 3 × 3 stem and no pooling, as it is used for 32 × 32 images; 11.2 million weights.

    Args:
        n_classes: Outputs.
        blurpool: See :class:`ResNetBody`.
    """

    kind, depth, stem = "resnet18-cifar", 18, "cifar"

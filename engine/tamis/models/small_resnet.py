"""A small residual network for images of about 8 to 64 pixels, quick on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SmallResNet"]

# ImageNet's channel statistics, in units of 0…255.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class SmallResNet(nn.Module):
    """Stem, three residual stages of widths w, 2w and 4w, mean pooling, linear head.

    Above 16 pixels the stem has stride 2, so that most work happens at half resolution.

    Args:
        n_classes: Outputs.
        width: w.
        resolution: Side of the images in pixels; chooses the stem's stride.
    """

    def __init__(self, n_classes: int, width: int, resolution: int) -> None:
        super().__init__()
        self.config = {"n_classes": n_classes, "width": width, "resolution": resolution}
        stem = _conv(3, width, 4, 2) if resolution > 16 else _conv(3, width)
        stages: list[nn.Module] = [stem, _Residual(width)]
        for inputs in (width, 2 * width):
            stages += [_conv(inputs, 2 * inputs, stride=2), _Residual(2 * inputs)]
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(4 * width, n_classes)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @property
    def n_features(self) -> int:
        """Width of :meth:`features`."""
        return self.head.in_features

    def features(self, images: Tensor) -> Tensor:
        """Penultimate layer: (n, 3, h, w) uint8 or float in 0…255 → (n, 4w)."""
        x = (images.float() - self.mean) / self.std
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits: (n, 3, h, w) uint8 or float in 0…255 → (n, n_classes)."""
        return self.head(self.features(images))  # type: ignore[no-any-return]

"""ResNets without their classifier (He et al. 2016), with torchvision's names and arithmetic.

The stride of a bottleneck is in its 3 × 3 convolution; wider and grouped ones (Zagoruyko and
Komodakis 2016, Xie et al. 2017) are told by the shapes of their blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["BlockShape", "BlurredConv2d", "ResNetBody", "Stem", "standard_blocks"]

Stem = Literal["imagenet", "cifar"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_LEAST_BLURRED = 16  # channels; the stem's three are not


@dataclass(frozen=True)
class BlockShape:
    """A residual block.

    Attributes:
        convolutions: Of each (n_out, n_in / groups, side, side), as their weights.
        stride: Of the first 3 × 3 convolution.
        projected: Whether the shortcut has a convolution.
    """

    convolutions: tuple[tuple[int, ...], ...]
    stride: int
    projected: bool


def standard_blocks(depth: int) -> tuple[tuple[BlockShape, ...], ...]:
    """Four stages of ResNet-18, -34 (two convolutions a block) or -50 (bottlenecks)."""
    widths, expansion = (64, 128, 256, 512), 4 if depth == 50 else 1
    stages, n_in = [], 64
    for stage, (width, n_blocks) in enumerate(zip(widths, _BLOCKS[depth], strict=True)):
        blocks = []
        for number in range(n_blocks):
            stride = 2 if stage and not number else 1
            n_out = expansion * width
            chain = (n_in, width, width, n_out) if expansion > 1 else (n_in, width, n_out)
            sides = (1, 3, 1) if expansion > 1 else (3, 3)
            shapes = tuple(
                (wide, narrow, side, side)
                for (narrow, wide), side in zip(pairwise(chain), sides, strict=True)
            )
            blocks.append(BlockShape(shapes, stride, stride > 1 or n_in != n_out))
            n_in = n_out
        stages.append(tuple(blocks))
    return tuple(stages)


class BlurredConv2d(nn.Conv2d):
    """Blurs with a binomial filter before it strides (Zhang 2019, arXiv:1904.11486).

    Takes what :class:`torch.nn.Conv2d` takes, and has its weights and their names.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        line = torch.tensor([0.25, 0.5, 0.25])
        kernel = (line[:, None] * line[None]).expand(self.in_channels, 1, 3, 3).contiguous()
        self.register_buffer("blur", kernel, persistent=False)
        self.blur: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution of the blurred input."""
        return super().forward(
            nn.functional.conv2d(x, self.blur, padding=1, groups=self.in_channels)
        )


class ResNetBody(nn.Module):
    """Stem, four stages of residual blocks, mean pooling.

    Attributes:
        blocks: How many each stage has.
        bottleneck: Whether they are of three convolutions, instead of two.
        n_features: Width of what comes out.

    Args:
        stages: Blocks of each stage.
        stem: ``imagenet``: 7 × 7 with stride 2 and pooling; ``cifar``: 3 × 3.
        blurpool: Blur before every convolution that strides, but for the stem's.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[BlockShape]],
        stem: Stem = "imagenet",
        *,
        blurpool: bool = False,
    ) -> None:
        super().__init__()
        n_in = _n_in(stages[0][0])
        on_large = stem == "imagenet"
        side, stride = (7, 2) if on_large else (3, 1)
        self.conv1 = nn.Conv2d(3, n_in, side, stride, side // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if on_large else nn.Identity()
        self.blocks = tuple(len(stage) for stage in stages)
        self.bottleneck = len(stages[0][0].convolutions) == 3
        self.n_features = stages[-1][-1].convolutions[-1][0]
        for number, stage in enumerate(stages, 1):
            blocks = [_Block(shape, blurpool=blurpool) for shape in stage]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        for module in self.modules():  # torchvision's start
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) normalised → (b, d)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean(dim=(2, 3))


def _n_in(shape: BlockShape) -> int:
    """Channels that come into a block, whose first convolution is never grouped."""
    return shape.convolutions[0][1]


class _Block(nn.Module):
    """Convolutions of the given shapes and a shortcut; the first 3 × 3 one has the stride."""

    def __init__(self, shape: BlockShape, *, blurpool: bool) -> None:
        super().__init__()
        n = n_in = _n_in(shape)
        n_out = shape.convolutions[-1][0]
        strided = [sizes[2] for sizes in shape.convolutions].index(3)
        self.n_convolutions = len(shape.convolutions)
        for i, (wide, narrow, side, _) in enumerate(shape.convolutions):
            stride = shape.stride if i == strided else 1
            conv = _convolution(n, wide, side, stride, n // narrow, blurpool=blurpool)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(wide))
            n = wide
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if shape.projected:
            projection = _convolution(n_in, n_out, 1, shape.stride, 1, blurpool=blurpool)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.n_convolutions + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.n_convolutions:
                out = self.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


def _convolution(
    n_in: int, n_out: int, side: int, stride: int, groups: int, *, blurpool: bool
) -> nn.Conv2d:
    kind = BlurredConv2d if blurpool and stride > 1 and n_in >= _LEAST_BLURRED else nn.Conv2d
    return kind(n_in, n_out, side, stride, side // 2, groups=groups, bias=False)

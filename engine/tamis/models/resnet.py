"""ResNet-18 for images of ImageNet's size (He et al. 2016), as torchvision builds it."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["BasicBlock", "resnet18"]


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut.

    Args:
        n_in: Channels that come in.
        n_out: Channels that go out.
        stride: Of the first convolution.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(b, n_in, h, w) → (b, n_out, h / stride, w / stride)."""
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet18(n_classes: int = 1000) -> nn.Sequential:
    """(b, 3, h, w) float in 0…1 → (b, n_classes) logits; 11.7 million weights for 1000 classes."""
    widths = (64, 64, 128, 256, 512)
    stages = [
        nn.Sequential(
            BasicBlock(n_in, n_out, 1 if n_in == n_out else 2), BasicBlock(n_out, n_out, 1)
        )
        for n_in, n_out in pairwise(widths)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, n_classes),
    )

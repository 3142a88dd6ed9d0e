"""ResNets without their classifier, built after the tensors of a checkpoint.

Names and arithmetic are torchvision's, which most published ResNets follow: He et al. 2016 with
the stride in the 3 × 3 convolution of a bottleneck, wider and grouped ones (Zagoruyko and Komodakis
2016, Xie et al. 2017), and those of SwAV, DINO, MoCo, Barlow Twins and their like.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["ResNet", "resnet_prefix"]

_FIRST, _LAST = "conv1.weight", "layer4.0.conv2.weight"


def resnet_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """What stands before the names of a ResNet's tensors in a checkpoint; None where is none.

    Of several ResNets it is the teacher's, else the first one's.
    """
    found = [
        name[: -len(_FIRST)]
        for name, tensor in tensors.items()
        if f".{name}".endswith(f".{_FIRST}")
        and tensor.shape[1:] == (3, 7, 7)
        and name[: -len(_FIRST)] + _LAST in tensors
    ]
    return min(found, key=lambda prefix: "teacher" not in prefix, default=None)


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, mean pooling.

    Attributes:
        blocks: How many each stage has.
        bottleneck: Whether they are of three convolutions, instead of two.

    Args:
        tensors: Of a checkpoint; their number and shapes say what is built. Their values are not
            taken.
        prefix: Stands before their names.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()

        def shape(name: str) -> tuple[int, ...]:
            return tuple(tensors[f"{prefix}{name}.weight"].shape)

        width = shape("conv1")[0]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.blocks: tuple[int, ...] = ()
        self.bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
        n_convolutions = 3 if self.bottleneck else 2
        for stage in range(1, 5):
            blocks: list[nn.Module] = []
            while f"{prefix}layer{stage}.{len(blocks)}.conv1.weight" in tensors:
                name = f"layer{stage}.{len(blocks)}"
                shapes = [shape(f"{name}.conv{i + 1}") for i in range(n_convolutions)]
                stride = 2 if stage > 1 and not blocks else 1
                widened = f"{prefix}{name}.downsample.0.weight" in tensors
                blocks.append(_Block(shapes, stride, widened))
            self.blocks += (len(blocks),)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) normalised → (b, d)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean(dim=(2, 3))


class _Block(nn.Module):
    """Convolutions of the given shapes and a shortcut; the first 3 × 3 one has the stride."""

    def __init__(self, shapes: list[tuple[int, ...]], stride: int, widened: bool) -> None:
        super().__init__()
        n = n_in = shapes[0][1]
        n_out = shapes[-1][0]
        strided = [shape[2] for shape in shapes].index(3)
        self.n_convolutions = len(shapes)
        for i, (wide, narrow, kernel, _) in enumerate(shapes):
            step = stride if i == strided else 1
            groups = n // narrow
            conv = nn.Conv2d(n, wide, kernel, step, kernel // 2, groups=groups, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(wide))
            n = wide
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if widened:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.n_convolutions + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.n_convolutions:
                out = self.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]

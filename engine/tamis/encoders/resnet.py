"""ResNets of checkpoints, told by the names and shapes of their tensors.

Names are torchvision's, which most published ResNets follow, those of SwAV, DINO, MoCo, Barlow
Twins and their like among them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tamis.models.resnet_body import BlockShape, ResNetBody

__all__ = ["resnet_like", "resnet_prefix"]

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


def resnet_like(tensors: Mapping[str, Tensor], prefix: str) -> ResNetBody:
    """The ResNet that a checkpoint's tensors belong to.

    Args:
        tensors: Of a checkpoint; their number and shapes say what is built. Their values are not
            taken.
        prefix: Stands before their names.
    """
    n_convolutions = 3 if f"{prefix}layer1.0.conv3.weight" in tensors else 2
    stages: list[list[BlockShape]] = []
    for stage in range(1, 5):
        blocks: list[BlockShape] = []
        while f"{prefix}layer{stage}.{len(blocks)}.conv1.weight" in tensors:
            name = f"{prefix}layer{stage}.{len(blocks)}"
            shapes = tuple(
                tuple(tensors[f"{name}.conv{i + 1}.weight"].shape) for i in range(n_convolutions)
            )
            stride = 2 if stage > 1 and not blocks else 1
            blocks.append(BlockShape(shapes, stride, f"{name}.downsample.0.weight" in tensors))
        stages.append(blocks)
    return ResNetBody(stages)

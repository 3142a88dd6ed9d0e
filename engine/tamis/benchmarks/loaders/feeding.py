"""What takes the batches: nobody, or a training step of ResNet-18 for each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tamis.devices import autocast
from tamis.models.resnet import ResNet18

__all__ = ["training_step"]

_CLASSES = 1000


def training_step(device: torch.device) -> Callable[[Tensor], None]:
    """Forward, backward and an SGD step of a fresh ResNet-18, in what precision is fast there.

    Takes (b, 3, h, w) uint8 images on the device; all have the same label.
    """
    model = ResNet18(_CLASSES).placed(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(images: Tensor) -> None:
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        with autocast(device):
            logits = model(images)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step

"""What a step makes smaller: cross-entropy, with a teacher's help if there is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tamis.devices import autocast
from tamis.errors import UsageError
from tamis.models.network import Network

__all__ = ["Objective", "Teacher"]


@dataclass(frozen=True)
class Teacher:
    """A trained network whose answers are learned besides the labels (Hinton et al. 2015).

    Attributes:
        network: In evaluation mode, on the device of the training.
        weight: Of the teacher's part of the loss, 0 to 1; the labels have the rest.
        temperature: Divides logits before both softmaxes.
    """

    network: Network
    weight: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise UsageError(
                "--teacher-weight, --temperature",
                expected="a weight from 0 to 1 and a temperature above 0",
                found=f"{self.weight:g} and {self.temperature:g}",
                do="0.5 and 4 are the default",
            )


@dataclass(frozen=True)
class Objective:
    """The loss of a training.

    Attributes:
        label_smoothing: Share of the target that goes to all classes alike.
        teacher: None learns from labels alone.
    """

    label_smoothing: float = 0.0
    teacher: Teacher | None = None

    def losses(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Of each example, in nats.

        With a teacher (1 − w) · cross-entropy + w · T² · KL(teacher ‖ network), both softened by
        the temperature T; T² keeps gradients as large as without (Hinton et al. 2015, §2).

        Args:
            logits: (b, n_classes) float32.
            labels: (b,) int64.
            images: (b, 3, h, w) as the network saw them.

        Returns:
            (b,) float32.
        """
        own = nn.functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )
        teacher = self.teacher
        if teacher is None:
            return own
        t = teacher.temperature
        with torch.no_grad(), autocast(logits.device):
            features = teacher.network.features(images)
        with torch.no_grad():
            taught = teacher.network.classify(features.float())
        learned = nn.functional.log_softmax(logits / t, dim=1)
        wanted = nn.functional.log_softmax(taught / t, dim=1)
        apart = nn.functional.kl_div(learned, wanted, reduction="none", log_target=True).sum(1)
        return (1 - teacher.weight) * own + teacher.weight * t**2 * apart

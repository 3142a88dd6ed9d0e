"""What every loader gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch", "Loader", "Skipped"]


@dataclass(frozen=True)
class Batch:
    """A batch that its holder may keep: no loader writes into it again.

    Attributes:
        images: (b, 3, h, w) uint8 in channels-last memory, on the loader's device: a quarter of the
            bytes of float32 on their way there. Networks that tamis trains normalise by themselves.
        labels: (b,) int64 on the same device.
        example_ids: (b,) int64 on the host.
    """

    images: Tensor
    labels: Tensor
    example_ids: NDArray[np.int64]

    def normalised(
        self,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The images as other networks want them: (pixel / 255 − mean) / std, on their device.

        Args:
            mean: Of each channel, in units of 0…1; ImageNet's, as torchvision has it.
            std: Likewise.
            dtype: float32, float16 or bfloat16; of the arithmetic, too.

        Returns:
            (b, 3, h, w) of that type in channels-last memory.
        """
        centre, width = (
            torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std)
        )
        scale, shift = (
            values.to(self.images.device, dtype) for values in (1 / (255 * width), -centre / width)
        )
        return self.images.to(dtype).mul_(scale).add_(shift)


@dataclass(frozen=True)
class Skipped:
    """An example that was left out, because its record is damaged.

    Attributes:
        example_id: Its id.
        path: Where it came from, if the bundle knows.
        reason: What is wrong with it.
    """

    example_id: int
    path: str | None
    reason: str


class Loader(Protocol):
    """Gives every example of its shard exactly once an epoch; the last batch may be smaller."""

    @property
    def n_examples(self) -> int:
        """Examples an epoch, of this shard."""

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far, each once; empty unless asked for (``on_error="skip"``)."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next iteration."""

    def restrict(self, example_ids: NDArray[np.int64] | None) -> None:
        """Show no others of its examples from the next iteration on; None: show all.

        Those that are shown keep their order and their augmentation.
        """

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, after the batch that was given last; plain numbers and text."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on from there.

        Raises:
            UsageError: The state of a loader with other examples, order or augmentation.
        """

    def __len__(self) -> int:
        """Batches in a whole epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, or after ``load_state_dict`` the rest of one."""

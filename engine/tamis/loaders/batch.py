"""What every loader gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Augmentation", "Batch", "Loader"]


@dataclass(frozen=True)
class Batch:
    """A batch that its holder may keep: no loader writes into it again.

    Attributes:
        images: (b, 3, h, w) uint8 in channels-last memory, on the loader's device. Networks
            normalise, loaders do not.
        labels: (b,) int64 on the same device.
        example_ids: (b,) int64 on the host.
    """

    images: Tensor
    labels: Tensor
    example_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, drawn from (seed, epoch, example id).

    Attributes:
        flip: Mirror half of the images.
        translate: Shift by up to this many pixels in each direction; edges are reflected.
        seed: Independent of the order's seed.
    """

    flip: bool = False
    translate: int = 0
    seed: int = 0


class Loader(Protocol):
    """Gives every example exactly once an epoch; the last batch may be smaller."""

    @property
    def n_examples(self) -> int:
        """Examples an epoch."""

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next iteration."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch."""

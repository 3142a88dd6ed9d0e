"""What every loader gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch", "Loader", "Skipped"]


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

"""Batches whose images grow over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.loaders.batch import Batch, Loader, Skipped

__all__ = ["ProgressiveLoader"]


class ProgressiveLoader:
    """A :class:`tamis.loaders.batch.Loader` for each size of images, of which one is in use.

    Args:
        side: Epoch → side of its images in pixels.
        open_at: Side → a loader, which differ in nothing else. Each is opened when it is needed.
    """

    def __init__(self, side: Callable[[int], int], open_at: Callable[[int], Loader]) -> None:
        self._side, self._open_at = side, open_at
        self._loaders: dict[int, Loader] = {}
        self._only: NDArray[np.int64] | None = None
        self._now = self._at(side(0))

    def _at(self, side: int) -> Loader:
        if side not in self._loaders:
            self._loaders[side] = self._open_at(side)
        return self._loaders[side]

    @property
    def n_examples(self) -> int:
        """Examples an epoch, of this shard."""
        return self._now.n_examples

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""
        return self._now.batch_size

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far at any size, each once."""
        found = {one.example_id: one for loader in self._loaders.values() for one in loader.skipped}
        return tuple(found.values())

    def set_epoch(self, epoch: int) -> None:
        """Choose the size, order and augmentation of the next iteration."""
        following = self._at(self._side(epoch))
        if following is not self._now:
            self._now = following
            self._now.restrict(self._only)
        self._now.set_epoch(epoch)

    def restrict(self, example_ids: NDArray[np.int64] | None) -> None:
        """See :class:`tamis.loaders.batch.Loader`."""
        self._only = example_ids
        self._now.restrict(example_ids)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`tamis.loaders.batch.Loader`."""
        return self._now.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`tamis.loaders.batch.Loader`."""
        self.set_epoch(int(state["epoch"]))
        self._now.load_state_dict(state)

    def __len__(self) -> int:
        return len(self._now)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._now)

"""Which examples make up which batch: order, shards, epochs, and where a loader stands."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis.hashing import example_hash, shuffled_order
from tamis.loaders.settings import LoaderSettings

__all__ = ["Schedule"]

_WINDOW_PAGES = 64
"""Pages that are mixed with each other in quasi-random order; 512 MiB with FFCV's usual size."""


class Schedule:
    """The batches of one shard, epoch after epoch.

    Args:
        example_ids: (n,) int64, of the whole bundle.
        settings: Order, seed, batch size, shard.
        positions: (k,) int64, distinct: the examples that are shown; None for all.
        pages: (n,) int64, the page of each example; needed in quasi-random order.

    Raises:
        UsageError: In train mode, fewer examples than shards, or shards that cannot all have as
            many batches.
    """

    def __init__(
        self,
        example_ids: NDArray[np.int64],
        settings: LoaderSettings,
        positions: NDArray[np.int64] | None = None,
        pages: NDArray[np.int64] | None = None,
    ) -> None:
        self.settings = settings
        self._all_positions = np.arange(len(example_ids)) if positions is None else positions
        self._all_ids = example_ids[self._all_positions]
        self._all_pages = None if pages is None else pages[self._all_positions]
        self._positions, self._ids = self._all_positions, self._all_ids
        self._pages = self._all_pages
        if settings.traversal == "quasi_random" and pages is None:
            raise UsageError(
                "order",
                expected="bundle or random, of images in memory",
                found="quasi_random",
                do="use random: memory has no slow pages",
            )
        self.epoch = 0
        self._bounds = self._global_bounds()
        self._next = (
            0  # batch of the epoch that is given next, of a running iteration or a loaded one
        )
        self._resuming = False

    def _global_bounds(self) -> list[int]:
        """Where the batches of all shards together begin in the order, and where the last ends."""
        n, (_, shards) = len(self._ids), self.settings.shard
        bounds = [*range(0, n, self.settings.batch_size * shards), n]
        if self.settings.mode == "train" and shards > 1:
            last = n - bounds[-2] if n else 0
            missing = max(0, shards - last)
            if n < shards or (missing and self.settings.batch_size == 1):
                raise UsageError(
                    f"{shards} shards",
                    expected="as many batches for each, as training together needs",
                    found=f"{n} examples in batches of {self.settings.batch_size}",
                    do="take fewer shards or larger batches",
                )
            bounds[-2] -= missing
        return bounds

    def _part(self, number: int) -> tuple[int, int]:
        """Where this shard's part of a batch begins and ends in the order."""
        first, size = self._bounds[number], self._bounds[number + 1] - self._bounds[number]
        index, shards = self.settings.shard
        return first + index * size // shards, first + (index + 1) * size // shards

    @property
    def n_examples(self) -> int:
        """Examples an epoch, of this shard."""
        return sum(end - start for start, end in map(self._part, range(len(self._bounds) - 1)))

    def __len__(self) -> int:
        # In score mode the last batch of all shards may have nothing for this one.
        n = len(self._bounds) - 1
        return n - (n > 0 and len(range(*self._part(n - 1))) == 0)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration's; the one that was loaded goes on where it stood."""
        if epoch != self.epoch:
            self.epoch, self._next, self._resuming = epoch, 0, False

    def restrict(self, example_ids: NDArray[np.int64] | None) -> None:
        """Show no others of the schedule's examples from the next iteration on; None: show all.

        Raises:
            UsageError: In train mode, too few examples for the shards.
        """
        rows = np.arange(len(self._all_ids))
        if example_ids is not None:
            rows = np.flatnonzero(np.isin(self._all_ids, example_ids))
        self._positions, self._ids = self._all_positions[rows], self._all_ids[rows]
        self._pages = None if self._all_pages is None else self._all_pages[rows]
        self._bounds = self._global_bounds()
        self._next, self._resuming = 0, False

    def begin(self) -> int:
        """The number of the first batch of an iteration that begins now."""
        if not self._resuming:
            self._next = 0
        self._resuming = False
        return self._next

    def given(self, epoch: int, number: int) -> None:
        """Note that a batch is handed out, if its epoch is still the chosen one."""
        if epoch == self.epoch:
            # The last batch of all shards may have had nothing for this one.
            last = number + 1 == len(self)
            self._next = len(self._bounds) - 1 if last else number + 1

    def batches(self, first: int) -> list[NDArray[np.int64]]:
        """Positions in the bundle of the batches of the current epoch, from a number on."""
        order = self._positions[self._order()]
        parts = map(self._part, range(first, len(self)))
        return [order[start:end] for start, end in parts]

    def _order(self) -> NDArray[np.int64]:
        settings, ids = self.settings, self._ids
        if settings.traversal == "bundle":
            return np.arange(len(ids))
        if settings.traversal == "random":
            return shuffled_order(ids, settings.seed, self.epoch)
        assert self._pages is not None
        page_keys = example_hash(self._pages, settings.seed, "page order", self.epoch)
        _, ranks = np.unique(page_keys, return_inverse=True)
        keys = example_hash(ids, settings.seed, "order", self.epoch)
        return np.lexsort((ids, keys, ranks // _WINDOW_PAGES)).astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`tamis.loaders.batch.Loader`."""
        settings = self.settings
        offset = self._bounds[min(self._next, len(self._bounds) - 1)]
        return {
            "epoch": self.epoch,
            "n_seen": offset,
            "global_batch": settings.batch_size * settings.shard[1],
            "examples": xxhash.xxh3_64_hexdigest(np.ascontiguousarray(self._ids).data),
            "settings": self._comparable(),
        }

    def _comparable(self) -> dict[str, Any]:
        """What has to stay for the rest of an epoch to be the rest of the same one."""
        order = self.settings.traversal
        apart = replace(self.settings, order=order, batch_size=1, shard=(0, 1), on_error="fail")
        settings = asdict(apart)
        for name in ("batch_size", "shard", "on_error"):
            del settings[name]
        return {name: _as_json(value) for name, value in settings.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`tamis.loaders.batch.Loader`."""
        own = self.state_dict()
        for name in ("examples", "global_batch", "settings"):
            if state.get(name) != own[name]:
                raise UsageError(
                    "loader state",
                    expected=f"one of a loader with the same {name.replace('_', ' ')}: {own[name]}",
                    found=str(state.get(name)),
                    do="open the loader as it was, or begin the epoch again",
                )
        n_seen = state["n_seen"]
        if n_seen not in self._bounds:
            raise UsageError(
                "loader state",
                expected="a number of seen examples at the end of a batch",
                found=str(n_seen),
                do="use a state that state_dict() gave, of as many shards",
            )
        self.epoch, self._next = int(state["epoch"]), self._bounds.index(n_seen)
        self._resuming = True


def _as_json(value: Any) -> Any:
    """Tuples as lists, so that a state survives JSON."""
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, (tuple, list)) else value

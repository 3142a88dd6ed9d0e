"""What all loaders have in common: a schedule, and for streaming ones a bundle."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.pixels import image_error
from tamis.loaders.augment import cut_out, shift
from tamis.loaders.batch import Batch, Skipped
from tamis.loaders.decoding import Failure
from tamis.loaders.device_copy import to_device
from tamis.loaders.schedule import Schedule
from tamis.loaders.settings import LoaderSettings, OnError

__all__ = ["ScheduledLoader", "SkipList", "StreamingLoader"]


class SkipList:
    """Examples that were left out, each once, in the order in which they were met."""

    def __init__(self, bundle: Bundle, on_error: OnError) -> None:
        self._bundle, self._on_error = bundle, on_error
        self._skipped: dict[int, Skipped] = {}

    def __iter__(self) -> Iterator[Skipped]:
        return iter(self._skipped.values())

    def note(self, positions: NDArray[np.int64], failures: list[Failure]) -> None:
        """Note rows of a batch that are not what the bundle states.

        Args:
            positions: (b,) int64 of the batch, in the bundle.
            failures: At least one.

        Raises:
            BundleError: They are not to be skipped; names the first.
        """
        if self._on_error == "fail":
            first = min(failures, key=lambda failure: failure.row)
            raise image_error(self._bundle, int(positions[first.row]), first.reason)
        paths = self._bundle.paths
        for failure in failures:
            position = int(positions[failure.row])
            example_id = int(self._bundle.example_ids[position])
            path = paths[position].as_py() if paths is not None else None
            self._skipped.setdefault(example_id, Skipped(example_id, path, failure.reason))


class ScheduledLoader:
    """The part of :class:`tamis.loaders.batch.Loader` that does not depend on the pixels.

    Attributes:
        settings: What it was asked for.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.settings: LoaderSettings = schedule.settings
        self._schedule = schedule

    @property
    def n_examples(self) -> int:
        """Examples an epoch, of this shard."""
        return self._schedule.n_examples

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""
        return self.settings.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next iteration."""
        self._schedule.set_epoch(epoch)

    def restrict(self, example_ids: NDArray[np.int64] | None) -> None:
        """Show no others of its examples from the next iteration on; None: show all."""
        self._schedule.restrict(example_ids)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, after the batch that was given last; plain numbers and text."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on from there.

        As long as one batch of all shards together stays as large, there may be more or fewer
        shards than before; in train mode not after the last batch but one, whose end depends on
        their number.

        Raises:
            UsageError: The state of a loader with other examples, order or augmentation.
        """
        self._schedule.load_state_dict(state)

    def __len__(self) -> int:
        return len(self._schedule)


class StreamingLoader(ScheduledLoader):
    """A loader that decodes while it goes, of bundles that may be larger than memory.

    Args:
        bundle: An opened bundle.
        settings: Which batches.
        device: Where they go.
        positions: (k,) int64, the examples of the bundle that are shown; None for all.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: LoaderSettings,
        device: torch.device | str = "cpu",
        *,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        pages = bundle.extents[:, 0, 0] // bundle.page_size
        super().__init__(Schedule(bundle.example_ids, settings, positions, pages))
        self.bundle, self.device = bundle, torch.device(device)
        self._skips = SkipList(bundle, settings.on_error)

    @property
    def n_examples(self) -> int:
        """Examples an epoch, of this shard, without those that were left out so far."""
        return super().n_examples - len(self.skipped)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far, each once."""
        return tuple(self._skips)

    def decoded(self, first: int, epoch: int) -> Generator[tuple[int, Batch]]:
        """Numbered batches of the schedule's epoch from a number on, not yet on their device.

        Raises:
            BundleError: A damaged record that is not to be skipped.
            WorkFailedError: The file cannot be read.
        """
        raise NotImplementedError

    def delivered(self, decoded: Generator[tuple[int, Batch]]) -> Generator[tuple[int, Batch]]:
        """The same on the loader's device."""
        return to_device(decoded, self.device)

    def __iter__(self) -> Generator[Batch]:
        epoch, first = self._schedule.epoch, self._schedule.begin()
        with (
            closing(self.decoded(first, epoch)) as decoded,
            closing(self.delivered(decoded)) as batches,
        ):
            for number, batch in batches:
                self._schedule.given(epoch, number)
                yield self._augmented(batch, epoch)

    def _augmented(self, batch: Batch, epoch: int) -> Batch:
        """With what is not done while decoding: shift and cutout."""
        augmentation, ids = self.settings.augmentation, batch.example_ids
        if augmentation is None:
            return batch
        pixels = batch.images.permute(0, 2, 3, 1)
        pixels = cut_out(shift(pixels, ids, augmentation, epoch), ids, augmentation, epoch)
        return Batch(pixels.permute(0, 3, 1, 2), batch.labels, ids)

    def batch_of(
        self, pixels: NDArray[np.uint8], positions: NDArray[np.int64], failures: list[Failure]
    ) -> Batch | None:
        """A batch on the host without the rows that failed, or None where none is left.

        Raises:
            BundleError: A row failed that is not to be skipped.
        """
        if failures:
            self._skips.note(positions, failures)
            failed = [failure.row for failure in failures]
            pixels, positions = np.delete(pixels, failed, 0), np.delete(positions, failed)
        if not len(positions):
            return None
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self.bundle.labels[positions])
        return Batch(images, labels, self.bundle.example_ids[positions])

"""The whole set decoded once, as uint8 on the device; batches are gathers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.bundles.bundle import Bundle
from tamis.loaders.augment import cut_out, resample, shift
from tamis.loaders.base import ScheduledLoader, SkipList
from tamis.loaders.batch import Batch, Skipped
from tamis.loaders.boxes import draw_flips, image_boxes
from tamis.loaders.decode_pool import DecodePool
from tamis.loaders.schedule import Schedule
from tamis.loaders.settings import LoaderSettings, OnError
from tamis.progress import QUIET, Progress

__all__ = ["ImageSet", "MemoryLoader", "load_image_set"]

_CHUNK = 1024  # examples between two words of progress


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of one size.

    Attributes:
        images: (n, side, side, 3) uint8 on the device.
        labels: (n,) int64 on the device.
        example_ids: (n,) int64 on the host, distinct.
        n_classes: Classes of the bundle, of which a subset may lack some.
        skipped: Examples of the bundle that are missing, because they are damaged.
    """

    images: Tensor
    labels: Tensor
    example_ids: NDArray[np.int64]
    n_classes: int
    skipped: tuple[Skipped, ...] = ()

    def subset(self, positions: NDArray[np.int64]) -> ImageSet:
        """The examples at the given positions, as a copy."""
        index = torch.from_numpy(positions).to(self.labels.device)
        return ImageSet(
            self.images[index],
            self.labels[index],
            self.example_ids[positions],
            self.n_classes,
            self.skipped,
        )


def load_image_set(
    bundle: Bundle,
    resolution: int,
    device: torch.device | str = "cpu",
    *,
    positions: NDArray[np.int64] | None = None,
    center_ratio: float = 1.0,
    on_error: OnError = "fail",
    progress: Progress = QUIET,
) -> ImageSet:
    """Decode a bundle: a centred square of each image, resized to ``resolution``.

    On all cores, in the order of the file; 3·resolution² bytes an example.

    Args:
        bundle: An opened bundle.
        resolution: Side in pixels.
        device: Where the set goes.
        positions: (k,) int64, the examples of the bundle that are decoded; None for all.
        center_ratio: Side of the square by the image's shorter side.
        on_error: ``skip`` leaves damaged examples out.
        progress: Told of decoding.

    Raises:
        BundleError: A damaged record that is not to be skipped.
        WorkFailedError: The file cannot be read.
    """
    if positions is None:
        positions = np.arange(bundle.n_examples)
    n = len(positions)
    images = np.empty((n, resolution, resolution, 3), np.uint8)
    kept = np.ones(n, np.bool_)
    skips = SkipList(bundle, on_error)
    settings = LoaderSettings(_CHUNK, resolution, center_ratio=center_ratio)
    with (
        progress.task(f"decode {bundle.path.name}", n) as advance,
        DecodePool(bundle, settings) as pool,
    ):
        pool.ask_for(positions[:_CHUNK])
        for start in range(0, n, _CHUNK):
            pool.ask_for(positions[start + _CHUNK :][:_CHUNK])
            chunk = positions[start:][:_CHUNK]
            failures = pool.decode(chunk, 0, images[start:][:_CHUNK]).wait()
            if failures:
                skips.note(chunk, failures)
                kept[[start + failure.row for failure in failures]] = False
            advance(len(chunk))
    if not kept.all():
        images, positions = images[kept], positions[kept]
    return ImageSet(
        torch.from_numpy(images).to(device),
        torch.from_numpy(bundle.labels[positions]).to(device),
        bundle.example_ids[positions],
        bundle.n_classes,
        tuple(skips),
    )


class MemoryLoader(ScheduledLoader):
    """Batches of an :class:`ImageSet`, augmented on its device.

    Where the set's images are as large as the batches', all loaders of a bundle show the same
    pixels. Random crops, and batches of another size, are cut from the set's squares (FFCV and
    DALI cut them from whole images).

    Args:
        image_set: The examples.
        settings: Which batches.
        positions: (k,) int64, the examples of the set that are shown; None for all.
    """

    def __init__(
        self,
        image_set: ImageSet,
        settings: LoaderSettings,
        *,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(Schedule(image_set.example_ids, settings, positions))
        self.image_set = image_set
        augmentation, side = settings.augmentation, image_set.images.shape[1]
        crop = augmentation.crop if augmentation else None
        whole = side == settings.resolution and settings.center_ratio == 1
        self._resampled = crop is not None or not whole

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What the set lacks of its bundle."""
        return self.image_set.skipped

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._schedule.epoch, self._schedule.begin()
        for number, positions in enumerate(self._schedule.batches(first), first):
            self._schedule.given(number)
            yield self._batch(positions, epoch)

    def _batch(self, positions: NDArray[np.int64], epoch: int) -> Batch:
        whole, ids = self.image_set, self.image_set.example_ids[positions]
        index = torch.from_numpy(positions).to(whole.images.device, non_blocking=True)
        pixels = self._shown(whole.images[index], ids, epoch)
        augmentation = self.settings.augmentation
        if augmentation is not None:
            pixels = shift(pixels, ids, augmentation, epoch)
            pixels = cut_out(pixels, ids, augmentation, epoch)
        return Batch(pixels.permute(0, 3, 1, 2), whole.labels[index], ids)

    def _shown(self, pixels: Tensor, ids: NDArray[np.int64], epoch: int) -> Tensor:
        """Cropped, resized and mirrored."""
        settings = self.settings
        flips = draw_flips(ids, settings.augmentation, epoch)
        if not self._resampled:
            if not flips.any():
                return pixels
            mirrored = torch.from_numpy(flips).to(pixels.device)[:, None, None, None]
            return torch.where(mirrored, pixels.flip(2), pixels)
        sides = np.full(len(ids), pixels.shape[1])
        boxes = image_boxes(ids, sides, sides, settings, epoch)
        return resample(pixels, boxes, flips, settings.resolution)

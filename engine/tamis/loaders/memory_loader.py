"""The whole set decoded once, as uint8 on the device; batches are gathers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import RAW_MODE
from tamis.devices import n_cores
from tamis.errors import BundleError, ImageError
from tamis.hashing import shuffled_order
from tamis.images import decode_jpeg, fit_square
from tamis.loaders.augment import sampling_grid
from tamis.loaders.batch import Augmentation, Batch
from tamis.progress import QUIET, Progress

__all__ = ["ImageSet", "MemoryLoader", "decode_image", "load_image_set"]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of one size.

    Attributes:
        images: (n, side, side, 3) uint8 on the device.
        labels: (n,) int64 on the device.
        example_ids: (n,) int64 on the host, distinct.
        n_classes: Classes of the bundle, of which a subset may lack some.
    """

    images: Tensor
    labels: Tensor
    example_ids: NDArray[np.int64]
    n_classes: int

    def subset(self, positions: NDArray[np.int64]) -> ImageSet:
        """The examples at the given positions, as a copy."""
        index = torch.from_numpy(positions).to(self.labels.device)
        return ImageSet(
            self.images[index], self.labels[index], self.example_ids[positions], self.n_classes
        )


def decode_image(bundle: Bundle, position: int) -> NDArray[np.uint8]:
    """One image of a bundle at its stored size, (height, width, 3) uint8 RGB.

    Raises:
        BundleError: The record does not decode to the stored size; names the example.
    """
    mode, width, height, record = bundle.image_record(position)
    try:
        if mode == RAW_MODE:
            return record.reshape(height, width, 3)
        image = decode_jpeg(record)
        if image.shape != (height, width, 3):
            raise ImageError(f"a JPEG of {image.shape[1]} × {image.shape[0]} pixels")
        return image
    except ImageError as error:
        path = bundle.paths[position].as_py() if bundle.paths is not None else None
        raise BundleError(
            bundle.path,
            expected=f"an image of {width} × {height} pixels in example"
            f" {bundle.example_ids[position]} ({path})",
            found=str(error),
            do=f"run: tamis verify --deep {bundle.path}",
        ) from error


def load_image_set(
    bundle: Bundle,
    resolution: int,
    device: torch.device | str = "cpu",
    *,
    progress: Progress = QUIET,
) -> ImageSet:
    """Decode a bundle: the largest centred square of each image, resized to ``resolution``.

    Resizing is by area when it shrinks (as FFCV's centre-crop decoder with ratio 1) and bilinear
    when it enlarges. Threads on all cores; 3·resolution² bytes an example.

    Raises:
        BundleError: A record that does not decode.
    """
    images = np.empty((bundle.n_examples, resolution, resolution, 3), np.uint8)
    parts = np.array_split(np.arange(bundle.n_examples), max(1, bundle.n_examples // 256))

    def decode(part: NDArray[np.int64]) -> int:
        for position in part:
            images[position] = fit_square(decode_image(bundle, int(position)), resolution)
        return len(part)

    with (
        progress.task(f"decode {bundle.path.name}", bundle.n_examples) as advance,
        ThreadPoolExecutor(n_cores(), thread_name_prefix="tamis-decode") as pool,
    ):
        for decoded in pool.map(decode, parts):
            advance(decoded)
    return ImageSet(
        torch.from_numpy(images).to(device),
        torch.from_numpy(bundle.labels).to(device),
        bundle.example_ids,
        bundle.n_classes,
    )


class MemoryLoader:
    """Batches of an :class:`ImageSet`.

    Args:
        image_set: The examples.
        batch_size: Examples in a batch.
        order_seed: Shuffle with this seed, or None for the set's own order.
        augmentation: For training; None gives the images as they are.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        order_seed: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.image_set, self._batch_size = image_set, batch_size
        self._order_seed, self._augmentation = order_seed, augmentation
        self._epoch = 0

    @property
    def n_examples(self) -> int:
        """Examples an epoch."""
        return len(self.image_set.example_ids)

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""
        return self._batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_examples // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        ids = self.image_set.example_ids
        order = np.arange(len(ids))
        if self._order_seed is not None:
            order = shuffled_order(ids, self._order_seed, self._epoch)
        for start in range(0, len(order), self._batch_size):
            yield self._batch(order[start : start + self._batch_size])

    def _batch(self, positions: NDArray[np.int64]) -> Batch:
        images, ids = self.image_set.images, self.image_set.example_ids[positions]
        index = torch.from_numpy(positions).to(images.device)
        if self._augmentation is None:
            pixels = images[index]
        else:
            rows, columns = sampling_grid(ids, self._augmentation, self._epoch, images.shape[1])
            rows, columns = rows.to(images.device), columns.to(images.device)
            pixels = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return Batch(pixels.permute(0, 3, 1, 2), self.image_set.labels[index], ids)

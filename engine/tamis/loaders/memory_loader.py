"""The whole set decoded once, as uint8 on the device; batches are gathers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.bundles.bundle import Bundle
from tamis.devices import n_cores
from tamis.loaders.augment import GREY, cut_out, draw_cutouts, draw_shifts, resize, shift
from tamis.loaders.augment_rows import resample_rows, shift_rows
from tamis.loaders.base import ScheduledLoader, SkipList
from tamis.loaders.batch import Batch, Skipped
from tamis.loaders.boxes import draw_flips, image_boxes
from tamis.loaders.decode_pool import DecodePool
from tamis.loaders.schedule import Schedule
from tamis.loaders.settings import Augmentation, LoaderSettings, OnError, Resample
from tamis.progress import QUIET, Progress

__all__ = ["ImageSet", "MemoryLoader", "load_image_set"]

_CHUNK = 1024  # examples between two words of progress
# Made while their holders work on earlier ones. With few cores, each makes a whole batch.
_BATCHES_AHEAD = 3


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
    resample: Resample = "antialias",
    exact: bool = False,
    workers: int | None = None,
    progress: Progress = QUIET,
) -> ImageSet:
    """Decode a bundle: a centred square of each image, resized to ``resolution``.

    In the order of the file; 3·resolution² bytes an example.

    Args:
        bundle: An opened bundle.
        resolution: Side in pixels.
        device: Where the set goes.
        positions: (k,) int64, the examples of the bundle that are decoded; None for all.
        center_ratio: Side of the square by the image's shorter side.
        on_error: ``skip`` leaves damaged examples out.
        resample: How images are resized.
        exact: Decode JPEGs at their full size, however small they are shown.
        workers: Threads; None takes all cores.
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
    settings = LoaderSettings(
        _CHUNK, resolution, center_ratio=center_ratio, resample=resample, exact=exact
    )
    with (
        progress.task(f"decode {bundle.path.name}", n) as advance,
        closing(DecodePool(bundle, settings, workers)) as pool,
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

    Where the set's images are as large as the batches', it shows the pixels of
    :class:`tamis.loaders.ffcv_loader.FFCVLoader`. Random crops, and batches of another size, are
    cut from the set's squares (FFCV and DALI cut them from whole images).

    Args:
        image_set: The examples.
        settings: Which batches.
        positions: (k,) int64, the examples of the set that are shown; None for all.
        workers: Threads that augment, of a set on a CPU; None takes all cores.
    """

    def __init__(
        self,
        image_set: ImageSet,
        settings: LoaderSettings,
        *,
        positions: NDArray[np.int64] | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(Schedule(image_set.example_ids, settings, positions))
        self._workers = workers or n_cores()
        self.image_set = image_set
        augmentation, side = settings.augmentation, image_set.images.shape[1]
        crop = augmentation.crop if augmentation else None
        whole = side == settings.resolution and settings.center_ratio == 1
        self._resampled = crop is not None or not whole

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What the set lacks of its bundle."""
        return self.image_set.skipped

    def __iter__(self) -> Generator[Batch]:
        epoch, first = self._schedule.epoch, self._schedule.begin()
        begun: deque[tuple[int, Callable[[], Batch]]] = deque()
        # A GPU is told of its work at once, on the stream that is current then.
        ahead = _BATCHES_AHEAD if self.image_set.images.device.type == "cpu" else 0
        # Starts threads when it is given work: not for a set on a GPU.
        with ThreadPoolExecutor(self._workers, thread_name_prefix="tamis-augment") as pool:
            for number, positions in enumerate(self._schedule.batches(first), first):
                begun.append((number, self._begin(positions, epoch, pool)))
                if len(begun) > ahead:
                    yield self._finished(epoch, *begun.popleft())
            while begun:
                yield self._finished(epoch, *begun.popleft())

    def _finished(self, epoch: int, number: int, finish: Callable[[], Batch]) -> Batch:
        batch = finish()
        self._schedule.given(epoch, number)
        return batch

    def _begin(
        self, positions: NDArray[np.int64], epoch: int, pool: ThreadPoolExecutor
    ) -> Callable[[], Batch]:
        """Begin a batch; what is returned waits for it."""
        whole, ids = self.image_set, self.image_set.example_ids[positions]
        index = torch.from_numpy(positions).to(whole.images.device, non_blocking=True)
        labels = whole.labels[index]
        augmentation = self.settings.augmentation
        flips = draw_flips(ids, augmentation, epoch)
        if whole.images.device.type == "cpu" and (augmentation is not None or self._resampled):
            pending = self._on_host(positions, flips, epoch, pool)
            return lambda: Batch(pending().permute(0, 3, 1, 2), labels, ids)
        batch = Batch(self._on_device(index, ids, flips, epoch).permute(0, 3, 1, 2), labels, ids)
        return lambda: batch

    def _boxes(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        sides = np.full(len(ids), self.image_set.images.shape[1])
        return image_boxes(ids, sides, sides, self.settings, epoch)

    def _on_device(
        self, index: Tensor, ids: NDArray[np.int64], flips: NDArray[np.bool_], epoch: int
    ) -> Tensor:
        """Cropped and resized, mirrored, shifted and covered, by torch's operations."""
        settings, pixels = self.settings, self.image_set.images[index]
        if self._resampled:
            boxes, side = self._boxes(ids, epoch), settings.resolution
            pixels = resize(pixels, boxes, flips, side, settings.resample)
        elif flips.any():
            mirrored = torch.from_numpy(flips).to(pixels.device, non_blocking=True)
            mirrored = mirrored[:, None, None, None]
            pixels = torch.where(mirrored, pixels.flip(2), pixels)
        if settings.augmentation is not None:
            pixels = shift(pixels, ids, settings.augmentation, epoch)
            pixels = cut_out(pixels, ids, settings.augmentation, epoch)
        return pixels

    def _on_host(
        self,
        positions: NDArray[np.int64],
        flips: NDArray[np.bool_],
        epoch: int,
        pool: ThreadPoolExecutor,
    ) -> Callable[[], Tensor]:
        """The same by compiled loops on threads, which are ten times as fast there."""
        ids, side = self.image_set.example_ids[positions], self.settings.resolution
        images, augmentation = self.image_set.images, self.settings.augmentation
        data, side_in = images.numpy().reshape(-1).view(np.int8), images.shape[1]
        out = np.empty((len(ids), side, side, 3), np.uint8)
        if self._resampled:
            rows = positions, self._boxes(ids, epoch), flips, out
            work = partial(_resize, data, side_in, self.settings.resample == "area")
            tasks = _in_parts(pool, self._workers, work, *rows)
            after = augmentation or Augmentation()
        else:
            assert augmentation is not None
            moves = draw_shifts(ids, augmentation, epoch, side)
            corners = draw_cutouts(ids, augmentation, epoch, side)
            work = partial(_shift, data, side, augmentation.cutout)
            tasks = _in_parts(pool, self._workers, work, positions, flips, *moves, *corners, out)
            after = Augmentation()

        def finish() -> Tensor:
            for task in tasks:
                task.result()
            return cut_out(shift(torch.from_numpy(out), ids, after, epoch), ids, after, epoch)

        return finish


def _resize(data: NDArray[np.int8], side: int, by_area: bool, *rows: NDArray[Any]) -> None:
    positions, boxes, flips, out = rows
    resample_rows(data, side, positions, boxes, flips, by_area, out)


def _shift(data: NDArray[np.int8], side: int, cutout: int, *rows: NDArray[Any]) -> None:
    positions, flips, ups, lefts, tops, cut_lefts, out = rows
    shift_rows(data, side, positions, flips, ups, lefts, tops, cut_lefts, cutout, GREY, out)


def _in_parts(
    pool: ThreadPoolExecutor, workers: int, work: Callable[..., None], *arrays: NDArray[Any]
) -> list[Future[None]]:
    """Call ``work`` with stretches of arrays of one length, as many as leave no core idle."""
    n = len(arrays[0])
    n_parts = min(n, -(-workers // _BATCHES_AHEAD))
    bounds = np.linspace(0, n, n_parts + 1).astype(int).tolist()
    return [
        pool.submit(work, *(values[start:end] for values in arrays))
        for start, end in pairwise(bounds)
    ]

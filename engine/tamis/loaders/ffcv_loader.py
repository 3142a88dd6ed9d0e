"""FFCV's own Loader over a bundle, with example ids; the only file that imports ffcv.

Ids need no extra field: FFCV fixes an epoch's order before the epoch starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import closing, suppress
from queue import Empty
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.bundles.bundle import Bundle
from tamis.devices import n_cores
from tamis.errors import WorkFailedError
from tamis.hashing import shuffled_order
from tamis.loaders.augment import sampling_grid
from tamis.loaders.batch import Augmentation, Batch

__all__ = ["FFCVLoader"]


class _EpochOrder:
    """Stands in for FFCV's traversal orders: bundle order, or tamis's own shuffle."""

    def __init__(self, bundle: Bundle, seed: int | None) -> None:
        self._ids, self._rows, self._seed = bundle.example_ids, bundle.rows, seed

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        if self._seed is None:
            order = np.arange(len(self._ids))
        else:
            order = shuffled_order(self._ids, self._seed, epoch)
        return order if self._rows is None else self._rows[order]


def _positions(bundle: Bundle, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in the bundle of rows of its file; they differ where it is virtual."""
    if bundle.rows is None:
        return rows
    order = np.argsort(bundle.rows)
    return order[np.searchsorted(bundle.rows, rows, sorter=order)]


class FFCVLoader:
    """Batches of a bundle that may be larger than memory.

    Images are the largest centred square, resized by area, as
    :func:`tamis.loaders.memory_loader.load_image_set` gives them; augmentation is the same too, so
    that both loaders show the same example in the same way.

    Opening compiles FFCV's pipeline, some seconds, by decoding one batch that nobody sees.

    Args:
        bundle: An opened bundle (FFCV itself checks nothing).
        batch_size: Examples in a batch.
        resolution: Side of the images in pixels.
        order_seed: Shuffle with this seed, None for the bundle's own order, or
            ``"quasi_random"`` for FFCV's order that keeps few pages open.
        augmentation: For training; None gives the images as they are.
        os_cache: Map the file (True), or keep only the pages in use in memory (False).
        workers: Threads; None takes all cores.
        device: Where batches go.

    Raises:
        BundleError: The file was replaced since the bundle was opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        batch_size: int,
        resolution: int,
        *,
        order_seed: int | Literal["quasi_random"] | None = None,
        augmentation: Augmentation | None = None,
        os_cache: bool = True,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.bundle, self._batch_size, self.device = bundle, batch_size, torch.device(device)
        # numba's TBB layer hangs at exit when the process is pinned to one core.
        os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        bundle.check_unchanged(bundle.file.stat())  # FFCV opens it by its name, and checks nothing
        quasi_random = order_seed == "quasi_random"
        image = bundle.fields[bundle.image_field].name
        pipelines: dict[str, Any] = {field.name: None for field in bundle.fields}
        decoder = CenterCropRGBImageDecoder((resolution, resolution), ratio=1.0)
        pipelines[image] = [decoder, ToTensor()]
        self._augmentation, self._epoch = augmentation, 0
        self._loader = Loader(
            str(bundle.file),
            indices=bundle.rows,
            batch_size=batch_size,
            num_workers=workers or n_cores(),
            order=OrderOption.QUASI_RANDOM if quasi_random else OrderOption.SEQUENTIAL,
            pipelines=pipelines,
            os_cache=os_cache,
            drop_last=False,
            seed=0,
        )
        if not quasi_random:
            seed = order_seed if isinstance(order_seed, int) else None
            self._loader.traversal_order = _EpochOrder(bundle, seed)
        with closing(iter(self)) as batches:
            next(batches)
        self.set_epoch(0)

    @property
    def n_examples(self) -> int:
        """Examples an epoch."""
        return self.bundle.n_examples

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""
        return self._batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self._loader.next_epoch = self._epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_examples // self._batch_size)

    def __iter__(self) -> Generator[Batch]:
        epoch = iter(self._loader)
        order = _positions(self.bundle, np.asarray(epoch.order, np.int64))
        try:
            for number in range(len(self)):
                self._await_batch(epoch)
                (images,) = next(epoch)
                yield self._batch(images, order[number * self._batch_size :][: len(images)])
        finally:
            # FFCV's thread looks for a request to end only while its queue is full, and then waits
            # for ever to put its last word: take its work away, and read what it still says.
            epoch.iter_ixes = iter(())
            while epoch.is_alive():
                with suppress(Empty):
                    epoch.output_queue.get(timeout=0.01)
            epoch.close()

    def _await_batch(self, epoch: Any) -> None:
        """Wait for the next batch; FFCV itself waits for ever if its thread has died."""
        while epoch.output_queue.empty():
            if not epoch.is_alive() and epoch.output_queue.empty():
                raise WorkFailedError(
                    self.bundle.path,
                    expected="FFCV's loader to decode it",
                    found="that its thread ended with an error",
                    do=f"run: tamis verify --deep {self.bundle.path}",
                )
            time.sleep(2e-4)

    def _batch(self, images: Tensor, positions: NDArray[np.int64]) -> Batch:
        """FFCV hands out views into a ring of buffers; the copy is ours."""
        ids = self.bundle.example_ids[positions]
        pixels = images.to(self.device, copy=True)
        if self._augmentation is not None:
            grid = sampling_grid(ids, self._augmentation, self._epoch, pixels.shape[1])
            rows, columns = (index.to(self.device) for index in grid)
            each = torch.arange(len(pixels), device=self.device)
            pixels = pixels[each[:, None, None], rows[:, :, None], columns[:, None, :]]
        labels = torch.from_numpy(self.bundle.labels[positions]).to(self.device)
        return Batch(pixels.permute(0, 3, 1, 2), labels, ids)

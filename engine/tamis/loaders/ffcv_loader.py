"""FFCV's own Loader over a bundle, with example ids; the only file that imports ffcv.

Ids need no extra field: FFCV fixes an epoch's order before the epoch starts.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.beton import Bundle
from tamis.hashing import shuffled_order
from tamis.loaders.batch import Batch

__all__ = ["FFCVLoader"]


class _EpochOrder:
    """Stands in for FFCV's traversal orders: bundle order, or tamis's own shuffle."""

    def __init__(self, example_ids: NDArray[np.int64], seed: int | None) -> None:
        self._ids, self._seed = example_ids, seed

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        if self._seed is None:
            return np.arange(len(self._ids))
        return shuffled_order(self._ids, self._seed, epoch)


class FFCVLoader:
    """Batches of a bundle that may be larger than memory.

    Scoring crops the largest centred square and resizes it by area, as
    :func:`tamis.loaders.memory_loader.load_image_set` does; ``random_crop`` is FFCV's random
    resized crop with a random flip, whose randomness FFCV cannot seed.

    Opening compiles FFCV's pipeline, some seconds, by decoding one batch that nobody sees.

    Args:
        bundle: An opened bundle (FFCV itself checks nothing).
        batch_size: Examples in a batch.
        resolution: Side of the images in pixels.
        order_seed: Shuffle with this seed, None for the bundle's own order, or
            ``"quasi_random"`` for FFCV's order that keeps few pages open.
        random_crop: Augment for training.
        os_cache: Map the file (True), or keep only the pages in use in memory (False).
        workers: Threads; None takes all cores.
        device: Where batches go.
    """

    def __init__(
        self,
        bundle: Bundle,
        batch_size: int,
        resolution: int,
        *,
        order_seed: int | Literal["quasi_random"] | None = None,
        random_crop: bool = False,
        os_cache: bool = True,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.bundle, self._batch_size, self.device = bundle, batch_size, torch.device(device)
        # numba's TBB layer hangs at exit when the process is pinned to one core.
        os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

        quasi_random = order_seed == "quasi_random"
        image = bundle.fields[bundle.image_field].name
        pipelines: dict[str, Any] = {field.name: None for field in bundle.fields}
        pipelines[image] = [_decoder(resolution, random_crop)]
        if random_crop:
            pipelines[image].append(RandomHorizontalFlip())
        pipelines[image] += [ToTensor(), ToTorchImage(convert_back_int16=False)]
        self._loader = Loader(
            str(bundle.path),
            batch_size=batch_size,
            num_workers=workers or os.cpu_count() or 1,
            order=OrderOption.QUASI_RANDOM if quasi_random else OrderOption.SEQUENTIAL,
            pipelines=pipelines,
            os_cache=os_cache,
            drop_last=False,
            seed=0,
        )
        if not quasi_random:
            seed = order_seed if isinstance(order_seed, int) else None
            self._loader.traversal_order = _EpochOrder(bundle.example_ids, seed)
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
        self._loader.next_epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_examples // self._batch_size)

    def __iter__(self) -> Generator[Batch]:
        epoch = iter(self._loader)
        order = np.asarray(epoch.order, np.int64)
        try:
            for number, (images,) in enumerate(epoch):
                positions = order[number * self._batch_size :][: len(images)]
                labels = torch.from_numpy(self.bundle.labels[positions])
                # FFCV hands out views into a ring of buffers: copy, so that the batch is ours.
                yield Batch(
                    images.clone().to(self.device),
                    labels.to(self.device),
                    self.bundle.example_ids[positions],
                )
        finally:
            epoch.close()
            epoch.join()


def _decoder(resolution: int, random_crop: bool) -> Any:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder

    size = (resolution, resolution)
    if random_crop:
        return RandomResizedCropRGBImageDecoder(size)
    return CenterCropRGBImageDecoder(size, ratio=1.0)

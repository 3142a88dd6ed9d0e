"""What is compared: tamis's backends, plain FFCV, and the loaders that people have.

Each opens the same images and gives a function that goes through one epoch. All show
the same part of each image: the largest centred square, or torchvision's random resized crop and
flips, resized to the same side; small images of one size are shifted and flipped.
"""

from __future__ import annotations

import gc
import io
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["CONTENDERS", "RESIDENT", "Epoch", "Mode", "Task", "open_contender"]

RESIDENT = "one batch, there already"
"""Of a contender that loads nothing: what a network takes when it never waits."""

Mode = Literal["score", "train", "small"]


@dataclass(frozen=True)
class Task:
    """What a loader is given.

    Attributes:
        bundle: The images as a bundle.
        files: A text file with a path and a label a line, of the same images as files; or "".
        shards: The same in tar shards, as WebDataset's brace pattern; or "".
        mode: ``score``, ``train`` (random resized crop and flip), or ``small`` (shift by up to 4
            pixels and flip).
        side: Of the images in pixels.
        batch_size: Examples.
        workers: Threads or processes that decode.
        every: Only each so many-th example; of the bundle's loaders.
        unmap: Let go of the file after each epoch, so that it can leave the page cache.
        device: Where batches go, ``cpu`` or ``cuda``.
        feed: A network takes the batches (:mod:`tamis.benchmarks.loaders.feeding`).
    """

    bundle: str
    files: str
    shards: str
    mode: Mode
    side: int
    batch_size: int
    workers: int
    every: int = 1
    unmap: bool = False
    device: str = "cpu"
    feed: bool = False


Epoch = Callable[[int], Iterator[Tensor]]
"""Goes through the epoch of that number, giving each batch's images: (b, 3, h, w) uint8 in
channels-last memory, on the device."""


def open_contender(name: str, task: Task) -> Epoch:
    """Open a loader by its name in ``CONTENDERS``, or ``RESIDENT``."""
    return _resident(task) if name == RESIDENT else CONTENDERS[name](task)


def _on_device(batches: Iterable[Any], task: Task) -> Iterator[Tensor]:
    """Images of (b, h, w, 3), labels → images of (b, 3, h, w); labels are moved, too."""
    for images, labels, *_ in batches:
        labels.to(task.device, non_blocking=True)
        yield images.to(task.device, non_blocking=True).permute(0, 3, 1, 2)


def _resident(task: Task) -> Epoch:
    from tamis.bundles.opening import open_bundle

    n_examples = open_bundle(task.bundle).n_examples
    shape = (task.batch_size, task.side, task.side, 3)
    batch = torch.randint(256, shape, dtype=torch.uint8, device=task.device).permute(0, 3, 1, 2)

    def epoch(number: int) -> Iterator[Tensor]:
        for start in range(0, n_examples, task.batch_size):
            yield batch[: n_examples - start]

    return epoch


def _tamis(backend: str) -> Callable[[Task], Epoch]:
    def open_tamis(task: Task) -> Epoch:
        from tamis.bundles.opening import open_bundle
        from tamis.loaders.opening import open_loader
        from tamis.loaders.settings import Augmentation, RandomResizedCrop

        augmentations = {
            "score": None,
            "train": Augmentation(crop=RandomResizedCrop(), flip=True),
            "small": Augmentation(flip=True, translate=4),
        }
        bundle = open_bundle(task.bundle)
        loader = open_loader(
            bundle,
            selection=bundle.example_ids[:: task.every] if task.every > 1 else None,
            backend=backend,
            mode="score" if task.mode == "score" else "train",
            batch_size=task.batch_size,
            resolution=task.side,
            augmentation=augmentations[task.mode],
            workers=task.workers,
            device=task.device,
        )

        def epoch(number: int) -> Iterator[Tensor]:
            loader.set_epoch(number)
            return (batch.images for batch in loader)

        return epoch

    return open_tamis


def _plain_ffcv(task: Task) -> Epoch:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import (
        CenterCropRGBImageDecoder,
        RandomResizedCropRGBImageDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate, Squeeze, ToDevice, ToTensor

    size = (task.side, task.side)
    images = {
        "score": [CenterCropRGBImageDecoder(size, ratio=1.0)],
        "train": [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()],
        "small": [SimpleRGBImageDecoder(), RandomHorizontalFlip(), RandomTranslate(padding=4)],
    }
    device = torch.device(task.device)
    to_device = [ToDevice(device, non_blocking=True)] if device.type == "cuda" else []
    n_examples = len(Reader(task.bundle).metadata)
    loader = Loader(
        task.bundle,
        indices=np.arange(0, n_examples, task.every),
        batch_size=task.batch_size,
        num_workers=task.workers,
        order=OrderOption.SEQUENTIAL if task.mode == "score" else OrderOption.RANDOM,
        pipelines={
            "image": [*images[task.mode], ToTensor(), *to_device],
            "label": [IntDecoder(), ToTensor(), *to_device, Squeeze()],
        },
        os_cache=True,
        drop_last=False,
    )

    def epoch(number: int) -> Iterator[Tensor]:
        yield from _on_device(loader, task)
        if task.unmap:
            loader.memory_manager.context.mmap = None
            gc.collect()

    return epoch


class _Transform:
    """torchvision's transforms on Pillow images, as (side, side, 3) uint8."""

    def __init__(self, task: Task) -> None:
        self._mode, self._side = task.mode, task.side

    def __call__(self, data: bytes) -> torch.Tensor:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        top, left, height, width = self._box(image.height, image.width)
        size, how = (self._side, self._side), Image.Resampling.BILINEAR
        resized = image.crop((left, top, left + width, top + height)).resize(size, how)
        if self._mode != "score" and random.random() < 0.5:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(resized))

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height, width; torchvision's with less overhead than its own."""
        if self._mode == "score":
            side = min(height, width)
            return (height - side) // 2, (width - side) // 2, side, side
        for _ in range(10):
            area = height * width * random.uniform(0.08, 1)
            aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, height - h), random.randint(0, width - w), h, w
        return 0, 0, height, width


class _Files(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """torchvision's ImageFolder over a list of files."""

    def __init__(self, task: Task) -> None:
        lines = Path(task.files).read_text(encoding="utf-8").splitlines()
        self._files = [tuple(line.rsplit(" ", 1)) for line in lines]
        self._transform = _Transform(task)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self._files[index]
        return self._transform(Path(path).read_bytes()), int(label)


def _pillow(task: Task) -> Epoch:
    loader = torch.utils.data.DataLoader(
        _Files(task),
        batch_size=task.batch_size,
        shuffle=task.mode != "score",
        num_workers=task.workers,
        persistent_workers=True,
        pin_memory=task.device == "cuda",
    )
    return lambda number: _on_device(loader, task)


def _webdataset(task: Task) -> Epoch:
    import webdataset

    transform = _Transform(task)
    shuffled = task.mode != "score"
    images = webdataset.WebDataset(task.shards, shardshuffle=100 if shuffled else False)
    if shuffled:
        images = images.shuffle(1000)
    tuples = images.to_tuple("jpg", "cls").map_tuple(transform, int).batched(task.batch_size)
    loader = webdataset.WebLoader(
        tuples,
        batch_size=None,
        num_workers=task.workers,
        persistent_workers=True,
        pin_memory=task.device == "cuda",
    )
    return lambda number: _on_device(loader, task)


CONTENDERS: dict[str, Callable[[Task], Epoch]] = {
    "ffcv": _tamis("ffcv"),
    "dali": _tamis("dali"),
    "memory": _tamis("memory"),
    "plain FFCV": _plain_ffcv,
    "PIL DataLoader": _pillow,
    "WebDataset": _webdataset,
}
"""Name → opens it; the first three are tamis's."""

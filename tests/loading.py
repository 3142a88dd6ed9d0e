"""Loaders as tests want them, and what their batches hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import JPEG_MODE
from tamis.bundles.opening import open_bundle
from tamis.loaders.batch import Batch, Loader
from tamis.loaders.decoding import Records
from tamis.loaders.ffcv_loader import FFCVLoader
from tamis.loaders.memory_loader import ImageSet, MemoryLoader
from tamis.loaders.settings import LoaderSettings

__all__ = [
    "epoch",
    "ids_of",
    "images_of",
    "jpeg_records",
    "labels_of",
    "memory_loader",
    "noise",
    "streamed",
    "with_damage",
]


def memory_loader(image_set: ImageSet, batch_size: int, **settings: Any) -> MemoryLoader:
    """Batches at the set's own size; in train mode where a seed or augmentation is given."""
    return MemoryLoader(image_set, _settings(batch_size, image_set.images.shape[1], settings))


def streamed(bundle: Bundle, batch_size: int, side: int, **settings: Any) -> FFCVLoader:
    """The same from a bundle."""
    return FFCVLoader(bundle, _settings(batch_size, side, settings))


def _settings(batch_size: int, side: int, settings: dict[str, Any]) -> LoaderSettings:
    mode = "train" if {"seed", "augmentation"} & settings.keys() else "score"
    return LoaderSettings(batch_size, side, **{"mode": mode, **settings})


def noise(n: int, side: int) -> ImageSet:
    """Random pixels under ids that are neither consecutive nor sorted."""
    rng = np.random.default_rng(n)
    pixels = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    ids = rng.permutation(10 * n)[:n]
    return ImageSet(torch.from_numpy(pixels), torch.from_numpy(ids % 7), ids, 7)


def epoch(loader: Loader, number: int = 0) -> list[Batch]:
    loader.set_epoch(number)
    return list(loader)


def ids_of(batches: Iterable[Batch]) -> list[int]:
    return [int(example_id) for batch in batches for example_id in batch.example_ids]


def images_of(batches: Iterable[Batch]) -> dict[int, NDArray[np.uint8]]:
    """Id → (side, side, 3) pixels."""
    return {
        int(example_id): image.permute(1, 2, 0).numpy()
        for batch in batches
        for example_id, image in zip(batch.example_ids, batch.images, strict=True)
    }


def labels_of(batches: Iterable[Batch]) -> dict[int, int]:
    return {
        int(example_id): int(label)
        for batch in batches
        for example_id, label in zip(batch.example_ids, batch.labels, strict=True)
    }


def jpeg_records(data: list[bytes], sizes: list[tuple[int, int]], *, proven: bool) -> Records:
    """Encoded images in one buffer; ``sizes`` are widths and heights."""
    lengths = np.array([len(record) for record in data])
    widths, heights = np.array(sizes).T
    return Records(
        np.frombuffer(bytearray(b"".join(data)), np.int8),
        np.cumsum(lengths) - lengths,
        lengths,
        np.full(len(data), JPEG_MODE),
        np.ascontiguousarray(widths),
        np.ascontiguousarray(heights),
        proven=proven,
    )


def with_damage(bundle: Bundle, out: Path, positions: list[int]) -> Bundle:
    """A copy in which the heads of some records are overwritten."""
    data = bytearray(bundle.file.read_bytes())
    for position in positions:
        offset = int(bundle.extents[position, 0, 0])
        data[offset : offset + 40] = bytes(40)
    out.write_bytes(data)
    return open_bundle(out)

"""Bundles written by plain FFCV. Run as a script: ``python ffcv_bundles.py FOLDER``.

A process of its own, because FFCV's writer forks and a fork of a process full of threads may hang.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_MIXED", "N_PAGES", "N_SMALL", "Mixed", "mixed", "pages", "small", "write_all"]

N_SMALL, N_MIXED, N_PAGES = 40, 60, 250
PAGE_SIZE = 2 << 20


class Mixed(NamedTuple):
    """An example with every kind of field, in the order of the bundle ``mixed``."""

    note: NDArray[np.uint8]
    weight: float
    facts: dict[str, Any]
    vector: NDArray[np.float32]
    image: NDArray[np.uint8]
    number: int
    tensor: NDArray[np.int16]


def small(index: int) -> tuple[NDArray[np.uint8], int]:
    """16 × 16 pixels and a label from 0 to 4: one page."""
    rng = np.random.default_rng((1, index))
    return rng.integers(0, 256, (16, 16, 3), np.uint8), index % 5


def pages(index: int) -> tuple[int, NDArray[np.uint8]]:
    """A label and 100 × 100 pixels: five pages of 2 MiB, so records meet page boundaries."""
    rng = np.random.default_rng((2, index))
    return index, rng.integers(0, 256, (100, 100, 3), np.uint8)


def mixed(index: int) -> Mixed:
    """All field types; every third note is empty, the first and the last among them."""
    rng = np.random.default_rng((3, index))
    length = 0 if index % 3 == 0 or index == N_MIXED - 1 else int(rng.integers(1, 40))
    return Mixed(
        note=rng.integers(0, 256, length, np.uint8),
        weight=float(rng.normal()),
        facts={"index": index, "name": "é" * (index % 4), "list": list(range(index % 5))},
        vector=rng.normal(size=(3, 2)).astype(np.float32),
        image=rng.integers(0, 256, (10, 12, 3), np.uint8),
        number=1000 + index,
        tensor=rng.integers(-9, 9, 5).astype(np.int16),
    )


class _Indexed:
    """What FFCV's writer reads: len() and [ ]."""

    def __init__(self, length: int, example: Callable[[int], tuple[Any, ...]]) -> None:
        self._length, self._example = length, example

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._example(int(index))


def _mixed_for_writer(index: int) -> tuple[Any, ...]:
    import torch

    example = mixed(index)
    return (*example[:-1], torch.from_numpy(example.tensor))


def write_all(folder: Path) -> None:
    """Write ``small``, ``mixed`` and ``pages`` (the last with two workers)."""
    import torch
    from ffcv.fields import (
        BytesField,
        FloatField,
        IntField,
        JSONField,
        NDArrayField,
        RGBImageField,
        TorchTensorField,
    )
    from ffcv.writer import DatasetWriter

    image = RGBImageField(write_mode="raw")
    for name, fields, length, example, workers in (
        ("small", {"image": image, "label": IntField()}, N_SMALL, small, 1),
        ("pages", {"label": IntField(), "image": image}, N_PAGES, pages, 2),
        (
            "mixed",
            {
                "note": BytesField(),
                "weight": FloatField(),
                "facts": JSONField(),
                "vector": NDArrayField(np.dtype("<f4"), (3, 2)),
                "image": image,
                "number": IntField(),
                "tensor": TorchTensorField(torch.int16, (5,)),
            },
            N_MIXED,
            _mixed_for_writer,
            1,
        ),
    ):
        writer = DatasetWriter(
            str(folder / f"{name}.beton"), fields, page_size=PAGE_SIZE, num_workers=workers
        )
        writer.from_indexed_dataset(_Indexed(length, example))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))

"""Batches on their way from host memory to a device."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.loaders.batch import Batch

__all__ = ["Buffers", "PinnedBuffers", "to_device"]

# References to an array that only Buffers holds, seen from within a loop over it: the list's, the
# loop variable's, the question's.
_OWN_REFERENCES = 3


class Buffers:
    """Host memory for batches, taken again once nobody holds the batch that was in it.

    Fresh memory costs a page fault every 4 KiB, a twentieth of decoding what goes there.

    Args:
        shape: (batch size, side, side, 3).
        most: How many are kept for later.
    """

    def __init__(self, shape: tuple[int, ...], most: int) -> None:
        self._shape, self._most = shape, most
        self._buffers: list[NDArray[np.uint8]] = []

    def take(self, n: int) -> NDArray[np.uint8]:
        """Memory for n images, (n, side, side, 3) uint8."""
        for buffer in self._buffers:
            if sys.getrefcount(buffer) <= _OWN_REFERENCES:
                return buffer[:n]
        fresh = np.empty(self._shape, np.uint8)
        if len(self._buffers) < self._most:
            self._buffers.append(fresh)
        return fresh[:n]


class PinnedBuffers:
    """The same for copies to a GPU; torch keeps the memory until they are done."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def take(self, n: int) -> NDArray[np.uint8]:
        """Memory for n images, (n, side, side, 3) uint8."""
        pinned = torch.empty((n, *self._shape[1:]), dtype=torch.uint8, pin_memory=True)
        return pinned.numpy()


def to_device(
    batches: Iterator[tuple[int, Batch]], device: torch.device
) -> Generator[tuple[int, Batch]]:
    """Numbered batches, each copied while its holder works on the one before.

    Args:
        batches: On the host; for a GPU in pinned memory.
        device: Where to. Batches are ready for the stream that is current when they are given.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    held: tuple[int, Batch, torch.cuda.Event] | None = None
    for number, batch in batches:
        with torch.cuda.stream(stream):
            copy = Batch(
                batch.images.to(device, non_blocking=True),
                batch.labels.pin_memory().to(device, non_blocking=True),
                batch.example_ids,
            )
            copied = stream.record_event()
        if held is not None:
            yield _ready(*held)
        held = number, copy, copied
    if held is not None:
        yield _ready(*held)


def _ready(number: int, batch: Batch, copied: torch.cuda.Event) -> tuple[int, Batch]:
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(copied)
    # The memory belongs to the copying stream: it is not given away before this one is done.
    for tensor in (batch.images, batch.labels):
        tensor.record_stream(current)
    return number, batch

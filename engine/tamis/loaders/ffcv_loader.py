"""Streams a bundle: reads ahead, decodes on all cores, checks every record."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.loaders.base import StreamingLoader
from tamis.loaders.batch import Batch
from tamis.loaders.decode_pool import DecodePool, Decoding, Tools
from tamis.loaders.device_copy import Buffers, PinnedBuffers
from tamis.loaders.settings import LoaderSettings

__all__ = ["FFCVLoader"]

# Batches that are decoded before they are wanted, and examples that the system is asked for before
# they are decoded: so many requests keep a disk busy that is slow at random.
_BATCHES_AHEAD = 2
_EXAMPLES_ASKED = 256


class FFCVLoader(StreamingLoader):
    """Batches by FFCV's way of decoding: libturbojpeg and resizing in compiled threads.

    FFCV's format and native library, without its Python: nothing is compiled for each loader, and
    each record is read, proven by its checksum (where the bundle has them), decoded and checked.
    FFCV looks at no return code: of a damaged record it shows the previous image of that slot.

    All that is random depends on (seed, epoch, example id) alone, not on the number of threads.
    Memory: batches ahead, and for each thread the pixels of the largest image. An iteration that
    ends early leaves no thread.

    Args:
        bundle: An opened bundle.
        settings: Which batches.
        device: Where they go; copies to a GPU go beside the work on the batch before.
        positions: (k,) int64, the examples of the bundle that are shown; None for all.
        workers: Threads; None takes all cores.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: LoaderSettings,
        device: torch.device | str = "cpu",
        *,
        positions: NDArray[np.int64] | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(bundle, settings, device, positions=positions)
        self._workers = workers
        self._tools: deque[Tools] = deque()
        shape = (settings.batch_size, settings.resolution, settings.resolution, 3)
        on_gpu = self.device.type == "cuda"
        # One more than are ahead is with the caller, and another one is being asked for.
        self._buffers = PinnedBuffers(shape) if on_gpu else Buffers(shape, _BATCHES_AHEAD + 2)

    def decoded(self, first: int, epoch: int) -> Generator[tuple[int, Batch]]:
        """See :class:`StreamingLoader`."""
        batches = self._schedule.batches(first)
        ask_ahead = _BATCHES_AHEAD + -(-_EXAMPLES_ASKED // self.batch_size)
        n_asked = n_begun = 0
        pending: deque[Decoding] = deque()
        workers, tools = self._workers, self._tools
        with closing(DecodePool(self.bundle, self.settings, workers, tools)) as pool:
            try:
                for i in range(len(batches)):
                    while n_asked < min(len(batches), i + ask_ahead):
                        pool.ask_for(batches[n_asked])
                        n_asked += 1
                    while n_begun < min(len(batches), i + 1 + _BATCHES_AHEAD):
                        positions = batches[n_begun]
                        pixels = self._buffers.take(len(positions))
                        pending.append(pool.decode(positions, epoch, pixels))
                        n_begun += 1
                    done = pending.popleft()
                    batch = self.batch_of(done.pixels, done.positions, done.wait())
                    del done  # its memory is free once the caller has let go of the batch
                    if batch is not None:
                        yield first + i, batch
                    del batch
            finally:
                for decoding in pending:
                    decoding.cancel()

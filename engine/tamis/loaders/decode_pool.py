"""Examples of a bundle → pixels of one size, on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.devices import n_cores
from tamis.loaders.boxes import draw_flips, image_boxes
from tamis.loaders.decoding import Decoder, Failure
from tamis.loaders.records import RecordReader
from tamis.loaders.settings import LoaderSettings

__all__ = ["DecodePool", "Decoding", "Tools"]

# One call of a thread: enough that Python's share is small, little enough that its buffer stays in
# the cache and that all threads end a batch together (bench/records/NOTES.md).
_TASK_BYTES, _TASK_EXAMPLES = 1 << 21, 256


@dataclass(frozen=True)
class Decoding:
    """A batch under way.

    Attributes:
        positions: (b,) int64, in the bundle.
        pixels: (b, side, side, 3) uint8, being written to.
        parts: First row and task of each part.
    """

    positions: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    parts: Sequence[tuple[int, Future[list[Failure]]]]

    def wait(self) -> list[Failure]:
        """Until all is decoded; gives the rows that failed.

        Raises:
            WorkFailedError: The file cannot be read.
        """
        return [
            Failure(first + failure.row, failure.reason)
            for first, task in self.parts
            for failure in task.result()
        ]

    def cancel(self) -> None:
        """Begin no further part."""
        for _, task in self.parts:
            task.cancel()


@dataclass
class Tools:
    """What one thread at a time works with.

    Attributes:
        decoder: Holds the pixels of the largest image so far.
        buffer: (bytes,) int8, for encoded records.
    """

    decoder: Decoder
    buffer: NDArray[np.int8]


class DecodePool:
    """Threads that read and decode examples, until it is closed.

    Args:
        bundle: An opened bundle.
        settings: Which part of each image is shown, how it is augmented.
        workers: Threads; None takes all cores.
        tools: What threads of earlier pools have left, and these will leave.

    Raises:
        BundleError: The file was replaced since the bundle was opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: LoaderSettings,
        workers: int | None = None,
        tools: deque[Tools] | None = None,
    ) -> None:
        self._bundle, self._settings = bundle, settings
        rows = bundle.metadata[f"f{bundle.image_field}"]
        self._widths, self._heights = rows["width"], rows["height"]
        self._reader = RecordReader(bundle)
        self._workers = workers or n_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="tamis-decode")
        # Asking waits for the disk's queue: a thread of its own, that the others may decode.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="tamis-ask")
        self._tools: deque[Tools] = deque() if tools is None else tools

    def close(self) -> None:
        """End the threads, after what they have begun."""
        for pool in (self._asking, self._pool):
            pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def ask_for(self, positions: NDArray[np.int64]) -> None:
        """Have the system read these examples soon; does not wait."""
        self._asking.submit(self._reader.ask_for, positions)

    def decode(
        self, positions: NDArray[np.int64], epoch: int, pixels: NDArray[np.uint8]
    ) -> Decoding:
        """Begin to decode examples into ``pixels``, (b, side, side, 3) uint8; does not wait."""
        sizes = self._bundle.extents[positions, :, 1].sum()
        each = max(1, int(sizes) // max(1, len(positions)))
        # At least two tasks a thread; those that are done first go on with the next batch.
        fair = -(-len(positions) // (2 * self._workers))
        step = max(1, min(_TASK_EXAMPLES, _TASK_BYTES // each, fair))
        # Drawn for the whole batch: a hundred of NumPy's calls are dear for a few examples.
        ids = self._bundle.example_ids[positions]
        heights = self._heights[positions].astype(np.int64)
        widths = self._widths[positions].astype(np.int64)
        boxes = image_boxes(ids, heights, widths, self._settings, epoch)
        flips = draw_flips(ids, self._settings.augmentation, epoch)
        parts = []
        for first in range(0, len(positions), step):
            rows = slice(first, first + step)
            arguments = positions[rows], boxes[rows], flips[rows], pixels[rows]
            parts.append((first, self._pool.submit(self._decode, *arguments)))
        return Decoding(positions, pixels, parts)

    def _decode(
        self,
        positions: NDArray[np.int64],
        boxes: NDArray[np.int64],
        flips: NDArray[np.bool_],
        pixels: NDArray[np.uint8],
    ) -> list[Failure]:
        with self._borrowed() as tools:
            records, altered = self._reader.read(positions, tools.buffer)
            tools.buffer = records.data
            failed = tools.decoder.decode(records, boxes, flips, pixels)
        # A record of other bytes may decode, too; and one that does not has one reason.
        known = {failure.row for failure in altered}
        return altered + [failure for failure in failed if failure.row not in known]

    @contextmanager
    def _borrowed(self) -> Iterator[Tools]:
        try:
            tools = self._tools.pop()
        except IndexError:
            decoder = Decoder(self._settings.resample, exact=self._settings.exact)
            tools = Tools(decoder, np.empty(_TASK_BYTES, np.int8))
        try:
            yield tools
        finally:
            self._tools.append(tools)

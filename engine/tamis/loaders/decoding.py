"""Encoded records → pixels of one size, checked, without Python's lock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.images import MAX_PIXELS
from tamis.loaders.decode_rows import BAD_RAW, FINE, NO_HEADER, OTHER_SIZE, TOO_LARGE, decode_rows
from tamis.loaders.settings import Resample
from tamis.loaders.turbojpeg import Decompressor

__all__ = ["Decoder", "Failure", "Records"]


@dataclass(frozen=True)
class Records:
    """Encoded images that lie in one buffer.

    Attributes:
        data: (bytes,) int8.
        starts: (k,) int64, the first byte of each.
        sizes: (k,) int64 bytes.
        modes: (k,) int64, FFCV's: 0 a JPEG, 1 pixels.
        widths: (k,) int64 pixels that the bundle states.
        heights: (k,) int64.
        proven: Whether the bytes are known to be those that were written: if so, what
            libjpeg-turbo only warns of (bytes too many, say) belongs to the image.
    """

    data: NDArray[np.int8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    modes: NDArray[np.int64]
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    proven: bool


@dataclass(frozen=True)
class Failure:
    """A record that is not the image that the bundle states.

    Attributes:
        row: Which of the records.
        reason: What is wrong with it.
    """

    row: int
    reason: str


class Decoder:
    """Decodes batches of records; for one thread at a time.

    Memory: the pixels of the largest image so far, and its record.

    Args:
        resample: How boxes are resized.
        exact: See :class:`tamis.loaders.settings.LoaderSettings`.
    """

    def __init__(self, resample: Resample = "antialias", *, exact: bool = False) -> None:
        self._decompressor = Decompressor()
        self._by_area, self._exact = resample == "area", exact
        self._pixels: NDArray[np.int8] = np.empty(0, np.int8)
        self._smaller: NDArray[np.int8] = np.empty(0, np.int8)

    def decode(
        self,
        records: Records,
        boxes: NDArray[np.int64],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
    ) -> list[Failure]:
        """Decode records, cut a box out of each, and resize it.

        Of a baseline JPEG whose bytes are proven, only the tiles under the box are decoded, or
        without tiles what is not below it: the same pixels.

        JPEGs are decoded as Pillow and torchvision decode them: the accurate inverse DCT and
        smooth chroma (FFCV takes the fast DCT, which is off by up to 25 levels and no faster).
        Python's lock is released for all of it.

        Args:
            records: k encoded images.
            boxes: (k, 4) int64: top, left, height and width inside the image.
            flips: (k,) bool, which to mirror.
            out: (k, height, width, 3) uint8, written to.

        Returns:
            The records that failed, whose place in ``out`` then holds anything.
        """
        pixels = records.widths * records.heights
        largest = 3 * int(pixels[pixels <= MAX_PIXELS].max(initial=0))
        if largest > len(self._pixels):
            self._pixels = np.empty(largest, np.int8)
        longest = int(records.sizes.max(initial=0))
        if longest > len(self._smaller):
            self._smaller = np.empty(longest, np.int8)
        arrays = (
            records.data,
            records.starts,
            records.sizes,
            records.modes,
            records.widths,
            records.heights,
        )
        failures: list[Failure] = []
        row = 0
        while True:
            row, status = decode_rows(
                row,
                self._decompressor.handle,
                arrays,
                records.proven,
                boxes,
                flips,
                self._exact,
                self._by_area,
                self._pixels,
                self._smaller,
                out,
            )
            if status == FINE:
                return failures
            failures.append(Failure(row, self._reason(records, row, status)))
            row += 1
            # After half a header libjpeg-turbo goes on with it in the next record.
            self._decompressor.close()
            self._decompressor = Decompressor()

    def _reason(self, records: Records, row: int, status: int) -> str:
        if status == OTHER_SIZE:
            start = records.starts[row]
            record = records.data[start : start + records.sizes[row]]
            return "a JPEG of {} × {} pixels".format(*self._decompressor.size(record))
        if status == NO_HEADER:
            return "no JPEG, or one without a readable header"
        if status == BAD_RAW:
            return f"{records.sizes[row]} bytes of pixels"
        if status == TOO_LARGE:
            return f"more than {MAX_PIXELS:,} pixels"
        return f"a JPEG that does not decode ({self._decompressor.last_error()})"

    def close(self) -> None:
        """Give the memory back."""
        self._decompressor.close()

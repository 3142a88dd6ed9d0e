"""Encoded records of a bundle, read into memory and proven by their checksums."""

from __future__ import annotations

import os
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.digest import span_checksums
from tamis.bundles.spans import Span
from tamis.errors import WorkFailedError, first_line
from tamis.loaders.decoding import Failure, Records

__all__ = ["OTHER_BYTES", "RecordReader"]

OTHER_BYTES = "other bytes than were written"
"""Why a record is not used whose checksum differs."""

# Records that are no farther apart are read, or asked for, in one call.
_READ_GAP, _ASK_GAP = 4096, 1 << 16


class RecordReader:
    """Reads examples of a bundle from its file; any number of threads may do so at once.

    The file is read, not mapped: one that shrinks meanwhile is an error, where a map would end the
    process, and threads that wait for the disk hold no lock of Python's.

    Raises:
        BundleError: The file was replaced since the bundle was opened.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        image = bundle.image_field
        self._rows = bundle.metadata[f"f{image}"]
        self._checksums = bundle.trailer.checksums if bundle.trailer else None
        # A checksum covers all of an example; without one, only the image is read.
        column = bundle.payload_fields.index(image)
        proven = self._checksums is not None
        self._extents = bundle.extents if proven else bundle.extents[:, column : column + 1]
        self._image = column if proven else 0
        try:
            self._file = os.open(bundle.file, os.O_RDONLY)
        except OSError as error:
            raise bundle.changed(first_line(error)) from error
        try:
            bundle.check_unchanged(os.fstat(self._file))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def ask_for(self, positions: NDArray[np.int64]) -> None:
        """Tell the system that these examples will be read soon."""
        starts, ends, _ = _runs(self._extents[positions], _ASK_GAP)
        with suppress(OSError, AttributeError):  # where there is no such call
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_WILLNEED)

    def read(
        self, positions: NDArray[np.int64], buffer: NDArray[np.int8]
    ) -> tuple[Records, list[Failure]]:
        """Read whole examples and prove their checksums.

        Args:
            positions: (k,) int64, in the bundle.
            buffer: (bytes,) int8 to read into; where it is too small, another one is taken.

        Returns:
            The images' records, and those whose bytes are not the ones that were written.

        Raises:
            WorkFailedError: The file cannot be read, or ends early.
        """
        extents = self._extents[positions]
        run_starts, run_ends, run_of = _runs(extents, _READ_GAP)
        ends = np.cumsum(run_ends - run_starts)
        places = ends - (run_ends - run_starts)
        if len(ends) and ends[-1] > len(buffer):
            buffer = np.empty(int(ends[-1]), np.int8)
        view = memoryview(buffer.data).cast("B")
        for place, start, end in zip(
            places.tolist(), run_starts.tolist(), run_ends.tolist(), strict=True
        ):
            self._read(view[place : place + end - start], start)
        moved = (places - run_starts)[run_of] if len(ends) else 0
        offsets, sizes = extents[..., 0], extents[..., 1]
        starts = np.where(sizes > 0, offsets + moved, 0)  # empty ones may point anywhere
        rows = self._rows[positions]
        records = Records(
            buffer,
            np.ascontiguousarray(starts[:, self._image]),
            np.ascontiguousarray(sizes[:, self._image]),
            rows["mode"].astype(np.int64),
            rows["width"].astype(np.int64),
            rows["height"].astype(np.int64),
            proven=self._checksums is not None,
        )
        if self._checksums is None:
            return records, []
        found = span_checksums(Span(positions, starts, starts + sizes, buffer.view(np.uint8)))
        wrong = np.flatnonzero(found != self._checksums[positions])
        return records, [Failure(int(row), OTHER_BYTES) for row in wrong]

    def _read(self, view: memoryview, offset: int) -> None:
        while len(view):
            try:
                got = os.preadv(self._file, [view], offset)
            except OSError as error:
                raise self._unreadable(len(view), offset, first_line(error)) from error
            if not got:
                raise self._unreadable(len(view), offset, "the file's end")
            view, offset = view[got:], offset + got

    def _unreadable(self, n_bytes: int, offset: int, found: str) -> WorkFailedError:
        return WorkFailedError(
            self._bundle.file,
            expected=f"{n_bytes} readable bytes at {offset}",
            found=found,
            do="check the disk, or restore the file",
        )


def _runs(
    extents: NDArray[np.int64], gap: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Stretches of the file that cover payloads.

    Args:
        extents: (k, f, 2) int64 offsets and sizes.
        gap: The most bytes between two payloads of one stretch.

    Returns:
        Where each of m stretches starts and ends, (m,) int64, and the stretch of each payload, (k,
        f) int64.
    """
    offsets, sizes = extents[..., 0].ravel(), extents[..., 1].ravel()
    held = np.flatnonzero(sizes > 0)
    order = held[np.argsort(offsets[held], kind="stable")]
    lows = offsets[order]
    reached = np.maximum.accumulate(lows + sizes[order])
    first = np.ones(len(order), np.bool_)
    first[1:] = lows[1:] > reached[:-1] + gap
    run_of = np.zeros(len(offsets), np.int64)
    run_of[order] = np.cumsum(first) - 1
    last = np.append(first[1:], True)[: len(order)]
    return lows[first], reached[last], run_of.reshape(extents.shape[:2])

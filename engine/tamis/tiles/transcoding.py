"""JPEGs → the same JPEGs, cut into tiles by restart markers; no coefficient changes."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from tamis.tiles.entropy import BLOCK_BYTES, BLOCKS_PER_BYTE, Decoding, Symbols
from tamis.tiles.huffman import LOOKAHEAD, N_TABLES
from tamis.tiles.retiling import BROKEN, HEADER_BYTES, STAYS, Scratch, retile

__all__ = ["MAX_BYTES", "MAX_GROWTH", "MIN_BYTES", "Tiler", "thread_tiler"]

MIN_BYTES = 250
"""What a tile should have on the average: shorter ones cost more bytes than they save decoding."""

MAX_GROWTH = 1.03
"""Of a record; one that would grow further stays as it is."""

MAX_BYTES = 64 << 20
"""Of a record; no photograph is larger, and a tiler takes 80 times as much."""


class Tiler:
    """Rewrites JPEGs without loss, with restart markers; for one thread at a time.

    Memory: 80 bytes of address space for each byte of the largest record so far; an ordinary JPEG
    touches 15 of them.

    Args:
        min_bytes: See :data:`MIN_BYTES`.
        max_growth: See :data:`MAX_GROWTH`.
    """

    def __init__(self, min_bytes: int = MIN_BYTES, max_growth: float = MAX_GROWTH) -> None:
        self._min_bytes, self._max_growth = min_bytes, max_growth
        self._record = np.empty(0, np.int8)
        self._scratch = _make_scratch(0)

    def tile(self, record: NDArray[np.uint8]) -> bytes | None:
        """Write a baseline JPEG again with tiles that can be decoded alone.

        The result is a JPEG of the same quantised coefficients and the same segments, but for its
        own Huffman tables (T.81, K.2) and a restart marker after every N units (MCUs). N divides
        the units of a row: the least that gives tiles of ``min_bytes``.

        Args:
            record: (bytes,) uint8, any bytes.

        Returns:
            The new record, or None where it stays as it is: it is no sound baseline JPEG from its
            first byte to its last, or is tiled already, or is too small or too large, or would
            grow too much.

        Raises:
            RuntimeError: What was written does not read as the same symbols; never.
        """
        n = len(record)
        if n > MAX_BYTES:
            return None
        if n > len(self._record):
            capacity = max(n, 3 * len(self._record) // 2)
            self._record = np.empty(capacity, np.int8)
            self._scratch = _make_scratch(max(capacity, self._limit(capacity)))
        # A copy: bytes of a mapped file may change meanwhile, and be of types of their own.
        self._record[:n] = record.view(np.int8)
        size = retile(self._record[:n], self._min_bytes, self._limit(n), self._scratch)
        if size == BROKEN:
            raise RuntimeError("a tiled JPEG does not read as the one that it was made of")
        return None if size == STAYS else self._scratch.out[:size].tobytes()

    def _limit(self, size: int) -> int:
        return int(self._max_growth * size)


def _make_scratch(size: int) -> Scratch:
    """For records and results of up to ``size`` bytes."""
    return Scratch(
        Decoding(
            np.empty((N_TABLES, 17), np.int64),
            np.empty((N_TABLES, 256), np.int64),
            np.empty((N_TABLES, 17), np.int64),
            np.empty((N_TABLES, 17), np.int64),
            np.empty((N_TABLES, 1 << LOOKAHEAD), np.uint32),
            np.empty(size + BLOCK_BYTES, np.int8),
        ),
        _make_symbols(size),
        _make_symbols(size),
        np.empty((4, 17), np.int64),
        np.empty((4, 256), np.int64),
        np.empty((4, 256), np.uint32),
        np.empty(size + HEADER_BYTES, np.int8),
    )


def _make_symbols(size: int) -> Symbols:
    n = BLOCKS_PER_BYTE * size
    return Symbols(
        np.empty(n, np.int16),
        np.empty(n, np.int32),
        np.empty(n + 64, np.uint32),
        np.empty((4, 256), np.int64),
    )


_own = threading.local()


def thread_tiler() -> Tiler:
    """The calling thread's own tiler."""
    if not hasattr(_own, "tiler"):
        _own.tiler = Tiler()
    tiler: Tiler = _own.tiler
    return tiler

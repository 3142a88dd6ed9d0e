"""Writing a .beton: pages first, tables last, the header's pointer at the very end.

A file whose writer was interrupted has no allocation pointer and is refused on opening; under
its final name it never exists (see :mod:`tamis.atomic`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.digest import content_digest
from tamis.bundles.layout import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    VERSION,
    Field,
    metadata_dtype,
    pack,
)
from tamis.bundles.trailer import Trailer, encode_trailer
from tamis.errors import UsageError

__all__ = ["BetonWriter", "check_page_size"]

_ROWS_AT_ONCE = 1 << 16


def check_page_size(page_size: int) -> None:
    """Refuse page sizes that FFCV cannot use.

    Raises:
        UsageError: Not a power of two from 2 MiB to 1 GiB.
    """
    power_of_two = page_size > 0 and page_size & (page_size - 1) == 0
    if not (power_of_two and MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE):
        raise UsageError(
            "page size",
            expected="a power of two from 2 MiB to 1 GiB",
            found=f"{page_size} bytes",
            do=f"use {8 << 20}, FFCV's default",
        )


class BetonWriter:
    """Lays records into pages and closes the file with its tables.

    Memory is O(1) besides what the caller holds: payload goes straight to the file.

    Args:
        path: A new file; pass the temporary path of :func:`tamis.atomic.atomic_path`.
        fields: The fields of every example.
        capacity: The most examples that :meth:`finish` may get; reserves the metadata table.
        page_size: Bytes.
        resume_at: Where the payload of an existing file ends; what follows is dropped. None: a
            new file.
    """

    def __init__(
        self,
        path: Path,
        fields: tuple[Field, ...],
        capacity: int,
        page_size: int,
        *,
        resume_at: int | None = None,
    ) -> None:
        check_page_size(page_size)
        self.fields, self.page_size = fields, page_size
        self.dtype = metadata_dtype(fields)
        self._metadata_start = HEADER.itemsize + DESCRIPTOR.itemsize * len(fields)
        self._capacity = capacity
        self.position = self._metadata_start + capacity * self.dtype.itemsize
        flags = os.O_CREAT | os.O_EXCL if resume_at is None else 0
        self.descriptor = os.open(path, os.O_RDWR | flags, 0o644)
        if resume_at is not None:
            os.ftruncate(self.descriptor, resume_at)
            self.position = resume_at

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def place(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Reserve room for whole examples; (n,) int64 bytes in, (n,) int64 offsets out.

        Raises:
            ValueError: An example is larger than a page.
        """
        offsets = pack(sizes, self.position, self.page_size)
        if len(offsets):
            self.position = int(offsets[-1] + max(sizes[-1], 1))
        return offsets

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data)
        while len(view):
            written = os.pwrite(self.descriptor, view, offset)
            view, offset = view[written:], offset + written

    def write_records(self, records: list[bytes], offsets: NDArray[np.int64]) -> None:
        """Write neighbouring records, with zeros in the gaps between them, in one call.

        Args:
            records: k records.
            offsets: (k,) int64, ascending, as :meth:`place` gave them.
        """
        parts: list[bytes] = []
        end = int(offsets[0])
        for record, offset in zip(records, offsets.tolist(), strict=True):
            if offset > end:
                parts.append(bytes(offset - end))
            parts.append(record)
            end = offset + len(record)
        self.write(b"".join(parts), int(offsets[0]))

    def finish(self, metadata: NDArray[Any], extents: NDArray[np.int64], trailer: Trailer) -> None:
        """Write trailer, allocation table, metadata and header; nothing may be written after.

        Args:
            metadata: (n,) of :attr:`dtype`; its pointers are set here.
            extents: (n, payload fields, 2) int64 offsets and sizes of the payloads.
            trailer: One row per example.
        """
        n_examples = len(metadata)
        if n_examples > self._capacity:
            raise ValueError(f"{n_examples} examples in a table for {self._capacity}")
        payload = [(i, field) for i, field in enumerate(self.fields) if field.has_payload]
        for column, (index, field) in enumerate(payload):
            field.pointers(metadata[f"f{index}"])[:] = extents[:, column, 0]
        sizes = extents[..., 1]
        digest = content_digest(
            self.fields, metadata, sizes, trailer.example_ids, trailer.checksums
        )
        blob = encode_trailer(replace(trailer, digest=digest))
        self.write(blob, self.position)
        alloc_ptr = self.position + len(blob)
        self._write_allocations(extents, alloc_ptr)
        self.write(b"".join(field.descriptor for field in self.fields), HEADER.itemsize)
        self.write(metadata.view(np.uint8).data, self._metadata_start)
        header = np.zeros(1, HEADER)
        header["version"], header["num_fields"] = VERSION, len(self.fields)
        header["page_size"], header["num_samples"] = self.page_size, n_examples
        header["alloc_table_ptr"] = alloc_ptr
        self.write(header.tobytes(), 0)

    def _write_allocations(self, extents: NDArray[np.int64], position: int) -> None:
        n_examples, n_payloads = extents.shape[:2]
        for start in range(0, n_examples, _ROWS_AT_ONCE):
            some = extents[start : start + _ROWS_AT_ONCE].reshape(-1, 2)
            rows = np.empty(len(some), ALLOCATION)
            rows["sample_id"] = start + np.arange(len(some)) // max(n_payloads, 1)
            rows["ptr"], rows["size"] = some[:, 0], some[:, 1]
            self.write(rows.tobytes(), position)
            position += rows.nbytes

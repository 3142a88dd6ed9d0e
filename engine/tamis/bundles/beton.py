"""Opening a .beton file: every structural check, before anything else touches it.

FFCV checks only the version and then trusts every pointer; a damaged file gives it wrong pixels
under right labels, a hang, or an abort. Opening here costs O(n) vectorised work and no payload
reads.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.allocations import check_extents, damaged, read_extents
from tamis.bundles.bundle import Bundle, file_identity
from tamis.bundles.layout import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    VERSION,
    Field,
    metadata_dtype,
    parse_fields,
)
from tamis.bundles.plain_parquet import trailer_limit
from tamis.bundles.trailer import FOOTER_SIZE, MAGIC, Trailer, decode_trailer
from tamis.errors import BundleError
from tamis.memory import release_unused

__all__ = ["open_beton"]

_MANY = 100_000  # from here on what opening has freed is worth giving back


def open_beton(path: Path | str) -> Bundle:
    """Open a .beton file after checking its structure.

    Raises:
        BundleError: The file is missing, truncated, or inconsistent anywhere in its header,
            descriptors, metadata, pointers, pages, allocation table or trailer.
    """
    path = Path(path)
    with _opened(path) as file:
        stat = os.fstat(file.fileno())
        header = _header(path, file, stat.st_size)
        n_examples, alloc_ptr = int(header["num_samples"]), int(header["alloc_table_ptr"])
        fields, metadata, metadata_end = _read_metadata(path, file, header)
        extents = _read_extents(path, file, fields, metadata, alloc_ptr, stat.st_size)
        trailer, payload_end = _read_trailer(path, file, metadata_end, alloc_ptr, n_examples)
        page_size = int(header["page_size"])
        check_extents(path, extents, metadata_end, payload_end, page_size)
        if trailer is None:
            _check_tail(path, extents, metadata_end, alloc_ptr, page_size)
        # A plain array: slices of a memmap object cost microseconds each.
        data = np.memmap(file, np.uint8, mode="r").view(np.ndarray)
    bundle = Bundle(
        path,
        page_size,
        fields,
        metadata,
        extents,
        payload_end,
        data,
        trailer,
        file_identity(stat),
        path,
    )
    if trailer is not None and bundle.digest != trailer.digest:
        raise damaged(path, f"the content that its digest names ({trailer.digest})", bundle.digest)
    if n_examples > _MANY:
        release_unused()
    return bundle


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():
        raise BundleError(
            path,
            expected="a .beton file",
            found="a folder" if path.is_dir() else "no file",
            do="check the path, or make a bundle with: tamis convert SOURCE OUT.beton",
        )
    return path.open("rb")


def _table(path: Path, file: BinaryIO, start: int, dtype: np.dtype[Any], n_rows: int) -> Any:
    """Rows of a table, read: pages of a map would count as memory beside them."""
    file.seek(start)
    table = np.fromfile(file, dtype, n_rows)
    if len(table) < n_rows:
        raise damaged(path, f"{n_rows} rows at byte {start}", "a file that ends sooner")
    return table


def _header(path: Path, file: BinaryIO, file_size: int) -> Any:
    if file_size < HEADER.itemsize + DESCRIPTOR.itemsize:
        raise damaged(path, "at least a header and one field", f"{file_size} bytes")
    header = _table(path, file, 0, HEADER, 1)[0]
    _check_header(path, header, file_size)
    return header


def _check_header(path: Path, header: Any, file_size: int) -> None:
    version, page_size = int(header["version"]), int(header["page_size"])
    alloc_ptr, n_examples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    fields_end = HEADER.itemsize + DESCRIPTOR.itemsize * int(header["num_fields"])
    if version != VERSION:
        raise damaged(path, f".beton version {VERSION}", f"version {version}")
    if alloc_ptr == 0:
        raise damaged(path, "a finished bundle", "one whose writer was interrupted")
    if alloc_ptr > file_size or (file_size - alloc_ptr) % ALLOCATION.itemsize:
        raise damaged(
            path,
            f"an allocation table at byte {alloc_ptr} up to the end",
            f"a file of {file_size} bytes (truncated, or with bytes appended)",
        )
    if page_size & (page_size - 1) or page_size < 4096:
        raise damaged(path, "a page size that is a power of two", f"{page_size}")
    if fields_end > alloc_ptr:
        raise damaged(path, f"{int(header['num_fields'])} field descriptors", "less room")
    if n_examples == 0:
        raise damaged(path, "at least one example", "none")
    if n_examples > file_size:
        raise damaged(path, f"{n_examples} examples", f"a file of {file_size} bytes")


def _read_metadata(
    path: Path, file: BinaryIO, header: Any
) -> tuple[tuple[Field, ...], NDArray[Any], int]:
    """The fields, the metadata table (read-only), and where that ends."""
    n_fields, n_examples = int(header["num_fields"]), int(header["num_samples"])
    fields = parse_fields(_table(path, file, HEADER.itemsize, DESCRIPTOR, n_fields), path)
    dtype = metadata_dtype(fields)
    start = HEADER.itemsize + DESCRIPTOR.itemsize * n_fields
    end = start + n_examples * dtype.itemsize
    if end > int(header["alloc_table_ptr"]):
        raise damaged(
            path, f"{n_examples} metadata rows before the allocation table", "less room than that"
        )
    metadata: NDArray[Any] = _table(path, file, start, dtype, n_examples)
    metadata.setflags(write=False)
    return fields, metadata, end


def _read_extents(
    path: Path,
    file: BinaryIO,
    fields: tuple[Field, ...],
    metadata: NDArray[Any],
    alloc_ptr: int,
    file_size: int,
) -> NDArray[np.int64]:
    n_payloads = len(metadata) * sum(field.has_payload for field in fields)
    n_allocations = (file_size - alloc_ptr) // ALLOCATION.itemsize
    if n_allocations != n_payloads:  # said before memory is taken for them
        raise damaged(path, f"{n_payloads} allocations", f"{n_allocations} of them")
    allocations = _table(path, file, alloc_ptr, ALLOCATION, n_allocations)
    return read_extents(path, fields, metadata, allocations)


def _read_trailer(
    path: Path, file: BinaryIO, metadata_end: int, alloc_ptr: int, n_examples: int
) -> tuple[Trailer | None, int]:
    if alloc_ptr - metadata_end < FOOTER_SIZE:
        return None, alloc_ptr
    blob_end = alloc_ptr - FOOTER_SIZE
    footer = _bytes(path, file, blob_end, FOOTER_SIZE)
    if footer[16:-1] == MAGIC[:-1] and footer[-1] != MAGIC[-1]:
        raise BundleError(
            path,
            expected=f"a trailer of version {MAGIC[-1]}",
            found=f"version {footer[-1]}, which another version of tamis writes",
            do="write the bundle again from its source, or use that version",
        )
    if not footer.endswith(MAGIC):
        # Ids of a bundle whose trailer is damaged must not turn into 0…n-1.
        n_equal = sum(a == b for a, b in zip(footer[-len(MAGIC) :], MAGIC, strict=True))
        if n_equal > len(MAGIC) // 2 or _bytes(path, file, blob_end - 4, 4) == b"PAR1":
            raise damaged(path, "a trailer or none", "a damaged one")
        return None, alloc_ptr
    length, checksum = struct.unpack("<QQ", footer[:16])
    start = blob_end - length
    if start < metadata_end or length > trailer_limit(n_examples):
        raise damaged(path, "a trailer inside the file", f"a trailer of {length} bytes")
    blob = _bytes(path, file, start, length)  # what is checked is what is decoded
    if xxhash.xxh3_64_intdigest(blob) != checksum:
        raise damaged(path, "a trailer that matches its checksum", "another one")
    return decode_trailer(blob, n_examples, path), start


def _bytes(path: Path, file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) < length:
        raise damaged(path, f"{length} bytes at byte {start}", "a file that ends sooner")
    return data


def _check_tail(
    path: Path, extents: NDArray[np.int64], metadata_end: int, alloc_ptr: int, page_size: int
) -> None:
    """Without a trailer, nothing but the rest of FFCV's last page may follow the last record.

    FFCV's allocation table starts where a page ends. Where it does not, the bytes before it are a
    trailer that lost its magic, and with it the ids, paths and checksums.
    """
    held = extents[extents[..., 1] > 0]
    end = int(held.sum(axis=-1).max(initial=metadata_end))
    if alloc_ptr - end >= FOOTER_SIZE and alloc_ptr % page_size:
        raise damaged(path, "a trailer or none", "a damaged one")

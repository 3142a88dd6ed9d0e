"""Opening a .beton file: every structural check, before anything else touches it.

FFCV checks only the version and then trusts every pointer; a damaged file gives it wrong pixels
under right labels, a hang, or an abort. Opening here costs O(n) vectorised work and no payload
reads.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle, file_identity
from tamis.bundles.layout import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    JPEG_MODE,
    RAW_MODE,
    VERSION,
    Field,
    FieldType,
    metadata_dtype,
    parse_fields,
)
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
    data, identity = _map(path)
    header = data[: HEADER.itemsize].view(HEADER)[0]
    _check_header(path, header, len(data))
    fields_end = HEADER.itemsize + DESCRIPTOR.itemsize * int(header["num_fields"])
    fields = parse_fields(data[HEADER.itemsize : fields_end].view(DESCRIPTOR), path)
    dtype = metadata_dtype(fields)
    n_examples, alloc_ptr = int(header["num_samples"]), int(header["alloc_table_ptr"])
    metadata_end = fields_end + n_examples * dtype.itemsize
    if metadata_end > alloc_ptr:
        raise _damaged(
            path, f"{n_examples} metadata rows before the allocation table", "less room than that"
        )
    # A copy, because a memory-mapped row may sit at an unaligned address.
    metadata = data[fields_end:metadata_end].copy().view(dtype)
    metadata.setflags(write=False)
    trailer, payload_end = _read_trailer(path, data, metadata_end, alloc_ptr, n_examples)
    page_size = int(header["page_size"])
    extents = _extents(path, fields, metadata, data[alloc_ptr:].copy().view(ALLOCATION))
    _check_extents(path, extents, metadata_end, payload_end, page_size)
    if trailer is None:
        _check_tail(path, extents, metadata_end, alloc_ptr, page_size)
    bundle = Bundle(
        path, page_size, fields, metadata, extents, payload_end, data, trailer, identity, path
    )
    if trailer is not None and bundle.digest != trailer.digest:
        raise _damaged(path, f"the content that its digest names ({trailer.digest})", bundle.digest)
    if n_examples > _MANY:
        release_unused()
    return bundle


def _map(path: Path) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    if not path.is_file():
        raise BundleError(
            path,
            expected="a .beton file",
            found="a folder" if path.is_dir() else "no file",
            do="check the path, or make a bundle with: tamis convert SOURCE OUT.beton",
        )
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        if stat.st_size < HEADER.itemsize + DESCRIPTOR.itemsize:
            raise _damaged(path, "at least a header and one field", f"{stat.st_size} bytes")
        # A plain array: slices of a memmap object cost microseconds each.
        return np.memmap(file, np.uint8, mode="r").view(np.ndarray), file_identity(stat)


def _damaged(path: Path, expected: str, found: str) -> BundleError:
    return BundleError(
        path,
        expected=expected,
        found=found,
        do="the file is damaged or not a .beton: write it again from its source",
    )


def _check_header(path: Path, header: Any, file_size: int) -> None:
    version, page_size = int(header["version"]), int(header["page_size"])
    alloc_ptr, n_examples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    fields_end = HEADER.itemsize + DESCRIPTOR.itemsize * int(header["num_fields"])
    if version != VERSION:
        raise _damaged(path, f".beton version {VERSION}", f"version {version}")
    if alloc_ptr == 0:
        raise _damaged(path, "a finished bundle", "one whose writer was interrupted")
    if alloc_ptr > file_size or (file_size - alloc_ptr) % ALLOCATION.itemsize:
        raise _damaged(
            path,
            f"an allocation table at byte {alloc_ptr} up to the end",
            f"a file of {file_size} bytes (truncated, or with bytes appended)",
        )
    if page_size & (page_size - 1) or page_size < 4096:
        raise _damaged(path, "a page size that is a power of two", f"{page_size}")
    if fields_end > alloc_ptr:
        raise _damaged(path, f"{int(header['num_fields'])} field descriptors", "less room")
    if n_examples == 0:
        raise _damaged(path, "at least one example", "none")
    if n_examples > file_size:
        raise _damaged(path, f"{n_examples} examples", f"a file of {file_size} bytes")


def _read_trailer(
    path: Path, data: NDArray[np.uint8], metadata_end: int, alloc_ptr: int, n_examples: int
) -> tuple[Trailer | None, int]:
    footer = data[alloc_ptr - FOOTER_SIZE : alloc_ptr].tobytes()
    if not footer.endswith(MAGIC):
        # Ids of a bundle whose trailer is damaged must not turn into 0…n-1.
        n_equal = sum(a == b for a, b in zip(footer[-len(MAGIC) :], MAGIC, strict=True))
        blob_end = alloc_ptr - FOOTER_SIZE
        if n_equal > len(MAGIC) // 2 or data[blob_end - 4 : blob_end].tobytes() == b"PAR1":
            raise _damaged(path, "a trailer or none", "a damaged one")
        return None, alloc_ptr
    length, checksum = struct.unpack("<QQ", footer[:16])
    start = alloc_ptr - FOOTER_SIZE - length
    if start < metadata_end:
        raise _damaged(path, "a trailer inside the file", f"a trailer of {length} bytes")
    blob = data[start : start + length].tobytes()  # what is checked is what is decoded
    if xxhash.xxh3_64_intdigest(blob) != checksum:
        raise _damaged(path, "a trailer that matches its checksum", "another one")
    return decode_trailer(blob, n_examples, path), start


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
        raise _damaged(path, "a trailer or none", "a damaged one")


def _extents(
    path: Path, fields: tuple[Field, ...], metadata: NDArray[Any], allocations: NDArray[Any]
) -> NDArray[np.int64]:
    """Offset and size of every payload, (n, payload fields, 2) int64.

    The allocation table must be exactly the payloads, each under its own example's number: FFCV
    fetches pages by these numbers, and takes whatever follows the table for more of it.
    """
    payload = [(i, kind) for i, kind in enumerate(fields) if kind.has_payload]
    pointers = np.empty((len(metadata), len(payload)), np.uint64)
    if len(allocations) != pointers.size:
        raise _damaged(path, f"{pointers.size} allocations", f"{len(allocations)} of them")
    for column, (index, kind) in enumerate(payload):
        pointers[:, column] = kind.pointers(metadata[f"f{index}"])
    in_order = _sizes_in_order(allocations, pointers)
    allocated = _sizes_by_pointer(allocations, pointers) if in_order is None else in_order
    extents = np.empty((*pointers.shape, 2), np.uint64)
    for column, (index, kind) in enumerate(payload):
        found = allocated[:, column]
        sizes = _stated_sizes(path, kind, metadata[f"f{index}"], found)
        wrong = np.flatnonzero((found != sizes) & ((sizes > 0) | (in_order is not None)))
        if len(wrong):
            raise _damaged(
                path,
                f"field {kind.name!r} of every example in the allocation table",
                f"{len(wrong)} without an entry of its size, the first at position {wrong[0]}",
            )
        extents[:, column, 0], extents[:, column, 1] = pointers[:, column], sizes
    if in_order is None:
        _check_allocations(path, extents, allocations)
    if (extents > np.iinfo(np.int64).max).any():
        raise _damaged(path, "pointers inside the file", "pointers beyond 2**63")
    return extents.view(np.int64)


def _sizes_in_order(
    allocations: NDArray[Any], pointers: NDArray[np.uint64]
) -> NDArray[np.uint64] | None:
    """(n, payload fields) sizes of a table that lists, example by example, exactly ``pointers``.

    FFCV's workers and tamis write such tables, but for the order of the examples; None: another
    order, or damage.
    """
    sample_ids = allocations["sample_id"]
    if (sample_ids[1:] < sample_ids[:-1]).any():
        allocations = allocations[np.argsort(sample_ids, kind="stable")]
    rows = allocations.reshape(pointers.shape)
    numbers = np.arange(len(pointers), dtype=np.uint64)[:, None]
    same = (rows["sample_id"] == numbers).all() and np.array_equal(rows["ptr"], pointers)
    sizes: NDArray[np.uint64] = rows["size"]
    return sizes if same else None


def _sizes_by_pointer(
    allocations: NDArray[Any], pointers: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """(n, payload fields) sizes found by pointer, as FFCV finds them; 0 where there is none."""
    # Empty records share a pointer with their neighbour in files that FFCV wrote: look up others.
    table = allocations[allocations["size"] > 0]
    if not len(table):
        return np.zeros(pointers.shape, np.uint64)
    table = table[np.argsort(table["ptr"], kind="stable")]
    places = np.minimum(np.searchsorted(table["ptr"], pointers), len(table) - 1)
    return np.where(table["ptr"][places] == pointers, table["size"][places], np.uint64(0))


def _check_allocations(path: Path, extents: NDArray[np.uint64], allocations: NDArray[Any]) -> None:
    n_examples, n_payloads = extents.shape[:2]
    stated = np.empty(n_examples * n_payloads, ALLOCATION)
    stated["sample_id"] = np.repeat(np.arange(n_examples), n_payloads)
    stated["ptr"], stated["size"] = extents[..., 0].ravel(), extents[..., 1].ravel()
    # Pointers of empty records mean nothing and, in FFCV's own files, belong to a neighbour.
    stated, listed = stated[stated["size"] > 0], allocations[allocations["size"] > 0]
    stated = stated[np.argsort(stated["ptr"], kind="stable")]
    listed = listed[np.argsort(listed["ptr"], kind="stable")]
    if not np.array_equal(stated, listed):
        raise _damaged(path, "an allocation table that lists every record once", "another one")


def _stated_sizes(
    path: Path, field: Field, row: NDArray[Any], allocated: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """What the metadata says of each payload's size; JPEGs state none, so the table's holds."""
    if field.type in (FieldType.BYTES, FieldType.JSON):
        sizes: NDArray[np.uint64] = row["size"]
        return sizes
    if field.type is FieldType.RGB_IMAGE:
        unknown = np.flatnonzero((row["mode"] != JPEG_MODE) & (row["mode"] != RAW_MODE))
        empty = np.flatnonzero((row["width"] == 0) | (row["height"] == 0))
        for bad, what in ((unknown, "image mode 0 or 1"), (empty, "images with pixels")):
            if len(bad):
                raise _damaged(path, what, f"another one at position {bad[0]}")
        raw = row["width"].astype(np.uint64) * row["height"] * np.uint64(3)
        jpeg = np.maximum(allocated, np.uint64(1))  # an empty JPEG is no JPEG: make it a mismatch
        return np.where(row["mode"] == RAW_MODE, raw, jpeg)
    return np.full(len(row), field.fixed_size(), np.uint64)


def _check_extents(
    path: Path, extents: NDArray[np.int64], low: int, high: int, page_size: int
) -> None:
    offsets, sizes = extents[..., 0], extents[..., 1]
    held = sizes > 0
    outside = held & ((offsets < low) | (offsets > high) | (sizes > high - offsets))
    ends = np.where(held, offsets + sizes - 1, offsets)
    crossing = held & ~outside & (offsets // page_size != ends // page_size)
    for bad, expected in (
        (outside, f"every record between bytes {low} and {high}"),
        (crossing, f"no record across a page boundary ({page_size} bytes)"),
    ):
        if bad.any():
            first = int(np.argwhere(bad)[0, 0])
            raise _damaged(
                path, expected, f"{int(bad.sum())} that are not, the first at position {first}"
            )
    _check_overlaps(path, extents)


def _check_overlaps(path: Path, extents: NDArray[np.int64]) -> None:
    """No byte belongs to two records, so that reading all of them costs one pass over the file."""
    held = extents.reshape(-1, 2)[extents[..., 1].ravel() > 0]
    if (held[1:, 0] < held[:-1, 0]).any():
        held = held[np.argsort(held[:, 0], kind="stable")]
    shared = held[1:, 0] < held[:-1, 0] + held[:-1, 1]
    if shared.any():
        at = int(held[1:][shared][0, 0])
        raise _damaged(path, "records that do not overlap", f"two that hold byte {at}")

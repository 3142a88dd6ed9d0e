"""Where the records of a bundle lie: FFCV's allocation table, checked against its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.layout import ALLOCATION, JPEG_MODE, RAW_MODE, Field, FieldType
from tamis.errors import DamagedBundleError

__all__ = ["check_extents", "damaged", "read_extents"]


def damaged(path: Path, expected: str, found: str) -> DamagedBundleError:
    """The error for a file that contradicts itself."""
    return DamagedBundleError(
        path,
        expected=expected,
        found=found,
        do="the file is damaged or not a .beton: write it again from its source",
    )


def read_extents(
    path: Path, fields: tuple[Field, ...], metadata: NDArray[Any], allocations: NDArray[Any]
) -> NDArray[np.int64]:
    """Offset and size of every payload.

    The allocation table must be exactly the payloads, each under its own example's number: FFCV
    fetches pages by these numbers, and takes whatever follows the table for more of it.

    Args:
        path: The file, for messages.
        fields: The fields of every example.
        metadata: (n,) FFCV's metadata table.
        allocations: FFCV's allocation table, as many rows as there are payloads.

    Returns:
        (n, payload fields, 2) int64.

    Raises:
        DamagedBundleError: The tables contradict each other.
    """
    payload = [(i, kind) for i, kind in enumerate(fields) if kind.has_payload]
    pointers = np.empty((len(metadata), len(payload)), np.uint64)
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
            raise damaged(
                path,
                f"field {kind.name!r} of every example in the allocation table",
                f"{len(wrong)} without an entry of its size, the first at position {wrong[0]}",
            )
        extents[:, column, 0], extents[:, column, 1] = pointers[:, column], sizes
    if in_order is None:
        _check_allocations(path, extents, allocations)
    if (extents > np.iinfo(np.int64).max).any():
        raise damaged(path, "pointers inside the file", "pointers beyond 2**63")
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
        raise damaged(path, "an allocation table that lists every record once", "another one")


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
                raise damaged(path, what, f"another one at position {bad[0]}")
        raw = row["width"].astype(np.uint64) * row["height"] * np.uint64(3)
        jpeg = np.maximum(allocated, np.uint64(1))  # an empty JPEG is no JPEG: make it a mismatch
        return np.where(row["mode"] == RAW_MODE, raw, jpeg)
    return np.full(len(row), field.fixed_size(), np.uint64)


def check_extents(
    path: Path, extents: NDArray[np.int64], low: int, high: int, page_size: int
) -> None:
    """Make sure that records lie inside the payload area and in one page each, without overlap.

    Args:
        path: The file, for messages.
        extents: (n, payload fields, 2) int64 offsets and sizes.
        low: First byte of the payload area.
        high: The byte after it.
        page_size: Bytes.

    Raises:
        DamagedBundleError: One does not.
    """
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
            raise damaged(
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
        raise damaged(path, "records that do not overlap", f"two that hold byte {at}")

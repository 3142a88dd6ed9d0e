"""Opening a bundle: every structural check, before anything else touches the file.

FFCV checks only the version and then trusts every pointer; a damaged file gives it wrong pixels
under right labels, a hang, or an abort. Opening here costs O(n) vectorised work and no payload
reads.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.digest import content_digest
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
from tamis.manifest import Manifest, Parent

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bundle", "file_identity", "open_bundle"]


@dataclass(frozen=True)
class Bundle:
    """An opened, structurally sound bundle. The tables are in memory, the payload is mapped.

    Attributes:
        path: The file.
        page_size: Bytes per page.
        fields: The fields of every example.
        metadata: (n,) structured array, FFCV's metadata table (read-only).
        extents: (n, payload fields, 2) int64: offset and size of each payload.
        payload_end: First byte after the payload area (trailer or allocation table).
        data: The whole file as a read-only (bytes,) uint8 memory map.
        trailer: What the bundle says about itself, or None if plain FFCV wrote it.
        identity: Device, inode, size and time of the file when it was opened.
    """

    path: Path
    page_size: int
    fields: tuple[Field, ...]
    metadata: NDArray[Any]
    extents: NDArray[np.int64]
    payload_end: int
    data: NDArray[np.uint8]
    trailer: Trailer | None
    identity: tuple[int, ...]

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return len(self.metadata)

    @property
    def manifest(self) -> Manifest | None:
        """Provenance, or None if plain FFCV wrote the bundle."""
        return self.trailer.manifest if self.trailer else None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order where the source named them."""
        return self.manifest.classes if self.manifest else None

    @cached_property
    def example_ids(self) -> NDArray[np.int64]:
        """(n,) int64; 0…n-1 where the bundle does not say."""
        return self.trailer.example_ids if self.trailer else np.arange(self.n_examples)

    @property
    def paths(self) -> pa.ChunkedArray | None:
        """n source paths (nulls allowed), or None."""
        return self.trailer.paths if self.trailer else None

    @cached_property
    def payload_fields(self) -> tuple[int, ...]:
        """Indices of the fields with bytes in the pages."""
        return tuple(i for i, field in enumerate(self.fields) if field.has_payload)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) int64 class labels: the Int field ``label``, else the first Int field.

        Raises:
            BundleError: The bundle has no Int field.
        """
        ints = [i for i, field in enumerate(self.fields) if field.type is FieldType.INT]
        if not ints:
            raise BundleError(
                self.path,
                expected="an Int field with the labels",
                found=", ".join(f"{f.name}: {f.type.name.lower()}" for f in self.fields),
                do="write the bundle with a label field",
            )
        named = [i for i in ints if self.fields[i].name == "label"]
        return self.metadata[f"f{(named or ints)[0]}"].astype(np.int64)

    @cached_property
    def n_classes(self) -> int:
        """Classes named in the manifest, or one more than the largest label."""
        if self.labels.min(initial=0) < 0:
            raise BundleError(
                self.path,
                expected="labels from 0",
                found=f"the label {self.labels.min()}",
                do="write the bundle again with labels 0, 1, 2, …",
            )
        return max(len(self.classes or ()), int(self.labels.max(initial=0)) + 1)

    @cached_property
    def image_field(self) -> int:
        """Index of the image field ``image``, else of the first image field.

        Raises:
            BundleError: The bundle has no image field.
        """
        images = [i for i, field in enumerate(self.fields) if field.type is FieldType.RGB_IMAGE]
        if not images:
            raise BundleError(
                self.path,
                expected="an image field",
                found=", ".join(f"{f.name}: {f.type.name.lower()}" for f in self.fields),
                do="give a bundle of images",
            )
        named = [i for i in images if self.fields[i].name == "image"]
        return (named or images)[0]

    def image_record(self, position: int) -> tuple[int, int, int, NDArray[np.uint8]]:
        """Mode, width, height and encoded bytes (a view into the map) of one image."""
        index = self.image_field
        row = self.metadata[f"f{index}"][position]
        offset, size = self.extents[position, self.payload_fields.index(index)]
        record = self.data[offset : offset + size]
        return int(row["mode"]), int(row["width"]), int(row["height"]), record

    def checksum(self, position: int) -> int:
        """xxh3 of the payload bytes of one example as they lie in the file, in field order."""
        state = xxhash.xxh3_64()
        for offset, size in self.extents[position]:
            state.update(self.data[offset : offset + size].data)
        return state.intdigest()

    @cached_property
    def checksums(self) -> NDArray[np.uint64]:
        """(n,) uint64: from the trailer, or computed by reading every record once."""
        if self.trailer:
            return self.trailer.checksums
        return np.array([self.checksum(i) for i in range(self.n_examples)], np.uint64)

    @cached_property
    def digest(self) -> str:
        """Digest of the content: fields, ids, metadata and record checksums, in order.

        Where records lie in the file does not matter. O(n) with a trailer; without one every
        record is read once.
        """
        return content_digest(self.fields, self.metadata, self.example_ids, self.checksums)

    @property
    def lineage(self) -> tuple[Parent, ...]:
        """This bundle and its ancestors, nearest first."""
        own = Parent(self.digest, self.n_examples, str(self.path))
        return (own, *(self.manifest.parents if self.manifest else ()))

    def positions(self, example_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the given ids stand in this bundle, in the order given.

        Raises:
            BundleError: An id that the bundle does not hold.
        """
        order = np.argsort(self.example_ids, kind="stable")
        places = np.searchsorted(self.example_ids, example_ids, sorter=order)
        positions = order[np.minimum(places, self.n_examples - 1)]
        missing = self.example_ids[positions] != example_ids
        if missing.any():
            raise BundleError(
                self.path,
                expected="every selected example id in the bundle",
                found=f"{int(missing.sum())} that it does not hold, the first is"
                f" {int(np.asarray(example_ids)[missing][0])}",
                do="use a selection made from this bundle or from one that contains it",
            )
        return positions


def file_identity(stat: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def open_bundle(path: Path | str) -> Bundle:
    """Open a .beton file after checking its structure.

    Raises:
        BundleError: The file is missing, truncated, or inconsistent anywhere in its header,
            descriptors, metadata, pointers, pages, allocation table or trailer.
    """
    path = Path(path)
    data = _map(path)
    identity = file_identity(path.stat())
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
    trailer, payload_end = _read_trailer(path, data, alloc_ptr, n_examples)
    allocations = data[alloc_ptr:].copy().view(ALLOCATION)
    extents = _extents(path, fields, metadata, allocations)
    _check_allocations(path, extents, allocations)
    page_size = int(header["page_size"])
    _check_extents(path, extents, metadata_end, payload_end, page_size)
    bundle = Bundle(
        path, page_size, fields, metadata, extents, payload_end, data, trailer, identity
    )
    if trailer is not None and bundle.digest != trailer.digest:
        raise _damaged(path, f"the content that its digest names ({trailer.digest})", bundle.digest)
    return bundle


def _map(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise BundleError(
            path,
            expected="a .beton file",
            found="a folder" if path.is_dir() else "no file",
            do="check the path, or make a bundle with: tamis convert SOURCE OUT.beton",
        )
    if path.stat().st_size < HEADER.itemsize + DESCRIPTOR.itemsize:
        raise _damaged(path, "at least a header and one field", f"{path.stat().st_size} bytes")
    return np.memmap(path, np.uint8, mode="r")


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
    path: Path, data: NDArray[np.uint8], alloc_ptr: int, n_examples: int
) -> tuple[Trailer | None, int]:
    footer = data[alloc_ptr - FOOTER_SIZE : alloc_ptr].tobytes()
    if not footer.endswith(MAGIC):
        # Ids of a bundle whose trailer is damaged must not turn into 0…n-1.
        n_equal = sum(a == b for a, b in zip(footer[-len(MAGIC) :], MAGIC, strict=True))
        if n_equal > len(MAGIC) // 2:
            raise _damaged(path, "a trailer or none", "a damaged one")
        return None, alloc_ptr
    length, checksum = struct.unpack("<QQ", footer[:16])
    start = alloc_ptr - FOOTER_SIZE - length
    if start < HEADER.itemsize:
        raise _damaged(path, "a trailer inside the file", f"a trailer of {length} bytes")
    blob = data[start : start + length].tobytes()
    if xxhash.xxh3_64_intdigest(blob) != checksum:
        raise _damaged(path, "a trailer that matches its checksum", "another one")
    return decode_trailer(blob, n_examples, path), start


def _extents(
    path: Path, fields: tuple[Field, ...], metadata: NDArray[Any], allocations: NDArray[Any]
) -> NDArray[np.int64]:
    """Offset and size of every payload, (n, payload fields, 2) int64."""
    # Empty records share a pointer with their neighbour in files that FFCV wrote: look up others.
    table = allocations[allocations["size"] > 0]
    table = table[np.argsort(table["ptr"], kind="stable")]
    payload = [(i, field) for i, field in enumerate(fields) if field.has_payload]
    extents = np.empty((len(metadata), len(payload), 2), np.uint64)
    for column, (index, field) in enumerate(payload):
        row = metadata[f"f{index}"]
        pointers = field.pointers(row)
        places = np.searchsorted(table["ptr"], pointers)
        places = np.minimum(places, max(len(table) - 1, 0))
        allocated = table["size"][places] if len(table) else np.zeros(len(metadata), np.uint64)
        known = (table["ptr"][places] == pointers) if len(table) else np.zeros(len(metadata), bool)
        sizes = _stated_sizes(path, field, row, allocated)
        wrong = np.flatnonzero((sizes > 0) & (~known | (allocated != sizes)))
        if len(wrong):
            raise _damaged(
                path,
                f"field {field.name!r} of every example in the allocation table",
                f"{len(wrong)} without an entry of its size, the first at position {wrong[0]}",
            )
        extents[:, column, 0], extents[:, column, 1] = pointers, sizes
    if (extents > np.iinfo(np.int64).max).any():
        raise _damaged(path, "pointers inside the file", "pointers beyond 2**63")
    return extents.astype(np.int64)


def _check_allocations(path: Path, extents: NDArray[np.int64], allocations: NDArray[Any]) -> None:
    """The allocation table is exactly the payloads, each under its own example's number.

    FFCV fetches pages by these numbers, and takes whatever follows the table for more of it.
    """
    n_examples, n_payloads = extents.shape[:2]
    if len(allocations) != n_examples * n_payloads:
        raise _damaged(
            path, f"{n_examples * n_payloads} allocations", f"{len(allocations)} of them"
        )
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

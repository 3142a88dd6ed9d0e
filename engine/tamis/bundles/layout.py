"""The .beton format, version 2: FFCV's file format as data types and arithmetic.

File order: header, field descriptors, metadata table (one row per example), pages of payload,
tamis's trailer, allocation table up to the end of the file. Everything is little-endian.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import BundleError, DamagedBundleError, first_line

__all__ = [
    "ALLOCATION",
    "DEFAULT_PAGE_SIZE",
    "DESCRIPTOR",
    "HEADER",
    "JPEG_MODE",
    "MAX_PAGE_SIZE",
    "MIN_PAGE_SIZE",
    "RAW_MODE",
    "VERSION",
    "Field",
    "FieldType",
    "image_fields",
    "make_field",
    "metadata_dtype",
    "pack",
    "parse_fields",
]

VERSION = 2
DEFAULT_PAGE_SIZE = 8 << 20  # FFCV's own default
MIN_PAGE_SIZE = 2 << 20  # FFCV's writer refuses less
MAX_PAGE_SIZE = 1 << 30  # a single pread returns at most 2 GiB − 4 KiB, and FFCV ignores the rest

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
DESCRIPTOR = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_DTYPE = re.compile(r"[<>|][biufcmMSUV][0-9]{1,9}(\[[0-9a-zA-Z]+\])?")  # as dtype.descr writes it
JPEG_MODE = 0
RAW_MODE = 1


class FieldType(IntEnum):
    """FFCV's type ids; 255, a class of the user's own, is refused because its row is unknown."""

    FLOAT = 0
    INT = 1
    RGB_IMAGE = 2
    BYTES = 3
    ND_ARRAY = 4
    JSON = 5
    TORCH_TENSOR = 6


_ROW_PARTS: dict[FieldType, np.dtype[Any]] = {
    FieldType.FLOAT: np.dtype("<f8"),
    FieldType.INT: np.dtype("<i8"),
    FieldType.RGB_IMAGE: np.dtype(
        [("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")]
    ),
    FieldType.BYTES: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    FieldType.ND_ARRAY: np.dtype("<u8"),
    FieldType.JSON: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    FieldType.TORCH_TENSOR: np.dtype("<u8"),
}


@dataclass(frozen=True)
class Field:
    """One field of every example.

    Attributes:
        name: As in FFCV's pipelines, at most 16 ASCII characters.
        type: FFCV's field type.
        descriptor: Its 1041 bytes in the file, copied verbatim into children.
    """

    name: str
    type: FieldType
    descriptor: bytes

    @property
    def has_payload(self) -> bool:
        """Whether examples hold bytes of this field in the pages."""
        return self.type not in (FieldType.FLOAT, FieldType.INT)

    def pointers(self, column: NDArray[Any]) -> NDArray[np.uint64]:
        """File offsets of the payload, (n,) uint64, as a view into a metadata column."""
        pointers: NDArray[np.uint64] = column if column.dtype.names is None else column["ptr"]
        return pointers

    def fixed_size(self) -> int:
        """Bytes of one payload of an array field.

        Raises:
            BundleError: The descriptor's shape or dtype is damaged.
        """
        arguments = self.descriptor[DESCRIPTOR.fields["arguments"][1] :]  # type: ignore[index]
        try:
            size = _array_dtype(arguments[256:]).itemsize
            for extent in _array_shape(arguments[:256]):
                size *= extent
            if size > MAX_PAGE_SIZE * 2:
                raise ValueError(f"arrays of {size} bytes")
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedBundleError(
                f"field {self.name!r}",
                expected="an array shape and dtype in its descriptor",
                found=first_line(error),
                do="write the bundle again from its source",
            ) from error
        return size


def _array_shape(arguments: bytes) -> list[int]:
    """FFCV's shape: 32 numbers, of which the zeros at the end do not count."""
    shape: list[int] = np.frombuffer(arguments, "<u8").tolist()
    while shape and shape[-1] == 0:
        shape.pop()
    return shape


def _array_dtype(arguments: bytes) -> np.dtype[Any]:
    """FFCV's dtype: a length, then ``[["", "<f4"]]`` as JSON; FFCV reads one unnamed part only."""
    length = int.from_bytes(arguments[:8], "little")
    if length > len(arguments) - 8:
        raise ValueError(f"a dtype of {length} characters")
    descr = json.loads(arguments[8 : 8 + length])
    match descr:
        case [["", str(code)]] if _DTYPE.fullmatch(code):
            return np.dtype(code)
    raise ValueError(f"the dtype {descr!r}"[:200])


def make_field(name: str, kind: FieldType) -> Field:
    """A field without arguments (every type except the array fields)."""
    row = np.zeros(1, DESCRIPTOR)
    row["type_id"] = kind
    row["name"][0, : len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    return Field(name, kind, row.tobytes())


def image_fields() -> tuple[Field, Field]:
    """``image`` and ``label``: the fields that the stock ffcv-imagenet script expects."""
    return make_field("image", FieldType.RGB_IMAGE), make_field("label", FieldType.INT)


def parse_fields(descriptors: NDArray[Any], subject: object) -> tuple[Field, ...]:
    """Decode descriptor rows.

    Args:
        descriptors: (num_fields,) of :data:`DESCRIPTOR`.
        subject: The file, for messages.

    Raises:
        BundleError: A type that is unknown or a user's own, or two fields of one name.
    """
    fields = []
    for row in descriptors:
        name = bytes(row["name"]).split(b"\0", 1)[0].decode("ascii", errors="backslashreplace")
        type_id = int(row["type_id"])
        if type_id not in set(FieldType):
            raise BundleError(
                subject,
                expected="FFCV's own field types (0 to 6)",
                found=f"type {type_id} in field {name!r}",
                do="write that field as bytes, or leave it out, with FFCV's DatasetWriter",
            )
        fields.append(Field(name, FieldType(type_id), row.tobytes()))
    names = [field.name for field in fields]
    if not names or len(set(names)) < len(names):
        raise DamagedBundleError(
            subject,
            expected="at least one field and distinct field names",
            found=f"{names}",
            do="write the bundle again from its source",
        )
    return tuple(fields)


def metadata_dtype(fields: tuple[Field, ...]) -> np.dtype[Any]:
    """The row of the metadata table: columns f0, f1, …, aligned as FFCV aligns them."""
    parts = [(f"f{i}", _ROW_PARTS[field.type]) for i, field in enumerate(fields)]
    return np.dtype(parts, align=True)


def pack(sizes: NDArray[np.int64], start: int, page_size: int) -> NDArray[np.int64]:
    """Lay records end to end without letting one cross a page boundary.

    A page is the file's bytes [k·page_size, (k+1)·page_size). A record that does not fit in the
    rest of its page starts the next one. Zero-size records take one byte, because FFCV finds
    sizes by pointer and two records must not share one.

    Args:
        sizes: (n,) int64 bytes per record, each ≤ ``page_size``.
        start: First free file offset.
        page_size: Bytes; a power of two.

    Raises:
        ValueError: A record is larger than a page.

    Returns:
        (n,) int64 file offsets. Laying out in several calls, each from where the last one ended,
        gives the same offsets. O(n + pages · log n).
    """
    if sizes.max(initial=0) > page_size:
        raise ValueError(f"a record of {sizes.max()} bytes does not fit a page of {page_size}")
    room = np.maximum(sizes, 1)
    ends = np.concatenate([[0], np.cumsum(room)])
    offsets = np.empty(len(sizes), np.int64)
    first, position = 0, start
    while first < len(sizes):
        page_end = (position // page_size + 1) * page_size
        # Records first…last-1 fit between position and the end of this page.
        last = int(np.searchsorted(ends, ends[first] + page_end - position, side="right")) - 1
        offsets[first:last] = position + ends[first:last] - ends[first]
        position = page_end if last < len(sizes) else position
        first = last
    return offsets

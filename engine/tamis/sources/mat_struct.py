"""A struct array in a MATLAB 5 file: a small table, such as that of ImageNet's synsets.

scipy.io.loadmat crashes the process on some damaged files; these come from strangers.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tamis.errors import SourceError, first_line
from tamis.sources.mat5 import COMPLEX, COMPRESSED, HEADER, MATRIX, NUMBERS, MatElements, byte_order

__all__ = ["read_struct"]

_STRUCT, _CHAR = 2, 4
_CODECS = {1: "latin-1", 2: "latin-1", 16: "utf-8"}  # by type; UTF-16 is in the file's byte order
_UTF16 = (4, 17)
_MAX_BYTES = 64 << 20  # inflated; ImageNet's synsets take less than 2 MB
_MAX_NAMES = 1 << 16  # bytes of all field names


def read_struct(
    data: bytes, name: str, fields: Sequence[str], subject: object
) -> list[tuple[float | str | None, ...]]:
    """Read some fields of a struct array.

    Args:
        data: The file.
        name: The variable.
        fields: The fields that are wanted.
        subject: What errors name.

    Returns:
        One tuple per struct in the order of ``fields``: single numbers, texts, and None for
        whatever else a field holds.

    Raises:
        SourceError: Not a MATLAB 5 file, a damaged one, or one without that variable or field.
    """
    order = byte_order(data[:HEADER], subject)
    at = HEADER
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        body = data[at + 8 : at + 8 + size]
        at += 8 + size
        if kind == COMPRESSED:
            kind, body = _inflate(body, order, subject)
        if kind != MATRIX:
            raise _unfit(subject, "arrays", f"an element {kind}")
        stream = io.BytesIO(body)
        elements = MatElements(stream, order, subject)
        flags, dims, found = (elements.small() for _ in range(3))
        if found.decode("latin-1") == name:
            if _class(flags, order) != _STRUCT:
                raise _unfit(subject, f"{name}, a struct array", "an array of another class")
            return _rows(elements, stream, _count(dims, order), order, fields, subject)
    raise _unfit(subject, f"a variable {name}", "none of that name")


def _inflate(body: bytes, order: str, subject: object) -> tuple[int, bytes]:
    """Type and data of the element in a compressed one."""
    inflater = zlib.decompressobj()
    try:
        element = inflater.decompress(body, _MAX_BYTES)
    except zlib.error as error:
        raise _unfit(subject, "sound zlib data", first_line(error)) from error
    if not inflater.eof or len(element) < 8:
        raise _unfit(subject, f"a whole array of at most {_MAX_BYTES} bytes", "another")
    return int.from_bytes(element[:4], "little" if order == "<" else "big"), element[8:]


def _rows(
    elements: MatElements,
    stream: io.BytesIO,
    n_structs: int,
    order: str,
    fields: Sequence[str],
    subject: object,
) -> list[tuple[float | str | None, ...]]:
    """The structs one after the other, each with all its fields, each an array of its own."""
    length = int.from_bytes(elements.small(), "little" if order == "<" else "big")
    packed = elements.data(_MAX_NAMES)[1]
    names = [
        packed[at : at + length].partition(b"\0")[0].decode("latin-1")
        for at in range(0, len(packed), max(length, 1))
    ]
    missing = [field for field in fields if field not in names]
    if missing:
        raise _unfit(subject, f"a field {missing[0]}", ", ".join(names)[:80] or "none")
    rows = []
    for _ in range(n_structs):
        row: dict[str, float | str | None] = {}
        for name in names:
            kind, body = elements.data(_MAX_BYTES)
            if kind != MATRIX:
                raise _unfit(subject, f"an array as {name}", f"an element {kind}")
            row[name] = _value(body, order, subject) if name in fields and body else None
        rows.append(tuple(row[field] for field in fields))
    return rows


def _value(body: bytes, order: str, subject: object) -> float | str | None:
    elements = MatElements(io.BytesIO(body), order, subject)
    flags, dims, _ = (elements.small() for _ in range(3))
    array_class = _class(flags, order)
    if array_class == _CHAR:
        kind, raw = elements.data(len(body))
        codec = f"utf-16-{'le' if order == '<' else 'be'}" if kind in _UTF16 else _CODECS.get(kind)
        return raw.decode(codec, "replace") if codec else None
    if 6 <= array_class <= 15 and _count(dims, order) == 1:
        kind, raw = elements.data(len(body))
        dtype = np.dtype(order + NUMBERS[kind]) if kind in NUMBERS else None
        if dtype is not None and len(raw) == dtype.itemsize:
            return float(np.frombuffer(raw, dtype)[0])
    return None


def _class(flags: bytes, order: str) -> int:
    """MATLAB's class number; that of a complex array is none of the known ones."""
    return int.from_bytes(flags[:4], "little" if order == "<" else "big") & (0xFF | COMPLEX)


def _count(dims: bytes, order: str) -> int:
    return math.prod(struct.unpack(f"{order}{len(dims) // 4}i", dims[: len(dims) // 4 * 4]))


def _unfit(subject: object, expected: str, found: str) -> SourceError:
    return SourceError(subject, expected=expected, found=found, do="download it again")

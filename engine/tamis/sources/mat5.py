"""Arrays in MATLAB 5 files, streamed.

scipy.io.loadmat holds a whole array, 1.6 GB for SVHN's extra images. The layout is that of
MathWorks' "MAT-File Format": a header of 128 bytes, then elements of a tag (type, bytes) and data;
an array is an element that holds elements: flags, dimensions, name, numbers.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.errors import SourceError, first_line
from tamis.sources.shared_file import SharedFile

__all__ = [
    "COMPLEX",
    "COMPRESSED",
    "HEADER",
    "MATRIX",
    "NUMBERS",
    "MatArray",
    "MatElements",
    "byte_order",
    "read_mat",
]

HEADER = 128  # bytes
MATRIX = 14  # types of elements that hold others
COMPRESSED = 15
# NumPy's names of the types of stored numbers.
NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_CLASSES = {
    1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single",
    8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64",
    15: "uint64",
}  # fmt: skip
COMPLEX = 0x800  # among an array's flags
_MAX_SMALL = 256  # bytes of flags, dimensions or a name
_BLOCK = 1 << 16


class _Stream(Protocol):
    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""


@dataclass(frozen=True)
class MatArray:
    """A real array of numbers in a MATLAB 5 file.

    Attributes:
        file: The file.
        name: The variable.
        kind: MATLAB's class, such as "uint8"; numbers may be stored in a smaller type.
        dims: Its sides; the first varies fastest in the data.
        dtype: How the numbers are stored.
        place: First byte and bytes of its outermost element's data.
        compressed: Whether that data is a zlib stream.
        skip: Bytes of the (decompressed) data before the numbers.
    """

    file: SharedFile
    name: str
    kind: str
    dims: tuple[int, ...]
    dtype: np.dtype[np.generic]
    place: tuple[int, int]
    compressed: bool
    skip: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.dims) * self.dtype.itemsize

    def blocks(self, size: int, skip: int = 0) -> Iterator[bytes]:
        """The numbers as they are stored, in blocks of ``size`` bytes; the last may be smaller.

        Args:
            size: Bytes of a block.
            skip: Bytes to leave out at the start; cheap where nothing is compressed.

        Raises:
            SourceError: Damaged or cut data.
        """
        stream = _open(self.file, self.place, self.compressed)
        _discard(stream, self.skip + skip, self.file.path)
        left = self.n_bytes - skip
        while left > 0:
            block = _exactly(stream, min(size, left), self.file.path)
            yield block
            left -= len(block)
        if isinstance(stream, _Inflated):
            stream.finish()

    def values(self) -> NDArray[np.generic]:
        """All numbers, flat. Holds what the file really holds, whatever its header says."""
        return np.frombuffer(b"".join(self.blocks(_BLOCK)), self.dtype)


def read_mat(path: Path, names: Collection[str]) -> dict[str, MatArray]:
    """Find arrays of numbers by name, reading little more than the headers.

    Args:
        path: The file.
        names: The variables that are wanted; what others hold does not matter.

    Returns:
        Those that the file has.

    Raises:
        SourceError: Not a MATLAB 5 file, a damaged one, or a wanted variable that is not a real
            array of numbers.
    """
    file = SharedFile(path)
    order = byte_order(_at(file, 0, min(file.size, HEADER)), path)
    found = {}
    at = HEADER
    while at < file.size:
        kind, size = struct.unpack(f"{order}II", _at(file, at, 8))
        place = at + 8, size
        at += 8 + size
        if kind not in (MATRIX, COMPRESSED) or at > file.size:
            raise _damaged(path, "an array cut off" if at > file.size else f"an element {kind}")
        array = _array(file, order, place, kind == COMPRESSED, names)
        if array is not None:
            found[array.name] = array
    return found


def byte_order(header: bytes, subject: object) -> str:
    """The byte order of a MATLAB 5 file, "<" or ">".

    Args:
        header: Its first 128 bytes, or all that it has.
        subject: What errors name.

    Raises:
        SourceError: A file of another kind.
    """
    mark = header[126:128]
    version = int.from_bytes(header[124:126], "little" if mark == b"IM" else "big")
    if mark not in (b"IM", b"MI") or version != 0x0100:
        is_hdf5 = version == 0x0200 or header.startswith(b"\x89HDF")
        raise SourceError(
            subject,
            expected="a MATLAB 5 file",
            found="MATLAB 7.3, which is HDF5" if is_hdf5 else "a file of another kind",
            do="save it with -v7 in MATLAB" if is_hdf5 else "check the path, or download it again",
        )
    return "<" if mark == b"IM" else ">"


def _array(
    file: SharedFile, order: str, place: tuple[int, int], compressed: bool, names: Collection[str]
) -> MatArray | None:
    """The array in a top-level element, or None if it is not wanted."""
    elements = MatElements(_open(file, place, compressed), order, file.path)
    if compressed and elements.tag()[0] != MATRIX:
        raise _damaged(file.path, "a compressed element that is no array")
    flags, dims, name = (elements.small() for _ in range(3))
    variable = name.decode("latin-1")
    if variable not in names:
        return None
    if len(flags) != 8 or len(dims) % 4:
        raise _damaged(file.path, f"flags or dimensions of {variable} of a wrong size")
    flag = struct.unpack(f"{order}II", flags)[0]
    kind = _CLASSES.get(flag & 0xFF, "an unknown class")
    sides = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    if flag & COMPLEX or not 6 <= flag & 0xFF <= 15 or min(sides, default=-1) < 0:
        raise SourceError(
            f"{file.path}: {variable}",
            expected="an array of real numbers",
            found=f"{kind} {sides}" + (", complex" if flag & COMPLEX else ""),
            do="download the file again from where its authors publish it",
        )
    stored, size, skip = elements.numbers()
    if stored not in NUMBERS:
        raise _damaged(file.path, f"{variable} stored as type {stored}")
    dtype = np.dtype(order + NUMBERS[stored])
    array = MatArray(file, variable, kind, sides, dtype, place, compressed, skip)
    if array.n_bytes != size:
        raise _damaged(file.path, f"{size} bytes for {variable}, {array.n_bytes} by its dimensions")
    if not compressed and skip + size > place[1]:
        raise _damaged(file.path, f"{variable}, which reaches beyond its element")
    return array


class MatElements:
    """Reads an array's elements one after the other.

    Args:
        stream: Its data.
        order: "<" or ">".
        subject: What errors name.
    """

    def __init__(self, stream: _Stream, order: str, subject: object) -> None:
        self._stream, self._order, self._subject = stream, order, subject
        self._at = 0

    def tag(self) -> tuple[int, int, bytes | None]:
        """Type, bytes, and the data itself where it is small enough to stand in the tag."""
        raw = self._read(8)
        kind, size = struct.unpack(f"{self._order}II", raw)
        if not kind >> 16:
            return kind, size, None
        if kind >> 16 > 4:
            raise _damaged(self._subject, f"{kind >> 16} bytes in a tag")
        return kind & 0xFFFF, kind >> 16, raw[4:]

    def small(self) -> bytes:
        """The data of flags, dimensions or a name."""
        return self.data(_MAX_SMALL)[1]

    def data(self, limit: int) -> tuple[int, bytes]:
        """Type and data of the next element.

        Raises:
            SourceError: It is cut off, or has more than ``limit`` bytes.
        """
        kind, size, inside = self.tag()
        if size > limit:
            raise _damaged(self._subject, f"an element of {size} bytes where {limit} are too many")
        return kind, (self._read(-(-size // 8) * 8) if inside is None else inside)[:size]

    def numbers(self) -> tuple[int, int, int]:
        """Type and bytes of the next element, and where its data starts."""
        kind, size, inside = self.tag()
        return kind, size, self._at - (4 if inside is not None else 0)

    def _read(self, size: int) -> bytes:
        self._at += size
        return _exactly(self._stream, size, self._subject)


class _Plain:
    """Stored bytes."""

    def __init__(self, file: SharedFile, place: tuple[int, int]) -> None:
        self._file, (self._at, self._left) = file, place

    def skip(self, size: int) -> None:
        self._at, self._left = self._at + size, max(self._left - size, 0)

    def read(self, size: int) -> bytes:
        data = _at(self._file, self._at, min(size, self._left))
        self.skip(len(data))
        return data


class _Inflated:
    """The bytes that a zlib stream stands for."""

    def __init__(self, file: SharedFile, place: tuple[int, int]) -> None:
        self._file, self._stored = file, _Plain(file, place)
        self._zlib = zlib.decompressobj()
        self._fed = b""

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and not self._zlib.eof:
            fed = self._fed or self._stored.read(_BLOCK)
            try:
                part = self._zlib.decompress(fed, size)
            except zlib.error as error:
                raise _damaged(self._file.path, first_line(error)) from error
            self._fed = self._zlib.unconsumed_tail
            if not part and not fed:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Read on to the end, where zlib's checksum is; at most padding comes before."""
        self.read(8)
        if not self._zlib.eof:
            raise _damaged(self._file.path, "a compressed array without its end")


def _open(file: SharedFile, place: tuple[int, int], compressed: bool) -> _Plain | _Inflated:
    return _Inflated(file, place) if compressed else _Plain(file, place)


def _discard(stream: _Plain | _Inflated, size: int, path: Path) -> None:
    if isinstance(stream, _Plain):
        stream.skip(size)
        return
    while size > 0:
        size -= len(_exactly(stream, min(size, 16 * _BLOCK), path))


def _exactly(stream: _Stream, size: int, subject: object) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise _damaged(subject, "an array cut off")
    return data


def _at(file: SharedFile, offset: int, size: int) -> bytes:
    try:
        return file.read(offset, size)
    except OSError as error:
        raise _damaged(file.path, first_line(error)) from error


def _damaged(subject: object, found: str) -> SourceError:
    return SourceError(
        subject, expected="a sound MATLAB 5 file", found=found, do="download it again"
    )

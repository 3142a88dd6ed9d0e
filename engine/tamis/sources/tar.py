"""What lies where in an uncompressed tar, found by reading its headers alone.

Python's tarfile reads the headers (ustar, GNU, pax). It also stops silently at a damaged header,
runs in circles on a size below zero and allocates whatever a header asks for; here these are
errors.
"""

from __future__ import annotations

import io
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tamis.errors import SourceError, first_line
from tamis.sources.shared_file import SharedFile

__all__ = ["TarIndex", "index_tar", "open_tar_file", "read_member", "walk_tar"]

_MAX_HEADER = 1 << 16  # bytes of a long name or pax header; a path has at most 4,096
_AFTER_END = 1 << 16  # bytes after the end mark that must be zero; tar pads to 10,240
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True)
class TarIndex:
    """The regular files of a tar, in its order.

    Attributes:
        names: n relative names without "." and empty parts, all different; bytes that are not
            UTF-8 as lone surrogates, as :func:`os.listdir` gives them.
        offsets: (n,) int64 first byte of each in the file.
        sizes: (n,) int64 bytes.
        folders: Names of the folders that the tar lists.
    """

    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    folders: frozenset[str]


def open_tar_file(path: Path) -> SharedFile:
    """Open a tar for :func:`index_tar`.

    Raises:
        SourceError: It cannot be opened, or it is compressed.
    """
    file = SharedFile(path)
    start = file.read(0, min(file.size, 8))
    for magic, name in _COMPRESSIONS.items():
        if start.startswith(magic):
            raise SourceError(
                path,
                expected="an uncompressed .tar, whose images can be read in any order",
                found=f"one compressed with {name}",
                do="decompress it to a .tar first (no need to unpack that)",
            )
    return file


def index_tar(
    file: SharedFile, *, start: int = 0, size: int | None = None, subject: object = None
) -> TarIndex:
    """Find every regular file of a tar. O(members) memory, one small read per member.

    Args:
        file: The file that holds it.
        start: Its first byte, for a tar inside a tar.
        size: Its bytes; None: to the end of the file.
        subject: What errors name; None: the file's path.

    Raises:
        SourceError: Not a tar, a damaged or cut one, a link or device (followed nowhere, and
            left out they would be missed), a sparse file, a name that occurs twice or leads
            outside.
    """
    subject = subject or file.path
    size = file.size - start if size is None else size
    names: list[str] = []
    offsets, sizes = array("q"), array("q")
    folders = set()
    window = io.BufferedReader(_Window(file, start, size), 4096)
    for member in walk_tar(window, subject):
        name = _relative(member.name, subject)
        if member.isdir():
            folders.add(name)
            continue
        _check(member, size, subject)
        names.append(name)
        offsets.append(start + member.offset_data)
        sizes.append(member.size)
    # Neighbours in sorted order: a set of a million names would take far more memory.
    twice = next((a for a, b in pairwise(sorted(names)) if a == b), None)
    if twice is not None:
        raise SourceError(
            subject,
            expected="every name once",
            found=f"{twice!r} twice",
            do="pack the tar again from an unpacked folder",
        )
    places = np.frombuffer(offsets, np.int64), np.frombuffer(sizes, np.int64)
    return TarIndex(names, *places, frozenset(folders))


def walk_tar(file: io.BufferedIOBase, subject: object) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, of any kind, up to its end mark.

    Args:
        file: The tar, from its first byte; each member may be read before the next is asked for.
        subject: What errors name.

    Raises:
        SourceError: Not a tar, or a damaged or cut one.
    """
    headers = _Headers(file)
    try:
        archive = tarfile.TarFile(
            fileobj=headers,  # type: ignore[arg-type]  # reading, it never writes or closes
            encoding="utf-8",
            errors="surrogateescape",
        )
    except Exception as error:  # tarfile raises nearly anything on damaged files
        raise SourceError(
            subject,
            expected="a tar archive",
            found="a file of another kind",
            do="check the path, or download it again",
        ) from error
    while (member := _next(archive, subject)) is not None:
        # tarfile keeps every header otherwise.
        archive.members.clear()  # type: ignore[attr-defined]
        if member.size < 0 or archive.offset < member.offset_data:
            raise _damaged(subject, f"a size below zero at byte {member.offset}")
        yield member
    _check_end(archive, headers, subject)


def read_member(
    file: io.BufferedIOBase, member: tarfile.TarInfo, limit: int, subject: object
) -> bytes:
    """The bytes of a member that :func:`walk_tar` has just given.

    Raises:
        SourceError: Not a plain file of at most ``limit`` bytes, or the tar is cut.
    """
    if not member.isreg() or member.issparse() or member.size > limit:
        raise SourceError(
            f"{subject}: {member.name}",
            expected=f"a plain file of at most {limit} bytes",
            found=f"{member.size} bytes" if member.size > limit else "a member of another kind",
            do="download the archive again from where its authors publish it",
        )
    try:
        file.seek(member.offset_data)
        data = file.read(member.size)
    except Exception as error:  # whatever a decompressor raises
        raise _damaged(subject, first_line(error)) from error
    if len(data) < member.size:
        raise _damaged(subject, f"the end of the file inside {member.name}")
    return data


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: SharedFile, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = max(min(len(buffer), self._size - self._at), 0)
        buffer[:size] = self._file.read(self._start + self._at, size)
        self._at += size
        return size


class _Headers:
    """What tarfile sees of a file: reads of header size; the last one is kept."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.last = b""

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last


def _next(archive: tarfile.TarFile, subject: object) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except Exception as error:  # tarfile raises nearly anything on damaged files
        raise _damaged(subject, first_line(error)) from error


def _check_end(archive: tarfile.TarFile, headers: _Headers, subject: object) -> None:
    """tarfile stops alike at the end mark, at the end of the file and at damage."""
    if len(headers.last) < tarfile.BLOCKSIZE:
        raise _damaged(subject, "no end mark: the file is cut off")
    if headers.last.strip(b"\0"):
        raise _damaged(subject, f"a damaged header at byte {archive.offset}")
    try:
        after = headers.read(_AFTER_END)
    except Exception as error:  # whatever a decompressor raises
        raise _damaged(subject, first_line(error)) from error
    if after.strip(b"\0"):
        raise SourceError(
            subject,
            expected="nothing after the tar's end mark",
            found="more data, as in tars that were joined",
            do="unpack it with tar --ignore-zeros and give the folder",
        )


def _check(member: tarfile.TarInfo, size: int, subject: object) -> None:
    if not member.isreg() or member.issparse():
        raise SourceError(
            f"{subject}: {member.name}",
            expected="plain files and folders",
            found="a link, a device or a sparse file",
            do="pack it again with tar --dereference --hard-dereference, or give the folder",
        )
    if member.offset_data + member.size > size:
        raise _damaged(subject, f"{member.name}, which reaches beyond the end of the file")


def _relative(name: str, subject: object) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise SourceError(
            subject,
            expected="relative names that stay inside",
            found=repr(name[:80]),
            do="do not trust this file; pack it again from a folder of your own",
        )
    return "/".join(parts)


def _damaged(subject: object, found: str) -> SourceError:
    return SourceError(subject, expected="a whole tar", found=found, do="download it again")

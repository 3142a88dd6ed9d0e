"""Reading one file at many places from many threads."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from tamis.errors import SourceError, first_line

__all__ = ["SharedFile"]


class SharedFile:
    """A file for reads at any offset; its descriptor is closed with its last user.

    Attributes:
        path: The file.
        size: Bytes, when it was opened.

    Raises:
        SourceError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(
                path,
                expected="a readable file",
                found=first_line(error),
                do="check the path and its permissions",
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        self.path = path
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; any thread may call it.

        Raises:
            OSError: They cannot be read, or the file ends before.
        """
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:  # Linux reads at most 2 GiB at once
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"{self.path.name} ends before byte {offset + size}")
            data += more
        return data

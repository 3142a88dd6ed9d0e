"""libturbojpeg, as FFCV brings it; the one door to FFCV's native library.

FFCV's extension links libturbojpeg, so that whoever has FFCV has it, too. Nothing of FFCV's Python
is imported: that takes seconds, and changes types that numba shares with everybody (NOTES.md).
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tamis.errors import WorkFailedError

__all__ = ["SYMBOL", "Decompressor", "load_turbojpeg"]

SYMBOL = "tamis_{}"
"""How compiled loops know libturbojpeg's functions, whatever else the process has loaded."""

_FUNCTIONS = ("tjDecompressHeader3", "tjDecompress2", "tjGetErrorCode")


@cache
def load_turbojpeg() -> ctypes.CDLL:
    """The library, with its functions made known to numba's linker.

    Raises:
        WorkFailedError: FFCV is not installed, or was built without it.
    """
    library = ctypes.CDLL(str(_extension()))
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDestroy.argtypes = [ctypes.c_void_p]
    library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    from llvmlite import binding

    for name in _FUNCTIONS:
        address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        binding.add_symbol(SYMBOL.format(name), address)
    return library


def _extension() -> Path:
    spec = find_spec("ffcv")
    for folder in spec.submodule_search_locations or () if spec else ():
        for suffix in EXTENSION_SUFFIXES:
            path = Path(folder) / f"_libffcv{suffix}"
            if path.is_file():
                return path
    raise WorkFailedError(
        "ffcv",
        expected="its native library, which decodes JPEGs",
        found="none",
        do="install it: pip install ffcv",
    )


class Decompressor:
    """One of libturbojpeg's decompressors; for one thread at a time.

    Attributes:
        handle: Its address; 0 once it is closed.
    """

    handle = 0

    def __init__(self) -> None:
        self._library = load_turbojpeg()
        self.handle = int(self._library.tjInitDecompress() or 0)
        if not self.handle:
            raise MemoryError("a JPEG decompressor")

    def size(self, record: NDArray[Any]) -> tuple[int, int]:
        """Width and height in a JPEG's header."""
        found = [ctypes.c_int() for _ in range(4)]
        length = ctypes.c_ulong(record.nbytes)
        address = ctypes.c_void_p(record.ctypes.data)
        self._library.tjDecompressHeader3(
            ctypes.c_void_p(self.handle), address, length, *map(ctypes.byref, found)
        )
        return found[0].value, found[1].value

    def last_error(self) -> str:
        """What the last failed call says."""
        text = self._library.tjGetErrorStr2(self.handle)
        return text.decode("ascii", "replace") if text else "no reason given"

    def close(self) -> None:
        """Give its memory back."""
        if self.handle:
            self._library.tjDestroy(self.handle)
            self.handle = 0

    def __del__(self) -> None:
        self.close()

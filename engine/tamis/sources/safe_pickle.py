"""Pickles of strangers: plain Python values and arrays of bytes, and no code.

A pickle may call any function that it names. Here it can name only what an array of uint8 needs,
and those names lead to the stand-ins below, never into NumPy.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import SourceError, first_line

__all__ = ["load_pickle"]

_UINT8 = ("u1", "|u1", "uint8", b"u1", b"|u1", b"uint8")


def load_pickle(data: bytes, subject: object) -> dict[bytes, Any]:
    """Load a pickled dict, as Python 2 or 3 writes it.

    Args:
        data: The pickle; memory stays within twice its size.
        subject: What errors name.

    Returns:
        Keys as bytes → values; arrays as uint8.

    Raises:
        SourceError: Not such a pickle, or one that names anything else.
    """
    try:
        loaded = _Restricted(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a hostile or damaged pickle fails in any way it likes
        raise SourceError(
            subject,
            expected="a pickle of numbers, texts and arrays of bytes",
            found=first_line(error),
            do="download it again from where its authors publish it",
        ) from error
    if type(loaded) is not dict or not all(type(key) is bytes for key in loaded):
        raise SourceError(
            subject,
            expected="a pickled dict with keys of bytes",
            found=f"a pickled {type(loaded).__name__}",
            do="download it again from where its authors publish it",
        )
    return {key: value.values if type(value) is _Array else value for key, value in loaded.items()}


class _Array:
    """What a pickled array becomes."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if type(dtype) is not _Dtype or dtype.name not in _UINT8 or type(raw) is not bytes:
            raise pickle.UnpicklingError("an array that is not uint8")
        if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) != len(raw):
            raise pickle.UnpicklingError("an array of another size than its bytes")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, of which bytes have none."""


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: object) -> bytes:
    # Python 3 writes bytes as text that is to be encoded, where Python 2 shall read it.
    return text.encode("latin-1")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


# The unpickler in Python: the one in C allocates as many places as a pickle says it will need.
class _Restricted(pickle._Unpickler):
    # Nor byte arrays, which are filled with zeros of whatever size a pickle says.
    dispatch: ClassVar = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which could run code")
        return _NAMES[module, name]

"""Pickles of arrays and tensors by strangers: numbers in plain containers, and no code.

A pickle may call any function that it names. Here it can name only what arrays and tensors need,
and those names lead to the stand-ins below, never into NumPy or torch. Read are ``pickle.dump`` of
NumPy arrays and of torch tensors, and ``torch.save`` in its zip format and in the one before.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_arrays"]

_ZIP = b"PK\x03\x04"
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's older format
_NUMBERS = re.compile(r"b1|i[1248]|u[1248]|f[248]")
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


def load_arrays(path: Path) -> Any:
    """Load a pickle or a file of ``torch.save``.

    Args:
        path: The file; memory stays within a few times its size.

    Returns:
        The array itself, or a dict or list with arrays as values; bfloat16 becomes float32. Other
        values are plain Python or opaque.

    Raises:
        Exception: A hostile or damaged file fails in any way it likes; no code of it has run.
    """
    data = path.read_bytes()
    return _plain(_load_zip(data) if data.startswith(_ZIP) else _load_stream(data))


def _plain(value: Any, depth: int = 0) -> Any:
    """Arrays for their stand-ins, in the container as well."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, _Tensor):
        return value.array()
    if type(value) is dict and not depth:
        return {key: _plain(entry, 1) for key, entry in value.items()}
    if type(value) in (list, tuple) and not depth:
        return [_plain(entry, 1) for entry in value]
    return value


def _load_stream(data: bytes) -> Any:
    """One pickle, or torch's older format: three pickles of headers, the object, its storages."""
    stream = io.BytesIO(data)
    loaded = _Restricted(stream, {}).load()
    if type(loaded) is not int or loaded != _TORCH_MAGIC:
        return loaded
    storages: dict[str, _Storage] = {}
    _protocol, system = (_Restricted(stream, storages).load() for _ in range(2))
    if type(system) is not dict or system.get("little_endian") is not True:
        raise pickle.UnpicklingError("numbers of a big-endian machine")
    loaded = _Restricted(stream, storages).load()
    for key in _Restricted(stream, storages).load():
        (n_numbers,) = struct.unpack("<q", stream.read(8))
        storages[key].fill(stream.read(max(n_numbers, 0) * storages[key].item_size))
    return loaded


def _load_zip(data: bytes) -> Any:
    """torch's format of today: the object as ``data.pkl``, each storage a stored member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("a zip file without data.pkl")
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise pickle.UnpicklingError("compressed members, which torch does not write")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise pickle.UnpicklingError("numbers of a big-endian machine")
        storages: dict[str, _Storage] = {}
        loaded = _Restricted(io.BytesIO(archive.read(pickles[0])), storages).load()
        for key, storage in storages.items():
            storage.fill(archive.read(f"{folder}data/{key}"))
        return loaded


class _Dtype:
    """What a pickled dtype becomes."""

    def __init__(self, name: object, *_: object) -> None:
        if type(name) is not str or not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name!r:.40}, not of numbers")
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """Byte order."""
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """What a pickled array becomes."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        """Shape, dtype, order and bytes."""
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: object, dtype: object, shape: Any, order: object) -> None:
        """The numbers, if they are as many as the shape says."""
        if type(dtype) is not _Dtype or not isinstance(raw, bytes) or order not in ("C", "F"):
            raise pickle.UnpicklingError("an array that is not one of numbers")
        sizes = _sizes(shape)
        if math.prod(sizes) * dtype.dtype.itemsize != len(raw):
            raise pickle.UnpicklingError("an array of another size than its bytes")
        flat = np.frombuffer(raw, dtype.dtype)
        self.values = flat.reshape(sizes, order="F" if order == "F" else "C")


class _StorageType:
    """``torch.FloatStorage`` and the like."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _Storage:
    """The numbers that tensors are views of; their bytes may come after the tensors."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.numbers: NDArray[Any] | None = None

    @property
    def item_size(self) -> int:
        """Bytes of a number."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    def fill(self, raw: bytes) -> None:
        """The numbers; a bfloat16 is the upper half of a float32."""
        if self.dtype == "bfloat16":
            self.numbers = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            self.numbers = np.frombuffer(raw, self.dtype)


class _Tensor:
    """What a pickled tensor becomes."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> None:
        if type(storage) is not _Storage:
            raise pickle.UnpicklingError("a tensor without numbers")
        self.storage, self.shape, self.strides = storage, _sizes(shape), _sizes(strides)
        (self.offset,) = _sizes((offset,))

    def array(self) -> NDArray[Any]:
        """A view of the storage, no larger than it and nowhere outside."""
        numbers = self.storage.numbers
        if numbers is None or len(self.shape) != len(self.strides):
            raise pickle.UnpicklingError("a tensor without numbers")
        count = math.prod(self.shape)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if count and (count > len(numbers) or last >= len(numbers)):
            raise pickle.UnpicklingError("a tensor larger than its numbers")
        if not count:
            return np.empty(self.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )


def _sizes(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or len(sizes) > 32:
        raise pickle.UnpicklingError("a shape that is none")
    if any(type(size) is not int or size < 0 for size in sizes):
        raise pickle.UnpicklingError("a shape that is none")
    return tuple(sizes)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(raw: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape, order)
    return array


def _encode(text: str, encoding: object) -> bytes:
    return text.encode("latin-1")  # how Python 3 writes bytes for Python 2


def _no_bytes() -> bytes:
    return b""  # how Python 3 writes no bytes for Python 2


_NAMES: dict[tuple[str, str], Any] = {
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch.storage", "_load_from_bytes"): _load_stream,
} | {("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()}


# The unpickler in Python: the one in C allocates as many places as a pickle says it will need.
class _Restricted(pickle._Unpickler):
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def __init__(self, stream: io.BytesIO, storages: dict[str, _Storage]) -> None:
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which could run code")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) < 3 or type(pid[1]) is not _StorageType:
            raise pickle.UnpicklingError("a reference to something outside of the file")
        if type(pid[2]) is not str:
            raise pickle.UnpicklingError("a storage without a name")
        return self.storages.setdefault(pid[2], _Storage(pid[1].dtype))

    def load_build(self) -> None:
        """State for arrays and dtypes alone; anything else would keep it after this pickle."""
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Array, _Dtype):
            raise pickle.UnpicklingError("state of something that is not an array")
        self.stack[-1].build(state)

    def load_bytearray8(self) -> None:
        """As bytes; and not filled with zeros of whatever size a pickle says before reading."""
        (size,) = struct.unpack("<Q", self.read(8))
        data = self.read(size)
        if len(data) != size:
            raise pickle.UnpicklingError("bytes that end early")
        self.append(data)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

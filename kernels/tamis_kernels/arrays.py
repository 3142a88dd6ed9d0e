"""Whose array it is, where it lies and how it is checked: the first step of every kernel.

Kernels work on NumPy arrays, on torch tensors of the CPU or of a GPU, and on CuPy arrays. Results
are of the caller's library, on the caller's device; nothing is moved between devices.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Place",
    "address_of",
    "check_integer",
    "check_integers",
    "check_matrix",
    "check_norms",
    "check_vector",
    "dtype_of",
    "frozen",
    "place_of",
    "strides_of",
]

_Library = Literal["numpy", "torch", "cupy"]


@dataclass(frozen=True)
class Place:
    """A library and a device.

    Attributes:
        library: "numpy", "torch" or "cupy".
        device: "cpu" or "cuda:0", "cuda:1", …
    """

    library: _Library
    device: str

    def __str__(self) -> str:
        return f"{self.library} on {self.device}"

    @property
    def on_gpu(self) -> bool:
        """Whether the arrays lie in a GPU's memory."""
        return self.device != "cpu"

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Makes the device the current one of CuPy, which else works wherever that is."""
        if self.library != "cupy":
            yield
            return
        cupy = sys.modules["cupy"]  # the caller's own; imported nowhere but in its one door
        with cupy.cuda.Device(int(self.device.partition(":")[2])):
            yield

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An uninitialised array of this library on this device, C-contiguous.

        Raises:
            RuntimeError: A CuPy stream is being captured in a CUDA graph: its pool would give the
                same memory to others between two replays. torch keeps a graph's memory apart.
        """
        if self.library == "numpy":
            return np.empty(shape, dtype)
        if self.library == "torch":
            import torch

            return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
        cupy = sys.modules["cupy"]
        with self.on_device():
            if cupy.cuda.get_current_stream().is_capturing():
                raise RuntimeError(
                    "expected torch tensors where a CUDA graph is captured, found CuPy arrays"
                )
            return cupy.empty(shape, dtype)

    def host(self, array: Any) -> NDArray[Any]:
        """The NumPy array that shares a CPU array's memory; bfloat16 as its bits, uint16."""
        if self.library == "torch":
            import torch

            tensor = array.detach().resolve_neg()
            bits = tensor.view(torch.uint16) if dtype_of(array) == "bfloat16" else tensor
            shared: NDArray[Any] = bits.numpy()
            return shared
        return array.view(np.uint16) if dtype_of(array) == "bfloat16" else np.asarray(array)

    def rows(self, matrix: Any) -> tuple[NDArray[Any], int]:
        """A CPU matrix as Numba takes it, :func:`frozen`, sharing its memory, and its kind.

        Kind 0 is float32 or float64; 1 the bits of float16 and 2 those of bfloat16, both uint16.
        """
        kind = {"float16": 1, "bfloat16": 2}.get(dtype_of(matrix), 0)
        values = self.host(matrix)
        return frozen(values.view(np.uint16) if kind else values), kind

    def to_host(self, array: Any) -> NDArray[Any]:
        """A NumPy array with the same values; copied, and waited for, where it is on a GPU."""
        if self.library == "cupy":
            with self.on_device():
                copied: NDArray[Any] = array.get()
            return copied
        return self.host(array.cpu() if self.library == "torch" else array)

    def from_host(self, array: NDArray[Any]) -> Any:
        """An array of this library on this device with a NumPy array's values."""
        if self.library == "numpy":
            return array
        if self.library == "torch":
            import torch

            return torch.from_numpy(array).to(self.device)
        with self.on_device():
            copied = self.empty(array.shape, str(array.dtype))
            copied.set(array)
        return copied


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, read-only, as memory maps may be: to Numba arrays of another type."""
    view = array.view()
    view.flags.writeable = False
    return view


def dtype_of(array: Any) -> str:
    """Name of an array's dtype, the same in every library: "float32", "bfloat16", "int64", …"""
    return str(array.dtype).removeprefix("torch.")


def address_of(array: Any) -> int:
    """Where the first element lies."""
    if isinstance(array, np.ndarray):
        return int(array.ctypes.data)
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.data.ptr)


def strides_of(array: Any) -> tuple[int, ...]:
    """Steps between neighbours along each axis, in elements."""
    if hasattr(array, "stride"):
        return tuple(array.stride())
    return tuple(step // array.itemsize for step in array.strides)


def place_of(**arrays: Any) -> Place:
    """The one place where all arrays lie.

    Raises:
        TypeError: An array of an unknown library, or arrays of several.
        ValueError: Arrays on several devices.
    """
    places = {name: _place(name, array) for name, array in arrays.items()}
    (first, place), *others = places.items()
    for name, other in others:
        if other.library != place.library:
            raise TypeError(
                f"{name}: expected an array of {place.library} as {first} is, found one of "
                f"{other.library}; convert one of them"
            )
        if other.device != place.device:
            raise ValueError(
                f"{name}: expected an array on {place.device} as {first} is, found one on "
                f"{other.device}; move one of them"
            )
    return place


def _place(name: str, array: Any) -> Place:
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected an array without a mask, found a masked array")
        return Place("numpy", "cpu")
    library = type(array).__module__.partition(".")[0]
    if library == "torch" and hasattr(array, "device"):
        if str(array.layout) != "torch.strided":
            raise TypeError(f"{name}: expected a dense tensor, found one of {array.layout}")
        if array.device.type == "cpu":
            return Place("torch", "cpu")
        if array.device.type == "cuda":
            return Place("torch", f"cuda:{array.device.index}")
        raise ValueError(f"{name}: expected a device cpu or cuda, found {array.device}")
    if library == "cupy" and hasattr(array, "device"):
        return Place("cupy", f"cuda:{array.device.id}")
    raise TypeError(
        f"{name}: expected a NumPy array, a torch tensor or a CuPy array, found "
        f"{type(array).__qualname__}"
    )


def check_integer(name: str, value: Any) -> int:
    """The integer that a value is, of Python or of NumPy.

    Raises:
        TypeError: It is none; a bool, a float and a string are none.
    """
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name}: expected an integer, found {value!r}")


def check_matrix(name: str, array: Any, dtypes: Collection[str], shape: str = "(n, d)") -> None:
    """Refuse what is not a matrix of one of the dtypes.

    Raises:
        TypeError: Another dtype.
        ValueError: Another number of dimensions.
    """
    _check_dtype(name, array, dtypes)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape {shape}, found {tuple(array.shape)}")


def check_vector(name: str, array: Any, dtypes: Collection[str], length: int) -> None:
    """Refuse what is not a vector of this length and one of the dtypes.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape.
    """
    _check_dtype(name, array, dtypes)
    if tuple(array.shape) != (length,):
        raise ValueError(f"{name}: expected shape ({length},), found {tuple(array.shape)}")


def check_integers(name: str, array: Any, length: int, below: int | None = None) -> None:
    """Refuse what is not a vector of integers, or on the CPU holds one outside 0 to below − 1.

    On a GPU values are not looked at: reading them back would stall the caller's stream.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, or a value out of range.
    """
    check_vector(name, array, _INTEGERS, length)
    place = _place(name, array)
    if below is None or place.on_gpu or not length:
        return
    values = place.host(array)  # torch has no minimum of unsigned numbers
    lowest, highest = int(values.min()), int(values.max())
    if not 0 <= lowest <= highest < below:
        expected = f"values from 0 to {below - 1}" if below else "no value"
        raise ValueError(f"{name}: expected {expected}, found {lowest} to {highest}")


def check_norms(name: str, norms: NDArray[np.float64], *, directed: bool) -> None:
    """Refuse rows longer than 1e18 or, where they have to be ``directed``, shorter than 1e-30.

    Within, float32 holds squares of norms, and float32 and float64 their reciprocals.

    Raises:
        ValueError: Such a row, or no row at all.
    """
    if not len(norms):
        raise ValueError(f"{name}: expected at least one row, found none")
    bad = ~(norms <= 1e18) | (directed & (norms < 1e-30))
    if bad.any():
        wanted = "finite rows with a direction" if directed else "finite rows"
        wanted += " (norms of 1e-30 to 1e18)" if directed else " (norms up to 1e18)"
        raise ValueError(
            f"{name}: expected {wanted}, found {int(bad.sum())} others, the first is row "
            f"{int(bad.argmax())}"
        )


_INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


def _check_dtype(name: str, array: Any, dtypes: Collection[str]) -> None:
    found = dtype_of(array)
    if found not in dtypes:
        expected = " or ".join(dtypes) if len(dtypes) < 5 else "integers"
        raise TypeError(f"{name}: expected {expected}, found {found}")

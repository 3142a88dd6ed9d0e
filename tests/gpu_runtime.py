"""Runs the kernels' small cases on a GPU, on NumPy arrays that are lent to it for each launch.

``python -m gpu_runtime [STEM …]``: the ``sanitizer_cases`` of ``kernels/test_STEM_cuda.py``, of all
sources without arguments. tools/gpu-check runs it under NVIDIA's compute-sanitizer; each array lies
in an allocation of its own and of its own size, so that memcheck sees the first byte outside.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.arrays import Place, address_of
from tamis_kernels.cuda.cupy_door import CupyRuntime
from tamis_kernels.cuda.sources import STEMS

__all__ = ["GpuRuntime", "Loans", "run"]

_ALIGNMENT = 256  # kept, because launches choose their variant by the arrays' addresses


class GpuRuntime:
    """A :class:`tamis_kernels.cuda.launching.Runtime` that takes NumPy arrays to the first GPU."""

    def __init__(self) -> None:
        self._runtime = CupyRuntime(Place("cupy", "cuda:0"))

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A NumPy array full of 0xff bytes, so that nothing is zero by chance."""
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xFF)
        return array

    def launch(
        self,
        stem: str,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: Sequence[Any],
    ) -> None:
        """Run one kernel to its end."""
        loans = Loans()
        lent = [loans.of(a) if isinstance(a, np.ndarray) else a for a in arguments]
        self._runtime.launch(stem, kernel, grid, block, lent)
        loans.give_back()

    def product(self, a: Any, b: Any, out: Any) -> None:
        """Write a @ b.T."""
        loans = Loans()
        self._runtime.product(loans.of(a), loans.of(b), loans.of(out))
        loans.give_back()


@dataclass(frozen=True)
class _Loan:
    host: NDArray[np.uint8]
    copy: Any
    pointer: Any
    writeable: bool


class Loans:
    """Copies of NumPy arrays on the GPU; views of one array are views of one copy."""

    def __init__(self) -> None:
        self._loans: dict[int, _Loan] = {}

    def of(self, array: NDArray[Any]) -> Any:
        """The CuPy array that lies in the copy as the array lies in its own memory."""
        import cupy

        if not array.size:
            return cupy.empty(array.shape, array.dtype)
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        start, end = np.lib.array_utils.byte_bounds(owner)
        if start not in self._loans:
            host = np.ctypeslib.as_array((ctypes.c_uint8 * (end - start)).from_address(start))
            shift = start % _ALIGNMENT
            memory = cupy.cuda.Memory(shift + len(host))  # of the driver, not of CuPy's pool
            pointer = cupy.cuda.MemoryPointer(memory, shift)
            copy = cupy.ndarray(len(host), np.uint8, pointer)
            copy.set(host)
            self._loans[start] = _Loan(host, copy, pointer, owner.flags.writeable)
        at = self._loans[start].pointer + (address_of(array) - start)
        return cupy.ndarray(array.shape, array.dtype, at, strides=array.strides)

    def give_back(self) -> None:
        """Wait, and copy what the GPU holds into the arrays."""
        for loan in self._loans.values():
            found = loan.copy.get()
            if loan.writeable:
                loan.host[:] = found


def run(stems: Sequence[str]) -> None:
    """Run the cases of some sources."""
    sys.path.insert(0, str(Path(__file__).with_name("kernels")))
    for stem in stems:
        importlib.import_module(f"test_{stem}_cuda").sanitizer_cases(GpuRuntime())
        print(f"{stem}: its small cases are right")


if __name__ == "__main__":
    run(sys.argv[1:] or STEMS)

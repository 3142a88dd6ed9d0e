"""The only file that imports CuPy: compiles the sources and launches them on a GPU."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tamis_kernels.arrays import Place, address_of, dtype_of
from tamis_kernels.cuda.sources import OPTIONS, cuda_source

__all__ = ["CupyRuntime", "contiguous"]


class CupyRuntime:
    """A :class:`tamis_kernels.cuda.launching.Runtime` on one GPU.

    Kernels run on the stream that is current in the caller's library, so they keep the order of the
    caller's own work and can be captured in its CUDA graph; a kernel is compiled and loaded at its
    first launch in a process, which therefore has to lie outside of a capture.

    Args:
        place: Of the caller's arrays; memory is allocated by the same library.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An uninitialised array of the caller's library, C-contiguous."""
        return self._place.empty(shape, dtype)

    def launch(
        self,
        stem: str,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: Sequence[Any],
    ) -> None:
        """Start a kernel; arrays go as pointers, NumPy numbers as their C types."""
        values = tuple(
            argument if isinstance(argument, np.generic) else np.uint64(address_of(argument))
            for argument in arguments
        )
        with self._current():
            _kernel(stem, kernel, _index(self._place.device))(grid, (block,), values)

    def product(self, a: Any, b: Any, out: Any) -> None:
        """Write a @ b.T; float32 is never cut to TF32, whatever the caller allows his own products.

        Args:
            a: (n, d) float32, or bfloat16 as its bits, uint16; C-contiguous.
            b: (k, d) likewise.
            out: (n, k) float32, C-contiguous.
        """
        half = dtype_of(a) == "uint16"
        if half and self._place.library == "torch":
            import torch  # whose workspaces know of its graphs

            left, right = a.view(torch.bfloat16), b.view(torch.bfloat16)
            torch.mm(left, right.T, out_dtype=torch.float32, out=out)
            return
        import cupy

        cublas, runtime = cupy.cuda.cublas, cupy.cuda.runtime
        kind = runtime.CUDA_R_16BF if half else runtime.CUDA_R_32F
        compute = cublas.CUBLAS_COMPUTE_32F if half else cublas.CUBLAS_COMPUTE_32F_PEDANTIC
        (n, d), k = a.shape, b.shape[0]
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        with self._current():
            cublas.gemmEx(  # of column-major matrices: outᵀ = (bᵀ)ᵀ aᵀ
                cupy.cuda.get_cublas_handle(),
                cublas.CUBLAS_OP_T,
                cublas.CUBLAS_OP_N,
                *(k, n, d),
                one.ctypes.data,
                *(address_of(b), kind, d),
                *(address_of(a), kind, d),
                zero.ctypes.data,
                *(address_of(out), runtime.CUDA_R_32F, k),
                compute,
                cublas.CUBLAS_GEMM_DEFAULT,
            )

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The arrays' device, and the stream that is current in the caller's library."""
        import cupy

        with cupy.cuda.Device(_index(self._place.device)):
            if self._place.library == "torch":
                import torch

                current = _Stream(torch.cuda.current_stream(self._place.device).cuda_stream)
                with cupy.cuda.Stream.from_external(current):
                    yield
            else:
                yield


def contiguous(array: Any) -> Any:
    """The array itself where it is C-contiguous, else a copy that is."""
    if hasattr(array, "contiguous"):  # torch
        return array.contiguous()
    import cupy

    with array.device:
        return cupy.ascontiguousarray(array)


class _Stream:
    """A stream by its address, in the protocol that torch's own streams follow since torch 2.10."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


@cache
def _kernel(stem: str, name: str, device: int) -> Any:
    """A kernel, loaded on a device, which is the current one."""
    return _module(stem, device).get_function(name)


@cache
def _module(stem: str, device: int) -> Any:
    from cupy.cuda import function

    module = function.Module()
    module.load(_compiled(cuda_source(stem), device))
    return module


def _compiled(source: str, device: int) -> bytes:
    """A source as the device's machine code; kept for later processes where CuPy keeps its own.

    CuPy's RawModule would do it all, but adds -ftz=true after the caller's options: numbers below
    1.2e-38 would be zeros, and the kernels promise results for these, too.
    """
    import cupy
    from cupy.cuda import compiler, nvrtc

    target = cupy.cuda.Device(device).compute_capability
    key = "\0".join((source, *OPTIONS, target, str(nvrtc.getVersion())))
    name = f"tamis-{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    kept = Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser() / name
    if kept.exists():
        return kept.read_bytes()
    # In memory: else the source passes through a file in the locale's encoding.
    code: bytes = compiler.compile_using_nvrtc(source, OPTIONS, cache_in_memory=True)[0]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
        file.write(code)
    Path(file.name).replace(kept)
    return code


def _index(device: str) -> int:
    return int(device.partition(":")[2])

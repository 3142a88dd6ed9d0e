"""Matrix products on a CPU in few bits: what it has, which library is fastest, on one thread each.

Threads share the right-hand matrix and multiply chunks of rows with it. Float32 is for OpenBLAS but
where there is AVX-512: there oneDNN, which is torch's, took half the time of OpenBLAS on a CPU of
AMD's, for which that has AVX2 code (bench/records/NOTES.md; not measured on one of Intel's).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tamis_kernels.processor import flags, multiplies_bfloat16

__all__ = ["Multiply", "Precision", "Product", "precisions"]

Precision = Literal["int8", "bfloat16", "float32"]

Multiply = Callable[[int], NDArray[Any]]
"""Gives the product (n, k) of a chunk's first n rows with the matrix; valid until the next call."""

_INT8_LARGEST_D = 1 << 17  # d · 127² has to fit in an int32


def precisions(n_dimensions: int) -> tuple[Precision, ...]:
    """What is worth trying on this CPU, the fastest and coarsest first; float32 is always there."""
    coarse: list[Precision] = []
    if {"avx512_vnni", "avx_vnni"} & flags() and n_dimensions < _INT8_LARGEST_D:
        coarse.append("int8")
    if multiplies_bfloat16():
        coarse.append("bfloat16")
    return (*coarse, "float32")


class Product:
    """Products of chunks of rows with one matrix.

    Args:
        matrix: (d, k): int8, float32, or uint16 bits of bfloat16.

    Attributes:
        one_thread_each: To be entered by the threads that multiply: each product runs on the one
            that asks for it. Libraries' own threads have to meet after every product.
        packs_every_time: Whether each product brings the matrix into an order of its own first.
    """

    def __init__(self, matrix: NDArray[Any]) -> None:
        self._matrix = matrix
        self._packed = _packed(matrix) if matrix.dtype == np.float32 else None
        self.packs_every_time = matrix.dtype == np.float32 and self._packed is None  # by BLAS
        self.one_thread_each = _BLAS if self.packs_every_time else _TORCH

    def room(self, n_rows: int) -> tuple[NDArray[Any], Multiply]:
        """A thread's own: a chunk (n_rows, d) of the matrix's type to be filled, and its product.

        Of int8 the product is int32, else of the same type. To be called within
        ``one_thread_each``: where torch multiplies it takes the calling thread's others away.
        """
        n_dimensions, n_columns = self._matrix.shape
        if self.one_thread_each is _BLAS:
            matrix = self._matrix
            rows = np.empty((n_rows, n_dimensions), np.float32)
            out = np.empty((n_rows, n_columns), np.float32)
            return rows, lambda n: np.dot(rows[:n], matrix, out=out[:n])
        import torch

        torch.set_num_threads(1)
        if self._packed is not None:
            chunk, packed = _empty(n_rows, n_dimensions, torch.float32), self._packed
            linear = torch.ops.mkldnn._linear_pointwise
            return chunk.numpy(), lambda n: _as_numpy(
                linear(chunk[:n], packed, None, "none", [], "")
            )
        weights = torch.from_numpy(self._matrix)
        if self._matrix.dtype == np.uint16:
            weights = weights.view(torch.bfloat16)
            halves = _empty(n_rows, n_dimensions, torch.bfloat16)
            products = _empty(n_rows, n_columns, torch.bfloat16)
            return _as_numpy(halves.view(torch.uint16)), lambda n: _as_numpy(
                torch.mm(halves[:n], weights, out=products[:n]).view(torch.uint16)
            )
        codes = _empty(n_rows, n_dimensions, torch.int8)
        sums = _empty(n_rows, n_columns, torch.int32)
        multiply = torch._int_mm
        return codes.numpy(), lambda n: _as_numpy(multiply(codes[:n], weights, out=sums[:n]))


def _empty(n_rows: int, n_columns: int, dtype: Any) -> Any:
    """A matrix on the CPU, whatever dtype and device are torch's defaults."""
    import torch

    return torch.empty((n_rows, n_columns), dtype=dtype, device="cpu")


def _as_numpy(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array


def _packed(matrix: NDArray[np.float32]) -> Any:
    """The matrix in the order that oneDNN multiplies with, or None where OpenBLAS is to do it."""
    if "avx512f" not in flags():
        return None
    import torch

    onednn, operations = torch.backends.mkldnn, torch.ops.mkldnn
    wanted = ("_reorder_linear_weight", "_linear_pointwise")
    usable = onednn.is_available() and onednn.enabled
    if not usable or not all(hasattr(operations, name) for name in wanted) or not _exact(torch):
        return None
    return operations._reorder_linear_weight(torch.from_numpy(np.ascontiguousarray(matrix.T)), None)


def _exact(torch: Any) -> bool:
    """Whether oneDNN's products of float32 are such: its user may have asked for fewer bits."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:  # torch 2.8, which had one setting for all
        return bool(torch.get_float32_matmul_precision() == "highest")
    return matmul.fp32_precision in ("none", "ieee")


class _OneThread:
    """Products run on the calling thread alone while anybody is inside; then all is as before.

    The libraries' settings belong to the process, so the first to come saves them and the last to
    go restores them. Where a thread has a setting of its own, each restores it as it goes.

    Args:
        limit: Gives what restores the setting.
        of_threads: Whether threads have settings of their own.
    """

    def __init__(self, limit: Callable[[], Callable[[], object]], *, of_threads: bool) -> None:
        self._limit, self._lock, self._n_inside = limit, threading.Lock(), 0
        self._of_threads = of_threads
        self._restore: Callable[[], object] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._restore = self._limit()
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._of_threads or not self._n_inside:
                self._restore()


def _limit_blas() -> Callable[[], object]:
    limits = threadpool_limits(1, "blas")
    restore: Callable[[], object] = limits.restore_original_limits
    return restore


def _limit_torch() -> Callable[[], object]:
    import torch

    before = torch.get_num_threads()
    # Workers set theirs, and so does a caller for its first chunk; that is then also the setting of
    # threads not yet born.
    return lambda: torch.set_num_threads(before)


_BLAS = _OneThread(_limit_blas, of_threads=False)
_TORCH = _OneThread(_limit_torch, of_threads=True)

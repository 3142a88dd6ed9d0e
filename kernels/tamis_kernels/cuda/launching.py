"""What a launch needs of a device; CuPy provides it on a GPU, the tests provide it on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tamis_kernels.arrays import address_of, dtype_of, strides_of

__all__ = ["Runtime", "blocks_for", "columns_at_once", "integer_bytes"]

_VECTOR_BYTES = 16  # of the widest load
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Runtime(Protocol):
    """Memory and launches on one device, in the order of one stream."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An uninitialised array, C-contiguous."""
        ...

    def launch(
        self,
        stem: str,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: Sequence[Any],
    ) -> None:
        """Start a kernel of the source ``stem``.

        Args:
            stem: The source, as in :data:`tamis_kernels.cuda.sources.STEMS`.
            kernel: Its name there.
            grid: Blocks, in one to three dimensions.
            block: Threads of a block.
            arguments: Arrays, passed as pointers, and NumPy numbers, passed as their C types.
        """
        ...

    def product(self, a: Any, b: Any, out: Any) -> None:
        """Write a @ b.T, with float32 sums; all three C-contiguous.

        Args:
            a: (n, d) float32, or bfloat16 as its bits, uint16.
            b: (k, d) of the same dtype.
            out: (n, k) float32.
        """
        ...


def blocks_for(n: int, per_block: int) -> int:
    """How many blocks take n things, ``per_block`` each."""
    return -(-n // per_block)


def columns_at_once(matrix: Any, dtype: str) -> int:
    """What a lane loads at once: 16 bytes where all rows are aligned to that, else one number.

    Args:
        matrix: (n, d), neighbouring columns side by side.
        dtype: What it holds: "float32", "float16" or "bfloat16".
    """
    vector = _VECTOR_BYTES // _ITEM_BYTES[dtype]
    stride, n_columns = strides_of(matrix)[0], matrix.shape[1]
    aligned = not (address_of(matrix) % _VECTOR_BYTES or stride % vector or n_columns % vector)
    return vector if aligned else 1


def integer_bytes(integers: Any) -> int:
    """Of one number of an array of int64 or int32: what the sources tell the two apart by."""
    return 8 if dtype_of(integers) == "int64" else 4

"""What a launch needs of a device; CuPy provides it on a GPU, the tests provide it on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Runtime", "blocks_for"]


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

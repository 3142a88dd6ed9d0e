"""What this machine's CPU does at most: bytes read a second, and products a second."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numba
import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.benchmarks.kernels.protocol import Bench, agree
from tamis.benchmarks.measuring import Ceiling
from tamis_kernels.cpu.products import Product

__all__ = ["READ", "Products", "read_all", "read_ceiling"]

READ = "parallel read"
"""Name of the contender that :func:`read_all` is."""


_PARTS = 64
_CHUNK = 256  # rows; the product of more is written to pages that come anew


@njit
def _sum_part(words):
    total = np.uint64(0)
    for i in range(words.size):  # from zero: a loop with another start is not vectorised
        total += words[i]
    return total


@njit(parallel=True)
def _sum_words(words):
    total = np.uint64(0)
    for part in numba.prange(_PARTS):
        start, stop = words.size * part // _PARTS, words.size * (part + 1) // _PARTS
        total += _sum_part(words[start:stop])
    return total


def read_all(x: NDArray[Any]) -> Callable[[], object]:
    """Something that reads every byte of an array, with all threads, and does little else."""
    words = x.reshape(-1).view(np.uint8)[: x.nbytes // 8 * 8].view(np.uint64)

    def run() -> object:
        return _sum_words(words)

    run()  # compiles
    return run


def read_ceiling(x: NDArray[Any], seconds: float) -> Ceiling:
    """The rate of :func:`read_all`."""
    return Ceiling(READ, x.nbytes / seconds / 1e9, "GB/s")


def _in_chunks(product: Product, a: NDArray[np.float32]) -> Callable[[], object]:
    """As many products as those of a by itself, in chunks, with all threads."""
    n_rows = min(_CHUNK, len(a))
    with product.one_thread_each:  # making room asks for it; after it all threads multiply
        rows, multiply = product.room(n_rows)
    rows[:] = a[:n_rows]

    def run() -> None:
        for start in range(0, len(a), n_rows):
            multiply(min(n_rows, len(a) - start))

    return run


class Products:
    """Square products in float32, bfloat16 and int8, as contenders among the others.

    Args:
        bench: Whose turns they take part in.
        side: Of the matrices.
        precisions: Which of them the CPU has; it does the others a number at a time, in minutes.
    """

    def __init__(self, bench: Bench, side: int, precisions: Collection[str]) -> None:
        self._work = 2 * side**3 / 1e9
        a = np.random.default_rng(0).standard_normal((side, side), np.float32)
        self.contenders: dict[str, Callable[[], object]] = {}
        self._add("float32 product", lambda: a @ a)
        product = Product(a)
        if not product.packs_every_time:
            self._add("float32 product", _in_chunks(product, a))
        if bench.peer("torch", "products of bfloat16 and int8") is None:
            return
        import torch

        whole = torch.from_numpy(a)
        half, codes = whole.bfloat16(), (whole * 30).clamp(-127, 127).to(torch.int8)
        self._add("float32 product", lambda: whole @ whole)
        # Which of two layouts a library likes better is its own affair: the faster one counts.
        for right in (half, half.T) if "bfloat16" in precisions else ():
            self._add("bfloat16 product", lambda right=right: half @ right)
        for turned in (codes, codes.T) if "int8" in precisions else ():
            self._add("int8 product", lambda turned=turned: torch._int_mm(codes, turned))
        agree("torch's product", whole @ whole, a @ a, within=1e-3)

    def _add(self, name: str, run: Callable[..., object]) -> None:
        run()
        self.contenders[f"{name} {len(self.contenders)}"] = run

    def ceilings(self, seconds: dict[str, float]) -> dict[str, Ceiling]:
        """Precision → its ceiling, from what :meth:`Bench.timed` found."""
        fastest: dict[str, float] = {}
        for contender in self.contenders:
            name = contender.rpartition(" ")[0]
            fastest[name] = min(seconds[contender], fastest.get(name, np.inf))
        return {
            name.partition(" ")[0]: Ceiling(name, self._work / taken, "GFLOP/s")
            for name, taken in fastest.items()
        }

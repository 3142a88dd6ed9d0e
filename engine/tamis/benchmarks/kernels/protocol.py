"""What the benchmarks of all kernels share: sizes, turns, threads, peers, and agreement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.benchmarks.measuring import timed
from tamis.errors import WorkFailedError

if TYPE_CHECKING:
    from tamis.benchmarks.kernels.gpu import Gpu

__all__ = ["QUICK", "Bench", "Sizes", "agree", "host", "threads"]

_PAUSE_S = 0.15


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are the CPU's.

    Attributes:
        score_rows: Rows of logits with ``n_classes`` columns.
        few_class_rows: Rows of logits with ten.
        n_classes: Of ``score_rows``, and of the selection.
        batch: Rows that a training step scores.
        examples: Whose statistics are updated.
        rows: That are assigned to prototypes, and clustered.
        n_dimensions: Of these rows; on a GPU more are measured, too.
        n_prototypes: And clusters.
        iterations: Of k-means.
        selected_rows: From which ``select_top`` takes a part.
        models: Trained on random subsets.
        train: Examples whose influence is asked for.
        test: Examples on which.
        product_side: Of the square matrices whose product is the ceiling.
    """

    score_rows: int = 200_000
    few_class_rows: int = 5_000_000
    n_classes: int = 1000
    batch: int = 512
    examples: int = 1_280_000
    rows: int = 100_000
    n_dimensions: int = 512
    n_prototypes: int = 1000
    iterations: int = 20
    selected_rows: int = 10_000_000
    models: int = 1000
    train: int = 20_000
    test: int = 2_000
    product_side: int = 2048


QUICK = Sizes(
    score_rows=300,
    few_class_rows=500,
    n_classes=40,
    batch=16,
    examples=200,
    rows=3000,  # so many that twenty iterations do not end early
    n_dimensions=24,
    n_prototypes=60,
    iterations=4,
    selected_rows=2000,
    models=40,
    train=50,
    test=30,
    product_side=64,
)
"""Of tests: every row is computed, and none means anything."""


@dataclass
class Bench:
    """One run of the benchmarks.

    Attributes:
        cpu: What is measured on the CPU; None leaves it out.
        gpu: What is measured on the GPU, likewise.
        card: The GPU.
        turns: The median of so many counts.
        n_threads: Of every library.
        advance: Called after each timed run.
        left_out: What could not be compared, and why; grows.
    """

    cpu: Sizes | None
    gpu: Sizes | None
    card: Gpu | None
    turns: int
    n_threads: int
    advance: Callable[[], object] = lambda: None
    left_out: list[str] = field(default_factory=list)

    def peer(self, module: str, what: str) -> str | None:
        """Name and version of a peer; None where it is not installed, which is noted."""
        try:
            return f"{module} {import_module(module).__version__} {what}"
        except ImportError:
            self.leave_out(f"{module} {what}: {module} is not installed")
            return None

    def leave_out(self, what: str) -> None:
        """Note once what is not measured."""
        if what not in self.left_out:
            self.left_out.append(what)

    def timed(self, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each contender on the CPU, in turns."""
        # Threads of the one before spin before they sleep; OpenBLAS's for up to 80 ms.
        return timed(
            contenders, self.turns, before=lambda name: time.sleep(_PAUSE_S), advance=self.advance
        )


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Numba, BLAS, OpenMP, torch and faiss run on n threads each; set back afterwards.

    Args:
        n: At most as many as Numba started with.
    """
    import numba

    before = numba.get_num_threads()
    with ExitStack() as stack:
        numba.set_num_threads(n)
        stack.callback(numba.set_num_threads, before)
        if find_spec("threadpoolctl"):
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(n))
        for set_threads, current in _thread_settings():
            stack.callback(set_threads, current)
            set_threads(n)
        yield


def _thread_settings() -> Iterator[tuple[Callable[[int], object], int]]:
    try:
        import torch

        yield torch.set_num_threads, torch.get_num_threads()
    except ImportError:
        pass
    try:
        from tamis.benchmarks.kernels.faiss_peer import faiss_threads, set_faiss_threads

        yield set_faiss_threads, faiss_threads()
    except ImportError:
        pass


def agree(what: str, ours: Any, theirs: Any, *, within: float = 0.0) -> None:
    """Refuse to compare the times of two that do not compute the same.

    Args:
        what: Is compared.
        ours: What tamis found.
        theirs: What the peer found.
        within: Largest difference, relative to the peer's number, absolute where that is below 1.

    Raises:
        WorkFailedError: They differ by more.
    """
    a, b = host(ours).astype(np.float64), host(theirs).astype(np.float64)
    alike = a.shape == b.shape
    n_off = 0
    if alike:
        near = np.abs(a - b) <= within * np.maximum(np.abs(b), 1.0)
        n_off = int((~near & (a != b) & ~(np.isnan(a) & np.isnan(b))).sum())
    if not alike or n_off:
        raise WorkFailedError(
            what,
            expected=f"what the peer computes, within {within:g}",
            found=f"{n_off} of {a.size} that differ" if alike else f"shape {a.shape}",
            do="look at both before comparing their times",
        )


def host(array: Any) -> Any:
    """A NumPy array of anybody's array or number."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    exact = array.float() if str(array.dtype) == "torch.bfloat16" else array  # NumPy has none
    return exact.cpu().numpy()

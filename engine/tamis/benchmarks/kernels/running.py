"""All kernels, or some, one after the other; the entry of the command and of the scripts."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numba

from tamis.benchmarks.kernels.gpu import Gpu
from tamis.benchmarks.kernels.influence import bench_influence
from tamis.benchmarks.kernels.kmeans import bench_kmeans
from tamis.benchmarks.kernels.nearest_prototype import bench_nearest_prototype
from tamis.benchmarks.kernels.protocol import QUICK, Bench, Sizes, threads
from tamis.benchmarks.kernels.row_scores import bench_row_scores
from tamis.benchmarks.kernels.select_top import bench_select_top
from tamis.benchmarks.kernels.statistics import bench_statistics
from tamis.benchmarks.measuring import Row, environment
from tamis.benchmarks.records import append_record, found, text
from tamis.devices import n_cores

__all__ = [
    "CARD",
    "PROCESSOR",
    "STEMS",
    "KernelBench",
    "bench_kernels",
    "current_card",
    "main",
]

STEMS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "row_scores": bench_row_scores,
    "statistics": bench_statistics,
    "select_top": bench_select_top,
    "influence": bench_influence,
    "nearest_prototype": bench_nearest_prototype,
    "kmeans": bench_kmeans,
}
"""Name → benchmark; the order in which they run."""

PROCESSOR = Sizes()
"""What is measured on a CPU."""

CARD = Sizes(
    score_rows=640_000,
    examples=10_000_000,
    rows=1_000_000,
    iterations=5,
    selected_rows=100_000_000,
    train=100_000,
    test=5_000,
    product_side=8192,
)
"""What is measured on a GPU: each input many times its second-level cache, all within 40 GB."""

_ON_CPU_NEEDS = {"nearest_prototype": "threadpoolctl", "kmeans": "threadpoolctl"}
_TURNS = 3
_WIDE = 250  # columns of a log
_Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class KernelBench:
    """What is measured, and where.

    Attributes:
        only: Names of ``STEMS``.
        device: "auto" is the CPU and, where there is a CUDA device, the GPU as well.
        turns: The median of so many counts.
        cpu: How much on the CPU.
        gpu: How much on the GPU.
        card: The GPU; None is the current CUDA device.
    """

    only: Collection[str] = tuple(STEMS)
    device: _Device = "auto"
    turns: int = _TURNS
    cpu: Sizes = PROCESSOR
    gpu: Sizes = CARD
    card: Gpu | None = None

    def __post_init__(self) -> None:
        unknown = set(self.only) - set(STEMS)
        if unknown:
            raise ValueError(f"expected some of {', '.join(STEMS)}; found {', '.join(unknown)}")


def bench_kernels(
    what: KernelBench | None = None, *, advance: Callable[[], object] = lambda: None
) -> tuple[list[Row], list[str]]:
    """Measure the kernels.

    Every pair is first checked to compute the same. All libraries run on as many threads as this
    process has cores.

    Args:
        what: Is measured, and where.
        advance: Called after each timed run.

    Returns:
        The rows, and what was left out because something is not installed.

    Raises:
        WorkFailedError: tamis and a peer do not compute the same.
    """
    what = what or KernelBench()
    card = None if what.device == "cpu" else what.card or current_card()
    bench = Bench(
        cpu=None if what.device == "gpu" else what.cpu,
        gpu=what.gpu if card else None,
        card=card,
        turns=what.turns,
        n_threads=min(n_cores(), numba.get_num_threads()),
        advance=advance,
    )
    if what.device == "gpu" and card is None:
        bench.leave_out("everything on a GPU: torch sees no CUDA device")
    rows: list[Row] = []
    with threads(bench.n_threads):
        for name, run in STEMS.items():
            if name in what.only:
                rows += run(replace(bench, cpu=_on_cpu(bench, name)))
                if card:
                    card.release()
    return rows, bench.left_out


def _on_cpu(bench: Bench, name: str) -> Sizes | None:
    needed = _ON_CPU_NEEDS.get(name)
    if bench.cpu and needed and find_spec(needed) is None:
        bench.leave_out(f"{name} on the CPU: {needed} is not installed")
        return None
    return bench.cpu


def current_card() -> Gpu | None:
    """The current CUDA device; None without one, or without torch or CuPy."""
    if find_spec("torch") is None or find_spec("cupy") is None:
        return None
    import torch

    return Gpu() if torch.cuda.is_available() else None


def _at_least_one(text: str) -> int:
    turns = int(text)
    if turns < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {turns}")
    return turns


def main(only: Collection[str], record: Path | None) -> None:
    """What the scripts of ``bench/`` do: measure, print a table and one JSON object, record.

    Args:
        only: Names of ``STEMS``.
        record: Where the record is appended; a quick run leaves none.
    """
    parser = argparse.ArgumentParser(description=f"Benchmark of {', '.join(only)}.")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--turns", type=_at_least_one, default=_TURNS, help="the median counts")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    given = parser.parse_args()
    if given.device == "gpu" and current_card() is None:
        parser.error("--device gpu: expected a CUDA device, torch and CuPy, found not all of them")
    what = KernelBench(only, given.device, given.turns)
    if given.quick:
        what = replace(what, cpu=QUICK, gpu=QUICK)
    rows, left_out = bench_kernels(what)
    around = environment()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
    for line in (*text(rows, width), *(f"left out: {missing}" for missing in left_out)):
        print(line)
    print(", ".join(f"{name} {value}" for name, value in around.items()))
    if record and not given.quick:
        append_record(record, rows, around)
    print(json.dumps({**found(rows, around), "left_out": left_out}))

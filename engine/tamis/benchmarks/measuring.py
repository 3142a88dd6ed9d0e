"""The protocol: interleaved repetitions, medians, a named peer, the machine that it ran on."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tamis import __version__
from tamis.devices import n_cores
from tamis.versions import source_commit
from tamis_kernels.processor import model_name

__all__ = ["Ceiling", "Row", "drop_from_cache", "environment", "row", "sync", "timed"]

# Name → distributions, of which one is installed at most.
_PACKAGES = {
    "ffcv": ("ffcv",),
    "numpy": ("numpy",),
    "numba": ("numba",),
    "torch": ("torch",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "scikit-learn": ("scikit-learn",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "opencv-python": ("opencv-python",),
    "pillow": ("pillow",),
    "pyarrow": ("pyarrow",),
    "xxhash": ("xxhash",),
}


@dataclass(frozen=True)
class Ceiling:
    """What the hardware does at most, measured in the same run.

    Attributes:
        name: How it was measured.
        rate: How fast that was, in ``unit``.
        unit: GB/s, GFLOP/s, …
    """

    name: str
    rate: float
    unit: str


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What was done.
        value: How fast tamis was, in ``unit``.
        unit: Of both values.
        peer: What it is compared with.
        peer_value: How fast that was, in the same run.
        ratio: ``value / peer_value``.
        goal: The least ratio, or value where there is no peer, that tamis aims at.
        lower_is_better: Values are times or sizes, and the goal is the most, not the least.
        achieved: What tamis moved or computed, in ``achieved_unit``.
        achieved_unit: Of ``achieved`` and ``ceiling``.
        ceiling_name: What the hardware's most was measured with.
        ceiling: That most, in the same run.
        share: ``achieved / ceiling``.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: float | None = None
    lower_is_better: bool = False
    achieved: float | None = None
    achieved_unit: str | None = None
    ceiling_name: str | None = None
    ceiling: float | None = None
    share: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        found = self.value if self.ratio is None else self.ratio
        return found <= self.goal if self.lower_is_better else found >= self.goal

    def of(self, work: float, seconds: float, ceiling: Ceiling) -> Row:
        """The same, with what was achieved beside what the hardware does at most.

        Args:
            work: What was moved or computed, in the ceiling's unit times seconds.
            seconds: What it took.
            ceiling: The most.
        """
        achieved = work / seconds
        return replace(
            self,
            achieved=achieved,
            achieved_unit=ceiling.unit,
            ceiling_name=ceiling.name,
            ceiling=ceiling.rate,
            share=achieved / ceiling.rate,
        )


def row(
    name: str,
    amount: float,
    unit: str,
    seconds: float,
    *,
    peer: str | None = None,
    peer_seconds: float | None = None,
    peer_amount: float | None = None,
    goal: float | None = None,
) -> Row:
    """A row from amounts of work and the seconds that they took."""
    value = amount / seconds
    if peer is None or peer_seconds is None:
        return Row(name, value, unit, goal=goal)
    peer_value = (amount if peer_amount is None else peer_amount) / peer_seconds
    return Row(name, value, unit, peer, peer_value, value / peer_value, goal)


def timed(
    contenders: Mapping[str, Callable[[], object]],
    repetitions: int,
    *,
    before: Callable[[str], object] = lambda name: None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds of each contender, run in turns so that a slow minute hits all alike.

    Args:
        contenders: Name → what to time.
        repetitions: Turns.
        before: Called before each run, outside its time.
        advance: Called after each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, run in contenders.items():
            before(name)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            advance()
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def sync(path: Path) -> None:
    """Wait until a file is on the disk, as every writer of tamis does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_from_cache(path: Path) -> None:
    """Let go of a file's pages in memory, so that it is read from the disk again.

    Pages that some process has mapped stay.
    """
    sync(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def environment() -> dict[str, str | int]:
    """The machine and the versions that a measurement depends on."""
    versions: dict[str, str | int] = {"tamis": __version__, "python": platform.python_version()}
    for package, distributions in _PACKAGES.items():
        versions[package] = next(filter(None, map(_version, distributions)), "missing")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "commit": source_commit() or "none",
        "processor": model_name(),
        "cores": n_cores(),
        "memory_gb": round(memory / 1e9),
        "kernel": platform.release(),
        **versions,
        **_gpu(),
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _gpu() -> dict[str, str | int]:
    """The first CUDA device, where there is one."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    card = torch.cuda.get_device_properties(0)
    return {
        "gpu": card.name,
        "gpu_memory_gb": round(card.total_memory / 1e9),
        "gpu_processors": card.multi_processor_count,
        "compute_capability": f"{card.major}.{card.minor}",
        "cuda": str(torch.version.cuda),
        "driver": _driver(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"

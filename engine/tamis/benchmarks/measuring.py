"""The protocol: interleaved repetitions, medians, a named peer, the machine that it ran on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tamis import __version__
from tamis.devices import n_cores

__all__ = ["Row", "drop_from_cache", "environment", "row", "sync", "timed"]

_PACKAGES = ("ffcv", "numpy", "torch", "opencv-python", "pillow", "pyarrow", "xxhash")


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
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return (self.value if self.ratio is None else self.ratio) >= self.goal


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
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": n_cores(),
        "memory_gb": round(memory / 1e9),
        "kernel": platform.release(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""``tamis bench scale``: time and memory of the work on bundles and scores as they grow."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tamis.benchmarks.material import photographs, repeated
from tamis.benchmarks.measuring import Row
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.errors import WorkFailedError
from tamis.progress import QUIET, Progress
from tamis.sources.bundle_images import open_bundle_images

__all__ = ["IMAGENET", "bench_scale"]

IMAGENET = 1_281_167
_PICTURES = 200
# The kernel hands a parent's ru_maxrss on to what it starts; VmHWM is the process's own.
_PEAK = """
import atexit, sys
from pathlib import Path
note = Path(sys.argv.pop())
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    note.write_text(next(line for line in lines if line.startswith("VmHWM")).split()[1])
atexit.register(peak)
"""
_TAMIS = """
from tamis.cli import main
main()
"""
_SIDE = 64  # about 2 kB each: an ImageNet-sized bundle takes 3 GB
_LOAD = """
import sys
from tamis.benchmarks.loaders.contenders import Task, open_contender
from tamis.devices import n_cores
task = Task(sys.argv[1], "", "", "train", int(sys.argv[2]), 512, n_cores())
for _ in open_contender("ffcv", task)(0):
    pass
"""
_WATCH = """
import sys
from tamis.benchmarks.watching import watch_epochs
watch_epochs(int(sys.argv[1]))
"""
_FEATURES, _PROTOTYPES = 512, 1000
_BLOCK = 8192


@dataclass(frozen=True)
class _Cost:
    seconds: float
    peak_bytes: int


def bench_scale(
    bundle: Path | None,
    folder: Path,
    sizes: tuple[int, ...] = (10_000, 100_000, IMAGENET),
    *,
    progress: Progress = QUIET,
) -> list[Row]:
    """Run commands on bundles of growing size, each in a process of its own.

    Besides what is done with bundles: an epoch of random crops in random order, streamed by the
    ffcv loader; prototypes (class means and 1,000 by k-means) of random embeddings of 512 columns;
    and the statistics of two epochs of 1,000 classes. Times are of whole processes, imports and
    all, which is most of a small size's.

    Needs about 8 GB of disk in ``folder`` for the largest size.

    Args:
        bundle: Whose images, shrunk to 64 pixels, are repeated; None makes pictures.
        folder: A folder on the disk to be measured; nothing stays in it.
        sizes: Numbers of examples, ascending; each is compared with the first.
        progress: Told of every command.

    Returns:
        For each command and size: examples a second with the first size as the peer, and the
        peak of resident memory in MB.
    """
    rows: list[Row] = []
    with TemporaryDirectory(prefix=".tamis-bench-", dir=folder) as name:
        work = Path(name)
        images = open_bundle(bundle) if bundle else photographs(work / "made.beton", _PICTURES)
        small = work / "small.beton"
        convert(
            open_bundle_images(images.path), small, ConvertSettings(max_side=_SIDE, mode="jpeg")
        )
        first: dict[str, float] = {}
        with progress.task("bench scale", 7 * len(sizes)) as advance:
            for size in sizes:
                for command, cost in _commands(small, work, size, advance):
                    rate = size / cost.seconds
                    start = first.setdefault(command, rate)
                    rows.append(
                        Row(
                            f"{command} {size:,}",
                            rate,
                            "examples/s",
                            f"at {sizes[0]:,}",
                            start,
                            rate / start,
                        )
                    )
                    memory = Row(f"{command} {size:,}", cost.peak_bytes / 1e6, "MB at peak")
                    rows.append(memory)
    return rows


def _commands(
    small: Path, work: Path, size: int, advance: Callable[[], object]
) -> Iterator[tuple[str, _Cost]]:
    whole, out = work / "whole.beton", work / "out.beton"
    repeated(open_bundle(small), whole, size)
    for name, arguments in (
        ("inspect", ["inspect", whole]),
        ("verify", ["verify", whole]),
        ("cut half", ["cut", whole, out, "--side", "random", "--keep", "0.5"]),
        ("convert", ["convert", whole, out]),
    ):
        yield name, _cost(name, _TAMIS, [*map(str, arguments), "--json"], work / "peak")
        out.unlink(missing_ok=True)
        advance()
    yield (name := "load an epoch"), _cost(name, _LOAD, [str(whole), str(_SIDE)], work / "peak")
    advance()
    rows, table = work / "rows.npy", work / "out.parquet"
    _write_embeddings(rows, size)
    k = min(_PROTOTYPES, size // 10)
    encoder = ["--encoder", f"npy:{rows}", "--k", str(k)]
    metrics = ["--metrics", "prototypes,selfsup-prototypes"]
    score = ["score", str(whole), str(table), *metrics, *encoder]
    yield (name := "prototypes"), _cost(name, _TAMIS, score, work / "peak")
    for file in (rows, table, whole):
        file.unlink()
    advance()
    yield (name := "statistics of two epochs"), _cost(name, _WATCH, [str(size)], work / "peak")
    advance()


def _write_embeddings(path: Path, n: int) -> None:
    """Random rows around a hundred centres, block by block."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, _FEATURES)).astype(np.float32)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, _FEATURES))
    for start in range(0, n, _BLOCK):
        block = rows[start : start + _BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block += centres[rng.integers(0, 100, len(block))]


def _cost(name: str, code: str, arguments: list[str], note: Path) -> _Cost:
    command = [sys.executable, "-c", _PEAK + code, *arguments, str(note)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise WorkFailedError(
            f"bench scale: {name} with {' '.join(arguments)}",
            expected="exit code 0",
            found=str(done.returncode),
            do="see what it said above",
        )
    return _Cost(seconds, int(note.read_text(encoding="ascii")) * 1024)

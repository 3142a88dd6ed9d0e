"""Memory that nearest_prototype takes beside its arguments, in a fresh process.

Run as ``python -m tamis.benchmarks.kernels.extra_memory N D K THREADS``; prints the bytes by which
the peak of resident memory during the call lies above what was resident before it: results and all
scratch. A call with eight rows comes first, so that compiling and loading do not count.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["extra_memory"]


def extra_memory(n_rows: int, n_dimensions: int, n_prototypes: int, n_threads: int) -> int | None:
    """Bytes; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    numbers = map(str, (n_rows, n_dimensions, n_prototypes, n_threads))
    done = subprocess.run(
        [sys.executable, "-m", __name__, *numbers],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return int(done.stdout.split()[-1])


def _measure(n_rows: int, n_dimensions: int, n_prototypes: int, n_threads: int) -> int:
    import numpy as np

    from tamis.benchmarks.kernels.protocol import threads
    from tamis_kernels import nearest_prototype

    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_rows, n_dimensions), np.float32)
    prototypes = rng.standard_normal((n_prototypes, n_dimensions), np.float32)
    with threads(n_threads):
        nearest_prototype(x[:8], prototypes, "euclidean")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
        before = _kilobytes("VmRSS")
        nearest_prototype(x, prototypes, "euclidean")
    return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    print(_measure(*map(int, sys.argv[1:])))

"""Runs under the sanitizers, in processes of their own, begun early to use a second core."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tamis_kernels.cuda.sources import STEMS

__all__ = ["begin", "give_up", "sanitize", "sanitized_cases"]

_TESTS = Path(__file__).resolve().parents[1]
_Done = subprocess.CompletedProcess[str]


def sanitize(*arguments: str) -> _Done:
    """Run host_cuda.sanitize with AddressSanitizer under Python's feet."""
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    paths = (str(_TESTS), str(_TESTS.parent / "kernels"), os.environ.get("PYTHONPATH", ""))
    return subprocess.run(
        [sys.executable, "-m", "host_cuda.sanitize", *arguments],
        cwd=_TESTS,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "PYTHONPATH": os.pathsep.join(paths),
        },
    )


@cache
def begin() -> dict[str, Future[_Done]]:
    """Begin with every source's cases, one at a time; the first call does it."""
    pool = ThreadPoolExecutor(max_workers=1)
    begun = {stem: pool.submit(sanitize, stem) for stem in STEMS}
    pool.shutdown(wait=False)  # once they are done
    return begun


def sanitized_cases(stem: str) -> _Done:
    """What became of a source's cases; waits for it."""
    return begin()[stem].result()


def give_up() -> None:
    """Leave out what has not begun: nobody waits for it any more."""
    if begin.cache_info().currsize:
        for future in begin().values():
            future.cancel()

"""Compiled loops are those of the sources."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CALLED = "from numba import njit\n\n@njit\ndef called():\n    return {value}\n"
CALLS = """
from pathlib import Path
from numba import njit
from called import called
from tamis_kernels.compiled import forget_stale

forget_stale(Path(__file__).parent)

@njit(cache=True)
def calls():
    return called() + 1

print(calls(), sum(calls.stats.cache_hits.values()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calls.py").write_text(CALLS)
    (tmp_path / "called.py").write_text(CALLED.format(value=1))
    return tmp_path


def answer(folder: Path) -> str:
    """What the loop gives, and whether it was compiled before."""
    environment = {name: v for name, v in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", "import calls"], cwd=folder, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_loop_is_compiled_anew_when_another_file_that_it_calls_has_changed(folder: Path) -> None:
    assert answer(folder) == "2 0"
    assert answer(folder) == "2 1"
    time.sleep(0.01)
    (folder / "called.py").write_text(CALLED.format(value=5))
    assert answer(folder) == "6 0"
    assert answer(folder) == "6 1"

"""Thousands of damaged and forged Parquet files: each is read or refused, none breaks anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

N_MUTANTS = 4000


def test_parquet_from_strangers_is_read_or_refused(tmp_path: Path) -> None:
    # In a process of its own: what Arrow may do to it shall not end the tests.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fuzz.parquet_fuzzer", "0", str(N_MUTANTS), tmp_path],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
        check=False,
    )
    assert done.returncode == 0, f"mutant {(tmp_path / 'last').read_text()}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    assert found["failures"] == []
    assert sum(found["outcomes"].values()) == N_MUTANTS
    assert all(found["outcomes"][outcome] > N_MUTANTS // 10 for outcome in ("read", "refused"))

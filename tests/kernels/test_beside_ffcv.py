"""Compiled loops in a process where FFCV has been at numba's types.

FFCV's memory managers declare that they only read by ``nb.uint8[::1].mutable = False``. That object
is numba's own type of all such arrays, and its hash changes: what numba has compiled for it is not
found again, and the next compilation ends with a KeyError. Opening a loader of FFCV is enough.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Each kernel that numba compiles in several variants: one before, another after.
SCRIPT = """
import numba
import numpy as np
from tamis.loaders.augment_rows import resample_rows
from tamis.loaders.resample import resample_into
from tamis_kernels import new_statistics, score_and_update, select_top

def select(kind):
    scores, ids = np.arange(9, dtype=np.float32), np.arange(9, dtype=kind)
    labels, quotas = np.arange(9, dtype=kind) % 3, np.ones(3, np.int64)
    kept = select_top(scores, ids, 4, labels=labels, quotas=quotas)
    assert np.flatnonzero(kept).tolist() == [5, 6, 7, 8], kept

def update(n):
    state = new_statistics(n, ())
    labels, logits = np.zeros(n, int), np.tile(np.float32([1, 0]), (n, 1))
    score_and_update(logits, labels, state, np.arange(n))
    assert state.last_correct.all() and (state.count == 1).all()

images, box = np.full(3 * 8 * 8, 7, np.int8), np.array([0, 0, 8, 8])

def shown(out):
    assert (out == 7).all(), out

select(np.int64)
update(2)
out = np.zeros((1, 4, 4, 3), np.uint8)
resample_rows(images, 8, np.array([0]), box[None], np.array([True]), True, out)
shown(out)
for shared in (numba.uint8[::1], numba.uint8[:, ::1], numba.uint64[::1], numba.uint32[::1]):
    shared.mutable = False
select(np.int32)
update(40_000)  # by threads
out = np.zeros((4, 4, 3), np.uint8)
resample_into(images, 0, (8, 8), (0.0, 0.0, 8.0, 8.0), True, np.bool_(False), out)
shown(out)
"""


def test_variants_are_compiled_after_ffcv_has_changed_numbas_types(tmp_path: Path) -> None:
    paths = os.pathsep.join(str(ROOT / name) for name in ("engine", "kernels"))
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment["NUMBA_OPT"] = "0"  # it is about types, not about speed
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

"""Thousands of damaged and forged bundles: none is believed, none crashes, hangs or eats memory.

``TAMIS_FUZZ_MUTANTS`` (default 20000) sets how many. A failure prints the mutant's seed; from the
folder ``tests``, ``python -m fuzz.bundle_fuzzer SEED`` replays it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fuzz.bundle_fuzzer import check
from fuzz.bundle_mutants import make_mutant
from fuzz.bundle_seeds import Seed, make_seeds
from tamis.bundles import beton, verify
from tamis.bundles.bundle import Bundle
from tamis.errors import BundleError

N_MUTANTS = int(os.environ.get("TAMIS_FUZZ_MUTANTS", "20000"))
N_PROCESSES = 2
TESTS = Path(__file__).resolve().parents[1]


def start(first: int, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    arguments = [str(n) for n in (first, N_MUTANTS, N_PROCESSES, folder)]
    with (folder / "stderr").open("w") as stderr:  # libjpeg complains there at length
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "fuzz.bundle_fuzzer", *arguments],
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # Arrow's own allocator reserves address space by the gigabyte, which would count.
            env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
        )


def test_no_mutant_is_believed_or_breaks_anything(tmp_path: Path) -> None:
    folders = [tmp_path / str(first) for first in range(N_PROCESSES)]
    workers = [start(first, folder) for first, folder in enumerate(folders)]
    outcomes: Counter[str] = Counter()
    problems = []
    for folder, worker in zip(folders, workers, strict=True):
        report, _ = worker.communicate()
        if worker.returncode:
            last = (folder / "last").read_text(encoding="ascii").strip()
            stderr = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
            problems.append(f"seed {last}: exit code {worker.returncode}\n{stderr[-3000:]}")
            continue
        found = json.loads(report)
        outcomes.update(found["outcomes"])
        problems += [f"seed {f['seed']} ({f['how']})\n{f['error']}" for f in found["failures"]]
    assert not problems, "\n\n".join(problems)
    assert sum(outcomes.values()) == N_MUTANTS
    # Neither is the damage so gross that opening sees all of it, nor so mild that it is none.
    assert min(outcomes[kind] for kind in ("refused", "damaged", "opened")) > N_MUTANTS // 50, (
        outcomes
    )


# ---- the fuzzer notices when a check is missing


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seed, ...]:
    return make_seeds(tmp_path_factory.mktemp("seeds"))


def test_seeds_are_sound_and_mutants_repeat(seeds: tuple[Seed, ...], tmp_path: Path) -> None:
    assert [verify.verify(seed.bundle, deep=True).ok for seed in seeds] == [True] * 4
    again = make_seeds(tmp_path)
    assert [seed.data for seed in again] == [seed.data for seed in seeds]
    for index in range(50):
        assert make_mutant(seeds, index).data == make_mutant(again, index).data


def nothing(*arguments: object) -> None:
    pass


@pytest.mark.parametrize(
    ("where", "name", "instead"),
    [
        (beton, "check_extents", nothing),
        (
            Bundle,
            "digest",
            property(lambda bundle: bundle.trailer.digest if bundle.trailer else "xxh3:"),
        ),
        (verify, "span_checksums", lambda span: np.zeros(len(span.positions), np.uint64)),
        (verify, "plain_jpegs", lambda data, starts, *rest: np.ones(len(starts), np.bool_)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_check_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    seeds: tuple[Seed, ...],
    tmp_path: Path,
    where: object,
    name: str,
    instead: Callable[..., object],
) -> None:
    monkeypatch.setattr(where, name, instead)
    for index in range(4000):
        try:
            check(make_mutant(seeds, index), tmp_path / "mutant.beton")
        except (AssertionError, BundleError):
            return
    pytest.fail(f"4000 mutants passed without {name}")

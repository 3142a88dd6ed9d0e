"""The benchmarks run, on little, and count what they say that they count."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from tamis.benchmarks.bundles import BundleBench, bench_bundles
from tamis.benchmarks.ffcv_writer import write_with_ffcv
from tamis.benchmarks.material import image_files, photographs, repeated
from tamis.benchmarks.measuring import Row, environment, row, timed
from tamis.benchmarks.scale import bench_scale
from tamis.bundles.opening import open_bundle
from tamis.bundles.verify import verify
from tamis.errors import BundleError, WorkFailedError
from tamis.images import decode_jpeg


def test_medians_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = 0.0, []
    taken = {"a": iter([1.0, 9.0, 2.0]), "b": iter([4.0, 5.0, 60.0])}

    def run(name: str) -> None:
        nonlocal now
        now += next(taken[name])
        order.append(name)

    def before(name: str) -> None:
        nonlocal now
        now += 1000  # not counted

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found = timed({"a": lambda: run("a"), "b": lambda: run("b")}, 3, before=before)
    assert found == {"a": statistics.median([1, 9, 2]), "b": statistics.median([4, 5, 60])}
    assert order == ["a", "b"] * 3


def test_rows() -> None:
    found = row("x", 100, "MB/s", 2.0, peer="cp", peer_seconds=1.0, goal=0.6)
    assert found == Row("x", 50.0, "MB/s", "cp", 100.0, 0.5, 0.6)
    assert found.met is False
    assert row("x", 3, "GB/s", 2.0, goal=1.0).met is True
    assert row("x", 3, "GB/s", 2.0).met is None
    # A peer that did another amount of the same work.
    assert row("x", 100, "i/s", 2.0, peer="p", peer_seconds=1.0, peer_amount=10).ratio == 5.0


def test_the_environment_names_the_machine() -> None:
    found = environment()
    assert found["ffcv"] == "1.0.2"
    assert {"processor", "cores", "kernel", "tamis"} <= found.keys()


def test_repeated_records(sample_bundle: Path, tmp_path: Path) -> None:
    images = open_bundle(sample_bundle)
    large = repeated(images, tmp_path / "x.beton", 500)
    assert large.example_ids.tolist() == list(range(500))
    known = set(images.checksums.tolist())
    assert set(large.checksums.tolist()) == known  # 500 draws of 9: each came
    assert verify(large).ok


def test_made_up_pictures_are_like_photographs(tmp_path: Path) -> None:
    made = photographs(tmp_path / "x.beton", 6)
    sizes = made.extents[:, 0, 1]
    assert 40_000 < sizes.mean() < 110_000
    _, width, height, record = made.image_record(0)
    assert (width, height) == (500, 375)
    assert decode_jpeg(record).std() > 20


def test_files_of_a_bundle(sample_bundle: Path, digits_bundle: Path, tmp_path: Path) -> None:
    files = image_files(open_bundle(sample_bundle), tmp_path, 20)
    assert len(set(files)) == 20
    assert all(file.read_bytes()[:2] == b"\xff\xd8" for file in files)
    with pytest.raises(BundleError, match="found pixels only"):
        image_files(open_bundle(digits_bundle), tmp_path, 1)


def test_all_of_it_on_little(sample_bundle: Path, tmp_path: Path) -> None:
    size = BundleBench(large_bytes=200_000, small_bytes=50_000, n_files=12, repetitions=1)
    rows = bench_bundles(sample_bundle, tmp_path, size)
    assert len(rows) == 9
    assert all(np.isfinite(found.value) and found.value > 0 for found in rows)
    assert [found.peer for found in rows if found.name.startswith("cut")] == ["cp + fsync"] * 4
    peers = [found.peer for found in rows if found.name.startswith("convert")]
    assert sum(str(peer).startswith("FFCV") for peer in peers) == 2
    assert list(tmp_path.iterdir()) == []


def test_ffcvs_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.benchmarks.ffcv_writer._TIMEOUT_S", 0.01)
    with pytest.raises(WorkFailedError, match="TimeoutExpired"):
        write_with_ffcv([], tmp_path / "x.beton", 1, None)


def test_growth(sample_bundle: Path, tmp_path: Path) -> None:
    rows = bench_scale(sample_bundle, tmp_path, (20, 40))
    assert len(rows) == 2 * 4 * 2
    rates = [found for found in rows if found.unit == "examples/s"]
    assert [found.ratio for found in rates[:4]] == [1.0] * 4
    assert all(found.value > 20 for found in rows if found.unit == "MB at peak")
    assert list(tmp_path.iterdir()) == []

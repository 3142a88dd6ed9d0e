"""The benchmarks run, on little, and count what they say that they count."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from host_cuda.runtime import HostRuntime
from tamis.benchmarks.bundles import BundleBench, bench_bundles
from tamis.benchmarks.ffcv_writer import write_with_ffcv
from tamis.benchmarks.kernels.gpu import Gpu
from tamis.benchmarks.kernels.protocol import QUICK, Bench, agree, threads
from tamis.benchmarks.kernels.running import STEMS, KernelBench, bench_kernels
from tamis.benchmarks.material import image_files, photographs, repeated
from tamis.benchmarks.measuring import Ceiling, Row, environment, row, timed
from tamis.benchmarks.records import HEADERS, append_record, cells, text
from tamis.benchmarks.scale import _Cost, bench_scale
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


def test_rows_of_times_and_with_ceilings() -> None:
    slow = Row("x", 70.0, "MB", goal=64.0, lower_is_better=True)
    assert slow.met is False
    assert Row("x", 3.0, "ms", "p", 2.0, 1.5, 1.6, lower_is_better=True).met is True
    found = row("x", 100, "rows/s", 2.0).of(30.0, 2.0, Ceiling("parallel read", 20.0, "GB/s"))
    assert (found.value, found.achieved, found.ceiling, found.share) == (50.0, 15.0, 20.0, 0.75)
    assert cells(found)[-2:] == ("15 GB/s", "75% of 20, parallel read")
    assert cells(slow)[6] == "≤ 64 missed"
    header, line = text([found], 200)
    assert header.split()[0] == HEADERS[0]
    assert line.index("15 GB/s") == header.index("achieved")


def test_where_a_table_does_not_fit_there_are_paragraphs() -> None:
    against = row("x", 100, "rows/s", 2.0, peer="y", peer_seconds=4.0, goal=3.0)
    rows = [against.of(30.0, 2.0, Ceiling("parallel read", 20.0, "GB/s")), slow_row()]
    assert list(text(rows, 40)) == [
        "x",
        "    50 rows/s",
        "    2.00 times y, 25 rows/s; goal 3 missed",
        "    15 GB/s, 75% of 20, parallel read",
        "memory",
        "    70 MB; goal ≤ 64 missed",
    ]


def slow_row() -> Row:
    return Row("memory", 70.0, "MB", goal=64.0, lower_is_better=True)


def test_records_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bench_x.py", "--turns"])
    path = tmp_path / "x.jsonl"
    for seconds in (1.0, 2.0):
        append_record(path, [row("x", 2, "rows/s", seconds)], {"cores": 2})
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (first["rows"][0]["value"], second["rows"][0]["value"]) == (2.0, 1.0)
    assert first["command"] == ["bench_x.py", "--turns"]
    assert first["environment"] == {"cores": 2}


def test_the_environment_names_the_machine() -> None:
    found = environment()
    assert found["ffcv"] == "1.0.2"
    assert found["faiss"] != "missing"
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
    rows = bench_scale(sample_bundle, tmp_path, (20,))
    assert len(rows) == 7 * 2
    assert all(found.value > 0 for found in rows if found.unit == "examples/s")
    assert all(found.value > 20 for found in rows if found.unit == "MB at peak")
    assert list(tmp_path.iterdir()) == []


def test_growth_is_told_against_the_first_size(
    sample_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = iter([_Cost(2.0, 10**6)] * 7 + [_Cost(1.0, 3 * 10**6)] * 7)

    def cost(name: str, code: str, arguments: list[str], note: Path) -> _Cost:
        if name == "prototypes":
            Path(arguments[2]).touch()
        return next(costs)

    monkeypatch.setattr("tamis.benchmarks.scale._cost", cost)
    rows = bench_scale(sample_bundle, tmp_path, (20, 40))
    rates = [found for found in rows if found.unit == "examples/s"]
    assert [found.name for found in rates[:7]] == [
        found.name.replace("40", "20") for found in rates[7:]
    ]
    assert [(found.value, found.ratio) for found in rates] == [(10, 1)] * 7 + [(40, 4)] * 7
    assert [found.value for found in rows if found.unit == "MB at peak"] == [1] * 7 + [3] * 7


class HostCard(Gpu):
    """Runs what the GPU's benchmarks do on torch tensors of the CPU, and kernels under the shim."""

    device = "cpu"

    def elapsed(self, run: Callable[[], object], n_calls: int) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        return run

    def compiled(
        self, bench: Bench, run: Callable[..., Any], *arguments: Any
    ) -> Callable[..., Any] | None:
        return run

    def runtime(self, x: Any) -> Any:
        return TensorRuntime()

    def release(self) -> None:
        pass


class TensorRuntime(HostRuntime):
    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return torch.from_numpy(super().empty(shape, dtype))

    def launch(self, stem: str, kernel: str, grid: Any, block: int, arguments: Any) -> None:
        arrays = [a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments]
        super().launch(stem, kernel, grid, block, arrays)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_kernels_and_peers_agree_on_little(stem: str, device: Literal["cpu", "gpu"]) -> None:
    n_rows = {
        "cpu": {"row_scores": 6, "statistics": 3, "select_top": 2, "influence": 2}
        | {"nearest_prototype": 11, "kmeans": 5},
        "gpu": {"row_scores": 6, "statistics": 3, "select_top": 1, "influence": 1}
        | {"nearest_prototype": 15, "kmeans": 5},
    }
    what = KernelBench((stem,), device, turns=1, cpu=QUICK, gpu=QUICK, card=HostCard())
    rows, left_out = bench_kernels(what)
    assert left_out == []
    assert len(rows) == n_rows[device][stem]
    assert [r.name.startswith("GPU") for r in rows] == [device == "gpu"] * len(rows)
    for found in rows:
        numbers = [found.value, found.peer_value, found.ratio, found.achieved, found.ceiling]
        assert all(number is None or 0 <= number < np.inf for number in numbers)
        if found.ratio is not None and found.peer_value is not None:
            assert found.ratio == pytest.approx(found.value / found.peer_value)
        if found.achieved is not None and found.ceiling is not None:
            assert found.share == pytest.approx(found.achieved / found.ceiling)


def test_kernels_leave_out_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("faiss", "sklearn"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "tamis.benchmarks.kernels.faiss_peer", raising=False)
    rows, left_out = bench_kernels(KernelBench(("kmeans",), "cpu", 1, cpu=QUICK))
    assert rows == []
    assert [line.partition(":")[2] for line in left_out] == [
        " faiss is not installed",
        " sklearn is not installed",
    ]
    with pytest.raises(ValueError, match=r"expected some of .*kmeans; found k-means"):
        KernelBench(("k-means",))


def test_no_times_of_two_that_disagree() -> None:
    agree("x", np.array([1.0, np.nan, 1e6]), torch.tensor([1.0, np.nan, 1e6 + 1]), within=1e-5)
    with pytest.raises(WorkFailedError, match="found 1 of 2 that differ"):
        agree("x", np.array([1.0, 2.0]), torch.tensor([1.0, 2.1]), within=1e-2)
    with pytest.raises(WorkFailedError, match="found 1 of 2 that differ"):
        agree("x", np.array([np.nan, 2.0]), np.array([1.0, 2.0]), within=1.0)
    with pytest.raises(WorkFailedError, match=r"found shape \(3,\)"):
        agree("x", np.zeros(3), np.zeros(2))


def test_threads_are_set_and_set_back() -> None:
    import faiss
    import numba

    def all_of_them() -> list[int]:
        return [numba.get_num_threads(), torch.get_num_threads(), faiss.omp_get_max_threads()]

    before = all_of_them()
    with threads(1):
        assert all_of_them() == [1, 1, 1]
    assert all_of_them() == before


def test_scripts_need_no_command_line() -> None:
    """On a machine with a GPU there may be NumPy, Numba, torch and CuPy alone."""
    script = Path(__file__).parents[2] / "bench" / "bench_select_top.py"
    code = (
        "import runpy, sys\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        f"sys.argv = [{str(script)!r}, '--quick', '--turns', '1']\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert len(last["rows"]) == 2
    assert last["left_out"] == []


ABSENT = ("typer", "rich", "pyarrow", "cv2", "PIL", "ffcv", "faiss", "sklearn", "scipy")

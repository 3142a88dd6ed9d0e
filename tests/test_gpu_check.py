"""tools/gpu-check and what it stands on; a false interpreter stands in for one with a GPU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

import gpu_runtime
from host_cuda.runtime import HostRuntime

REPOSITORY = Path(__file__).resolve().parents[1]
TOOL = REPOSITORY / "tools" / "gpu-check"
ON_CUDA = sorted((REPOSITORY / "tests" / "kernels").glob("test_*_cuda.py"))
# What the machine with the GPU need not have.
NOT_NEEDED = (
    "tamis",
    "hypothesis",
    "typer",
    "pyarrow",
    "ffcv",
    "pydantic",
    "scipy",
    "sklearn",
    "cv2",
)


def without_gpu(**more: str) -> dict[str, str]:
    path = os.pathsep.join(str(REPOSITORY / name) for name in ("engine", "kernels", "tests"))
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path, **more}


def gpu_pytest(*arguments: str | Path, folder: Path, **more: str) -> tuple[int, str]:
    """Pytest as the tool calls it, with ``folder`` on the path; exit status and output."""
    environment = without_gpu(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **more)
    environment["PYTHONPATH"] += os.pathsep + str(folder)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        REPOSITORY / "pyproject.toml",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "gpu_option", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


# ---- the option


OF_A_GPU = """
import pytest

@pytest.mark.gpu
def test_runs(): pass

@pytest.mark.gpu
def test_skips(): pytest.skip("for another reason")

@pytest.mark.gpu
def test_may_skip(): pytest.skip("CuPy arrays of bfloat16 need ml_dtypes")

@pytest.mark.gpu
@pytest.mark.skip(reason="by a mark")
def test_marked(): pass

@pytest.mark.gpu
@pytest.mark.xfail(reason="known", strict=True)
def test_fails_as_expected(): assert False

def test_of_a_cpu(): pytest.skip("as it likes")
"""


def outcomes(output: str) -> set[str]:
    """The last line's counts: "2 failed", "1 passed", …"""
    return set(output.strip().splitlines()[-1].partition(" in ")[0].split(", "))


@pytest.mark.parametrize(
    ("gpu", "arguments", "expected"),
    [
        (True, ("--require-gpu",), {"1 failed", "1 error", "1 passed", "2 skipped", "1 xfailed"}),
        (True, (), {"1 passed", "4 skipped", "1 xfailed"}),
        (False, ("--require-gpu",), {"5 errors", "1 skipped"}),
        (False, (), {"6 skipped"}),
    ],
)
def test_skips_become_failures(
    gpu: bool, arguments: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    (tmp_path / "test_of_a_gpu.py").write_text(OF_A_GPU)
    missing = "" if gpu else "expected a GPU, found none"
    (tmp_path / "this_machine.py").write_text(
        f"import gpu_option\ngpu_option.missing = lambda: {missing!r}\n"
    )
    status, output = gpu_pytest("-p", "this_machine", *arguments, tmp_path, folder=tmp_path)
    assert outcomes(output) == expected, output
    assert status == ("--require-gpu" in arguments)
    if arguments:
        assert f"{int(gpu)} × CuPy arrays of bfloat16 need ml_dtypes" in output
        reasons = ("skipped itself: for another reason", "skipped itself: by a mark")
        for reason in reasons if gpu else ("--require-gpu: expected a GPU, found none",):
            assert reason in output


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is not here")

sys.meta_path.insert(0, Blocker())
"""


def test_tests_of_a_gpu_need_little_and_fail_without_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "blocker.py").write_text(BLOCKER.format(blocked=NOT_NEEDED))
    given: tuple[str | Path, ...] = (
        "-p",
        "blocker",
        "--noconftest",
        "--require-gpu",
        "-m",
        "gpu",
        *ON_CUDA,
    )
    status, output = gpu_pytest("--collect-only", *given, folder=tmp_path)
    assert status == 0, output
    for path in ON_CUDA:
        assert f"{path.name}::" in output
    status, output = gpu_pytest("--maxfail=3", *given, folder=tmp_path)
    assert status == 1
    assert {"3 errors"} == {one for one in outcomes(output) if "deselected" not in one}, output
    assert "--require-gpu: expected a CUDA device, found none with torch" in output


# ---- the tool


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        [TOOL], env=without_gpu(PYTHON=sys.executable), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for part in (
        "expected a CUDA device",
        "found none",
        "run it on a machine with",
        sys.executable,
    ):
        assert part in line


def test_it_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([TOOL, "--fast"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "tools/gpu-check: expected --quick or nothing, found: --fast\n",
    )


# An interpreter that has all, notes what it is asked to do, and fails where it is told to.
FALSE_PYTHON = """#!/bin/bash
case "$*" in
    *gpu_option.missing*) echo all; exit ;;
    *"import ffcv"*) exit {whole} ;;
    *"import xdist"*) exit {alone} ;;
    -) exit ;;
esac
echo "$*" >>{calls}
[[ "$*" == {slow} ]] && echo "as far as it came" && sleep 77.25
[[ "$*" == {failing} ]] && exit 3
exit 0
"""
# As timeout is for a moment after it has started its command: a signal ends it alone.
CARELESS_TIMEOUT = f"""#!{sys.executable}
import os, sys
os.setpgid(0, 0)
child = os.spawnvp(os.P_NOWAIT, sys.argv[4], sys.argv[4:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
FALSE_SANITIZER = """#!/bin/bash
echo "$*" >>{calls}
"""


def false_machine(
    folder: Path, *, failing: str = "nothing", slow: str = "nothing", whole: bool = False,
    xdist: bool = False, sanitizer: bool = True, careless: bool = False,
) -> dict[str, str]:  # fmt: skip
    """An environment with a false interpreter and a false sanitizer, which note their calls."""
    (folder / "calls").touch()
    texts = {"python": FALSE_PYTHON} | ({"compute-sanitizer": FALSE_SANITIZER} if sanitizer else {})
    texts |= {"timeout": CARELESS_TIMEOUT} if careless else {}
    for name, text in texts.items():
        script = folder / name
        facts = {"calls": folder / "calls", "failing": failing, "slow": slow}
        script.write_text(text.format(**facts, whole=int(not whole), alone=int(not xdist)))
        script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return without_gpu(PYTHON=str(folder / "python"), PATH=path, TMPDIR=str(folder))


def check_by_false_python(folder: Path, *arguments: str, **facts: Any) -> Any:
    done = subprocess.run(
        [TOOL, *arguments],
        env=false_machine(folder, **facts),
        capture_output=True,
        text=True,
        check=False,
    )
    summary = done.stdout[done.stdout.index("== summary") :].splitlines()[1:]
    return done.returncode, (folder / "calls").read_text().splitlines(), summary


def test_every_step_runs_and_passes(tmp_path: Path) -> None:
    status, calls, summary = check_by_false_python(tmp_path, failing="nothing")
    assert status == 0, summary
    benches = [path.name for path in sorted((REPOSITORY / "bench").glob("bench_*.py"))]
    benches.remove("bench_bundles.py")  # which needs all of tamis
    tests, *sanitizers = sorted(calls[:4], key=lambda call: "-m pytest" not in call)  # side by side
    assert tests.startswith("-m pytest -q --require-gpu --noconftest -p gpu_option -m gpu tests")
    assert {call.split()[1] for call in sanitizers} == {"memcheck", "racecheck", "synccheck"}
    assert all(f"{tmp_path}/python -m gpu_runtime" in call for call in sanitizers)
    assert calls[4 : 4 + len(benches)] == [f"bench/{name} --device gpu" for name in benches]
    assert len(summary) == 6 + len(benches)
    assert all(" passed " in line or "the sources on the CPU" in line for line in summary)


@pytest.mark.parametrize(
    ("failing", "line"),
    [("*require-gpu*", "tests marked gpu"), ("bench*", "bench/bench_kmeans.py")],
)
def test_a_failure_is_told_and_the_rest_still_runs(failing: str, line: str, tmp_path: Path) -> None:
    status, calls, summary = check_by_false_python(tmp_path, failing=failing, whole=True)
    assert status == 1
    assert "-m pytest -q --require-gpu -m gpu tests" in calls[:4]
    (told,) = [one for one in summary if one.startswith(line)]
    assert " failed " in told
    assert "exit status 3" in told
    assert any(one.startswith("synccheck ") and " passed " in one for one in summary)
    assert any(one.startswith("bench/") for one in summary)


def test_tests_share_the_cores_where_they_can_and_sanitizers_may_be_missing(tmp_path: Path) -> None:
    status, calls, summary = check_by_false_python(tmp_path, "--quick", xdist=True, sanitizer=False)
    assert status == 0
    assert calls[0].startswith("-m pytest -q --require-gpu -p xdist --numprocesses 4 --noconftest")
    if not (
        shutil.which("compute-sanitizer")
        or list(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))
    ):
        missing = {line.split()[0] for line in summary if "compute-sanitizer is not" in line}
        assert missing == {"memcheck", "racecheck", "synccheck"}


@pytest.mark.parametrize("careless", [False, True])
def test_who_ends_it_sees_how_far_it_was_and_leaves_nobody_running(
    careless: bool, tmp_path: Path
) -> None:
    started = subprocess.Popen(
        [TOOL, "--quick"],
        env=false_machine(tmp_path, slow="*require-gpu*", careless=careless),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert any("begun: synccheck" in line for line in started.stdout)
    until = time.monotonic() + 20
    while "require-gpu" not in (tmp_path / "calls").read_text() and time.monotonic() < until:
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    assert "as far as it came" in started.communicate(timeout=20)[0]
    assert started.returncode == 130
    assert not list(tmp_path.glob("tmp.*"))
    running = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert not [command for command in running if "77.25" in command]


def test_quick_leaves_the_benchmarks_out(tmp_path: Path) -> None:
    status, calls, summary = check_by_false_python(tmp_path, "--quick", failing="nothing")
    assert status == 0
    assert not [call for call in calls if call.startswith("bench/")]
    assert any(line.startswith("benchmarks ") and "left out" in line for line in summary)


# ---- lending arrays to a GPU


class OnFalseGpu(np.ndarray[Any, Any]):
    """As much of a CuPy array as is needed, in the CPU's memory."""

    def get(self) -> NDArray[Any]:
        return np.array(self)

    def set(self, values: NDArray[Any]) -> None:
        self[...] = values


class Memory:
    """Aligned as the driver's is, and full of something."""

    def __init__(self, size: int) -> None:
        self.held = np.full(size + 256, 0x55, np.uint8)
        self.start = -self.held.ctypes.data % 256
        self.size = size


class MemoryPointer:
    def __init__(self, memory: Memory, offset: int) -> None:
        self.memory, self.offset = memory, offset

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.memory, self.offset + offset)


def ndarray(shape: Any, dtype: Any, at: MemoryPointer, strides: Any = None) -> OnFalseGpu:
    memory = at.memory
    buffer = memory.held[memory.start : memory.start + memory.size]  # NumPy keeps arrays inside
    return OnFalseGpu(shape, dtype, buffer, at.offset, strides)


@pytest.fixture
def false_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's memory is the CPU's, and launches go through the shim."""
    cupy = ModuleType("cupy")
    vars(cupy).update(
        cuda=SimpleNamespace(Memory=Memory, MemoryPointer=MemoryPointer),
        ndarray=ndarray,
        empty=np.empty,
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(gpu_runtime, "CupyRuntime", lambda place: HostRuntime())


@pytest.mark.usefixtures("false_gpu")
def test_cases_run_on_lent_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    # In-place state, ids in two widths, no rows; products, views of scratch.
    gpu_runtime.run(("update_statistics", "nearest_prototype"))
    assert capsys.readouterr().out.count("its small cases are right") == 2


@pytest.mark.usefixtures("false_gpu")
def test_views_of_one_array_are_lent_as_one() -> None:
    table = np.arange(60, dtype=np.int32).reshape(6, 10)
    fixed = np.ones(3, np.float32)
    fixed.flags.writeable = False
    loans = gpu_runtime.Loans()
    left, right, all_of_it = loans.of(table[:, 1:4]), loans.of(table[::-2, 9:3:-1]), loans.of(table)
    assert np.array_equal(left, table[:, 1:4])
    assert np.array_equal(right, table[::-2, 9:3:-1])
    assert left.strides == table[:, 1:4].strides
    for lent, array in ((left, table[:, 1:4]), (all_of_it, table)):
        assert lent.ctypes.data % 256 == array.ctypes.data % 256
    lent = loans.of(fixed)
    all_of_it[0] = -1
    assert np.array_equal(left[0], [-1, -1, -1])
    lent[:] = 7
    assert table[0, 0] == 0
    loans.give_back()
    assert table[0].tolist() == [-1] * 10
    assert table[1, 0] == 10
    assert fixed.tolist() == [1, 1, 1]
    assert loans.of(np.empty((0, 3), np.int64)).shape == (0, 3)

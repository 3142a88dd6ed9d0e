"""Fixtures of all tests, and what is skipped on which machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from sample_images import write_samples
from tamis.bundles.convert import convert
from tamis.sources.opening import open_source

# numba's TBB layer hangs at exit where the process is pinned to one core. Read at numba's import.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
REPOSITORY = Path(__file__).resolve().parents[1]

# No deadline: the first example of a kernel waits for its compilation. Derandomised: a run that
# fails, fails again.
settings.register_profile("tamis", deadline=None, derandomize=True)
settings.load_profile("tamis")

pytest_plugins = ["gpu_option"]

REAL_DATA = Path(os.environ.get("TAMIS_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.hookimpl(trylast=True)  # after pytest has put its own hook in place
def pytest_configure() -> None:
    """Overlook one error that nobody raises: numba's, when it collects compiled loops.

    Stock FFCV, which some tests run, changes numba's own types (see kernels/test_beside_ffcv.py); a
    finaliser of numba 0.68 then does not find its overloads, and the collector may run it in any
    test. Other unraisable errors fail the test as ever.
    """
    report = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        trace = unraisable.exc_traceback
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        file = trace.tb_frame.f_code.co_filename if trace is not None else ""
        in_numba = Path(file).parts[-3:] == ("numba", "core", "dispatcher.py")
        if not (isinstance(unraisable.exc_value, KeyError) and in_numba):
            report(unraisable)

    sys.unraisablehook = hook


# Begun first. The whole line compiles loops that most of the others need; meanwhile the other
# process is at what needs none of them, and does not compile them a second time. Then those that
# take longest: at the end both processes are to have something to do.
FIRST = (
    "test_demo.py", "test_cuda_sources.py", "test_cluster.py", "test_benchmarks.py",
    "test_campaign.py", "test_workers.py", "test_ffcv_reads_it.py", "test_loader_benchmarks.py",
    "test_planted.py", "test_wheels.py", "test_resuming.py", "test_cli.py", "test_real_data.py",
    "test_beside_ffcv.py", "test_kmeans.py", "test_fuzz_bundles.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    begun = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: begun.get(item.path.name, len(FIRST)))
    if REAL_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason=f"no real data: {REAL_DATA} is not there (set TAMIS_DATA)")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="module")
def one_thread_each(request: pytest.FixtureRequest) -> None:
    """Of processes that share the cores each computes on one: threads would wait for each other's.

    But not where threads are what is tested, in the kernels' own tests.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tamis.devices import n_cores, use_threads

        use_threads(n_cores() if request.path.parent.name == "kernels" else 1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with ``cifar10`` and ``imagenet-sample``; for tests marked real_data."""
    return REAL_DATA


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class folder of :mod:`sample_images`; not to be written to."""
    root = tmp_path_factory.mktemp("samples")
    write_samples(root)
    return root


@pytest.fixture(scope="session")
def sample_bundle(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sample_folder``, converted with default settings; not to be written to."""
    path = tmp_path_factory.mktemp("sample-bundle") / "samples.beton"
    convert(open_source(str(sample_folder)), path)
    return path


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``digits:train``, converted: 1,347 raw 8 × 8 images; not to be written to."""
    path = tmp_path_factory.mktemp("digits-bundle") / "digits.beton"
    convert(open_source("digits:train"), path)
    return path


@pytest.fixture(scope="session")
def report_folder(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with known accuracies and its report (see :mod:`report_sweep`); not to be changed."""
    # These load torch, which most tests do without.
    from report_sweep import write_bench_record, write_report_sweep
    from tamis.report.page import write_report

    folder = tmp_path_factory.mktemp("report")
    write_report_sweep(digits_bundle, folder)
    write_bench_record(folder / "bench.jsonl")
    write_report(folder, bench=folder / "bench.jsonl")
    return folder


@pytest.fixture(scope="session")
def ffcv_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles that plain FFCV wrote (see :mod:`ffcv_bundles`); not to be written to."""
    folder = tmp_path_factory.mktemp("ffcv")
    script = Path(__file__).with_name("ffcv_bundles.py")
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder

"""The option ``--require-gpu``, and what becomes of tests marked gpu.

A plugin of its own, because tools/gpu-check loads it (``-p gpu_option``) where conftest.py cannot
be loaded: on a machine that has pytest, torch and CuPy, but not what tamis needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from functools import cache

import pytest

__all__ = ["ALLOWED_SKIPS", "missing"]

# Reasons for which a test marked gpu may skip itself even under --require-gpu.
ALLOWED_SKIPS = ("CuPy arrays of bfloat16 need ml_dtypes",)


@cache
def missing() -> str:
    """What tests marked gpu lack on this machine; empty where nothing."""
    with warnings.catch_warnings():  # of first imports, and of drivers that are too old
        warnings.simplefilter("ignore")
        try:
            import torch

            if not torch.cuda.is_available():
                return f"expected a CUDA device, found none with torch {torch.__version__}"
            import cupy
        except ImportError as error:
            return f"expected torch and CuPy, found: {error}"
        if int(cupy.__version__.partition(".")[0]) < 14:
            return f"expected CuPy 14 or newer, found {cupy.__version__}"
    return ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="fail the tests marked gpu where they would be skipped",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or not missing():
        return
    if item.config.getoption("--require-gpu"):
        pytest.fail(f"--require-gpu: {missing()}", pytrace=False)
    pytest.skip(f"{missing()} (--require-gpu makes this a failure)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.config.getoption("--require-gpu")
        and item.get_closest_marker("gpu") is not None
        and _reason(report) not in ALLOWED_SKIPS
    ):
        report.outcome = "failed"
        report.longrepr = f"--require-gpu: skipped itself: {_reason(report)}"
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.getoption("--require-gpu"):
        return
    reasons = [_reason(report) for report in terminalreporter.stats.get("skipped", [])]
    terminalreporter.section("skips that --require-gpu allows")
    for reason in ALLOWED_SKIPS:
        terminalreporter.write_line(f"{reasons.count(reason)} × {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Of a skip: its report holds (file, line, "Skipped: reason")."""
    found = report.longrepr
    return found[2].removeprefix("Skipped: ") if isinstance(found, tuple) else str(found)

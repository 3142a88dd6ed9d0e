"""Begins early with what tests of the CUDA sources would wait for."""

from __future__ import annotations

import pytest

from host_cuda import ahead

WAITING = "test_reads_and_writes_within_its_arrays"
IS_WAITED_FOR = pytest.StashKey[bool]()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.stash[IS_WAITED_FOR] = any(WAITING in item.name for item in session.items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """At the first test of a CUDA source, not before: others have the machine to themselves."""
    if item.session.stash[IS_WAITED_FOR] and item.path.stem.endswith(("_cuda", "cuda_sources")):
        ahead.begin()


def pytest_sessionfinish() -> None:
    ahead.give_up()

"""Sweeps on a real Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import BundleError, UsageError
from tamis.progress import Advance
from tamis.sources.opening import open_source
from tamis.sweep.on_ray import RayOptions
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import TrialRecord, read_records
from tamis.sweep.running import run_sweep
from tamis.sweep.spec import SweepSpec

ray = pytest.importorskip("ray")
# Of Ray's own; its sockets and log files close with the process.
_ROOM = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def spec(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSpec:
    """16 trials, which need no scores and take a second or two."""
    root = tmp_path_factory.mktemp("ray")
    cut(open_bundle(digits_bundle), root / "train.beton", np.arange(256))
    convert(open_source("digits:test"), root / "test.beton")
    (root / "sweep.yaml").write_text(
        "train: train.beton\ntest: test.beton\nmetrics: [random]\nkeep: [1, 0.5]\n"
        "sizes: [1, 0.5]\nseeds: 4\nrecipe: digits\nset: {epochs: 4, width: 4}\n"
    )
    return read_sweep_spec(root / "sweep.yaml")


@pytest.fixture(scope="module")
def here(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrialRecord]:
    """The same trials of one seed in one process of this machine."""
    out, one = tmp_path_factory.mktemp("here"), spec.model_copy(update={"seeds": 1})
    return read_records(run_sweep(one, out, device="cpu").records)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made: Any = Cluster(initialize_head=True, head_node_args={**_ROOM, "include_dashboard": False})
    yield made
    made.shutdown()


def numbers(records: dict[str, TrialRecord]) -> dict[str, float]:
    return {key: record.run["test_loss"] for key, record in records.items()}


class JoinsAndDies:
    """Watches a sweep: after one trial a node joins; once it has begun to work, it is killed."""

    def __init__(self, cluster: Any) -> None:
        self._cluster, self._node = cluster, None
        self.killed_after: int | None = None
        self._n_done, self._works = -1, False  # what was done before is told first

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        yield self._advance

    def _advance(self, units: int = 1, /) -> None:
        self._n_done += 1
        if self._n_done == 1:
            self._node = self._cluster.add_node(**_ROOM)
        elif self._works and self.killed_after is None:
            self._cluster.remove_node(self._node, allow_graceful=False)
            self.killed_after = self._n_done
        elif self._n_done > 1 and not self._works:
            end = time.monotonic() + 3
            while not self._works and time.monotonic() < end:
                time.sleep(0.05)
                # Each node holds a worker; the new one needs some seconds to open the sweep.
                self._works = ray.available_resources().get("CPU", 0) == 0
            time.sleep(10 if self._works else 0)


def test_a_node_joins_and_is_killed(
    spec: SweepSpec,
    here: dict[str, TrialRecord],
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets a worker; what is lost with it, the other one runs again."""
    monkeypatch.setattr("tamis.sweep.on_ray._LOOK", 0.2)
    watch, options = JoinsAndDies(cluster), RayOptions(cluster.address)
    report = run_sweep(spec, tmp_path, device="cpu", ray=options, progress=watch)
    assert watch.killed_after is not None  # in the middle
    assert watch.killed_after < 15
    assert (report.n_trials, report.n_done, report.n_failed) == (16, 16, 0)
    lines = report.records.read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == 16
    found = numbers(read_records(report.records))
    assert {key: found[key] for key in here} == pytest.approx(numbers(here), rel=1e-3)


def test_what_a_worker_cannot_open_is_told_as_here(
    spec: SweepSpec, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This process has the file; a node that does not share the disk has none.
    gone = spec.model_copy(update={"test": tmp_path / "gone.beton"})
    monkeypatch.setattr("tamis.sweep.running.Job", lambda *rest: Job(gone, *rest[1:]))
    from tamis.sweep.runner import Job

    with pytest.raises(BundleError, match="found no file"):
        run_sweep(spec, tmp_path / "out", device="cpu", ray=RayOptions(cluster.address))


def test_more_than_a_node_holds_is_refused(spec: SweepSpec, cluster: Any, tmp_path: Path) -> None:
    options = RayOptions(cluster.address, cpus=64)
    with pytest.raises(UsageError, match="a node with 64 CPUs and 0 GPUs, found one with 1 CPUs"):
        run_sweep(spec, tmp_path / "out", device="cpu", ray=options)


def test_an_address_where_nothing_answers(spec: SweepSpec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a Ray cluster that answers"):
        run_sweep(spec, tmp_path / "out", device="cpu", ray=RayOptions("127.0.0.1:1"))

"""Work on a real Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import process_command
from loading import with_damage
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.cluster import ClusterOptions
from tamis.encoders.base import Preparation
from tamis.encoders.embedding import embed_bundle
from tamis.encoders.network import NetworkEncoder, Origin
from tamis.encoders.opening import open_encoder
from tamis.errors import BundleError, UsageError
from tamis.metrics.campaign import score
from tamis.metrics.registry import get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.progress import Advance
from tamis.score_table import read_score_table
from tamis.sources.opening import open_source
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import TrialRecord, read_records
from tamis.sweep.running import run_sweep
from tamis.sweep.spec import SweepSpec
from tamis.training.recipes import get_recipe
from tamis.training.selfsup import SelfsupSettings

ray = pytest.importorskip("ray")
CPU = torch.device("cpu")
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


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # By default workers give way to whatever else the machine does.
        patch.setenv("RAY_worker_niceness", "0")
        room = {**_ROOM, "include_dashboard": False}
        made: Any = Cluster(initialize_head=True, head_node_args=room)
        yield made
        made.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Any]:
    """A node, to which a test may add others; they are gone after it."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node)
    head.wait_for_nodes()  # until nobody counts on them


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
    monkeypatch.setattr("tamis.cluster._LOOK", 0.2)
    watch, options = JoinsAndDies(cluster), ClusterOptions(cluster.address)
    report = run_sweep(spec, tmp_path, device="cpu", cluster=options, progress=watch)
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
        run_sweep(spec, tmp_path / "out", device="cpu", cluster=ClusterOptions(cluster.address))


def test_more_than_a_node_holds_is_refused(spec: SweepSpec, cluster: Any, tmp_path: Path) -> None:
    options = ClusterOptions(cluster.address, cpus=64)
    with pytest.raises(UsageError, match="a node with 64 CPUs and 0 GPUs, found one with 1 CPUs"):
        run_sweep(spec, tmp_path / "out", device="cpu", cluster=options)


def test_an_address_where_nothing_answers(spec: SweepSpec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a Ray cluster that answers"):
        run_sweep(spec, tmp_path / "out", device="cpu", cluster=ClusterOptions("127.0.0.1:1"))


def test_scores_are_those_of_one_machine_to_the_bit(
    spec: SweepSpec, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings of all kinds and embeddings, on two workers with a thread each; none is left."""
    cluster.add_node(**_ROOM)
    bundle, test = open_bundle(spec.train), open_bundle(spec.test)
    names = ["el2n", "forgetting", "memorization", "influence-max", "active-learning", "prototypes"]
    metrics = get_metrics(names)
    recipe = get_recipe("digits", {"epochs": 2, "width": 4})
    settings = CampaignSettings(
        recipe, models=1, early_models=2, subset_models=10, selfsup=SelfsupSettings(epochs=2)
    )

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("trained where it was asked for")

    monkeypatch.setattr("tamis.metrics.context.train", refuse)
    monkeypatch.setattr("tamis.metrics.embeddings.train_encoder", refuse)
    there, options = tmp_path / "there", ClusterOptions(cluster.address)
    found = score(
        bundle, metrics, settings, CPU, test=test, work=there, cluster=options
    ).table.columns
    # With one thread from the beginning, as a worker with one core has.
    alone = ["score", spec.train, tmp_path / "alone.parquet", "--test", spec.test]
    alone += ["--device", "cpu", "--encoder-epochs", 2]
    alone += ["--metrics", ",".join(names), "--recipe", "digits"]
    alone += ["--set", "epochs=2", "--set", "width=4", "--models", 1, "--early-models", 2]
    subprocess.run(
        process_command(*alone, "--subset-models", 10, "--json"),
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    expected = read_score_table(tmp_path / "alone.parquet").columns
    assert len(list(there.glob("*.pt"))) == 14
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name].values, column.values)
        assert found[name].info == column.info  # the networks' digests, too


def test_scores_on_a_cluster_need_a_folder(spec: SweepSpec) -> None:
    bundle, settings = open_bundle(spec.train), CampaignSettings(get_recipe("digits"))
    with pytest.raises(UsageError, match="a folder for its networks"):
        score(bundle, get_metrics(["el2n"]), settings, CPU, cluster=ClusterOptions())


class DiesOnce(torch.nn.Module):
    """A network that takes its worker along, where it has not done so yet."""

    def __init__(self, net: torch.nn.Module, done: Path) -> None:
        super().__init__()
        self.net, self.done, self.home = net, done, os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.home and not self.done.exists() and len(x) > 2:
            self.done.touch()
            os._exit(1)
        rows: torch.Tensor = self.net(x)
        return rows


class InterruptedAfter:
    """Ctrl-C once so many rows are there."""

    def __init__(self, n_rows: int) -> None:
        self._left = n_rows

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        yield self._advance

    def _advance(self, units: int = 1, /) -> None:
        self._left -= units
        if self._left <= 0:
            raise KeyboardInterrupt


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a worker with one core has: sums in another order differ in their last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def damaged(digits_bundle: Path, tmp_path: Path) -> Bundle:
    """The first one, some whole batches and more, two at the end of one, the last ones."""
    gone = [0, *range(390, 611), 998, 999, *range(1300, 1347)]
    return with_damage(open_bundle(digits_bundle), tmp_path / "damaged.beton", gone)


@pytest.mark.usefixtures("one_thread")
def test_embeddings_are_those_of_one_machine_to_the_bit(
    damaged: Bundle, cluster: Any, tmp_path: Path
) -> None:
    """With a worker that dies, and whichever of the two goes on with what the other left."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[DiesOnce.__module__])
    cluster.add_node(**_ROOM)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 16)
    )
    encoder = NetworkEncoder(
        Origin("selfsup", "w", "torch", False),
        DiesOnce(net, tmp_path / "died"),
        Preparation(resolution=8, crop_ratio=1.0),
        CPU,
    )
    options: dict[str, Any] = {"batch_size": 32, "on_error": "skip", "resume": True}
    there = {**options, "cluster": ClusterOptions(cluster.address)}
    embed_bundle(damaged, encoder, tmp_path / "here.npy", CPU, **options)
    expected = (tmp_path / "here.npy").read_bytes()
    assert not (tmp_path / "died").exists()
    done = embed_bundle(damaged, encoder, tmp_path / "there.npy", CPU, **there)
    assert (tmp_path / "died").exists()
    assert (tmp_path / "there.npy").read_bytes() == expected
    assert len(done.skipped) == 271
    # The second time in the midst of rows of damaged examples, at the third batch of them.
    for first, second, n_rows in ((there, options, 300), (options, there, 470)):
        out = tmp_path / f"{n_rows}.npy"
        with pytest.raises(KeyboardInterrupt):
            embed_bundle(damaged, encoder, out, CPU, **first, progress=InterruptedAfter(n_rows))
        done = embed_bundle(damaged, encoder, out, CPU, **second)
        assert n_rows <= done.n_resumed < n_rows + 64
        assert out.read_bytes() == expected


@pytest.mark.usefixtures("one_thread")
def test_an_encoder_is_opened_where_it_was_named(
    damaged: Bundle, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a relative path; and a worker that opens another one says so."""
    monkeypatch.chdir(tmp_path)
    linear = torch.nn.Linear(192, 4)
    net = torch.nn.Sequential(torch.nn.Flatten(), linear)
    torch.jit.save(torch.jit.script(net), "net.pt")
    encoder = open_encoder("file:net.pt?crop=1", CPU, resolution=8)
    options: dict[str, Any] = {"on_error": "skip", "cluster": ClusterOptions(cluster.address)}
    embed_bundle(damaged, encoder, tmp_path / "there.npy", CPU, **options)
    embed_bundle(damaged, encoder, tmp_path / "here.npy", CPU, on_error="skip")
    assert (tmp_path / "there.npy").read_bytes() == (tmp_path / "here.npy").read_bytes()
    torch.nn.init.zeros_(linear.weight)
    torch.jit.save(torch.jit.script(net), "net.pt")
    with pytest.raises(UsageError, match="the same encoder on all nodes, found another weights"):
        embed_bundle(damaged, encoder, tmp_path / "other.npy", CPU, **options)
    assert not (tmp_path / "other.npy").exists()


def test_gaps_that_a_loader_closes_are_refused(damaged: Bundle, tmp_path: Path) -> None:
    pixels = open_encoder("pixels", CPU, resolution=8)
    options: dict[str, Any] = {"backend": "memory", "cluster": ClusterOptions()}
    with pytest.raises(UsageError, match="with a cluster, a loader that streams"):
        embed_bundle(damaged, pixels, tmp_path / "e.npy", CPU, on_error="skip", **options)

"""Two processes that train one network, started as torchrun starts them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError
from tamis.loaders.opening import open_loader
from tamis.training.checkpoints import load_checkpoint
from tamis.training.evaluation import evaluate
from tamis.training.loop import Seeds
from tamis.training.networks import new_network
from tamis.training.recipes import get_recipe
from tamis.training.runs import loader_settings
from tamis.training.workers import own_device

CPU = torch.device("cpu")
# Where a processor multiplies bfloat16, rounding makes more of another order of sums than a test of
# that order can forgive.
IN_FLOAT32 = "import tamis.devices as devices; devices._cpu_has_bf16 = lambda: False;"


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """401 digits: in the last batch of an epoch one process has an example more."""
    path = tmp_path_factory.mktemp("workers") / "part.beton"
    cut(open_bundle(digits_bundle), path, np.arange(401))
    return path


def command(bundle: Path, out: Path, *more: object) -> list[str]:
    return [
        str(part)
        for part in (
            "train", bundle, "--test", bundle, "--out", out, "--recipe", "digits", "--set",
            "width=4", "--json", *more,
        )
    ]  # fmt: skip


class Pair:
    """Two processes of one training; files for their output, because pipes would fill."""

    def __init__(self, port: int) -> None:
        self._port = port

    def start(
        self, arguments: list[str], logs: Path, first: str = ""
    ) -> list[subprocess.Popen[bytes]]:
        code = (
            f"{first}import tamis.cli.output as output; output._SECONDS_BETWEEN_LINES = 0;"
            "from tamis.cli import main; main()"
        )
        started = []
        for rank in range(2):
            where = {
                "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._port), "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            with (logs / f"out{rank}").open("wb") as out, (logs / f"err{rank}").open("wb") as err:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-c", code, *arguments],
                        env=os.environ | where, stdout=out, stderr=err,
                    )
                )  # fmt: skip
        return started

    def run(self, arguments: list[str], logs: Path, first: str = "") -> Any:
        for process in self.start(arguments, logs, first):
            assert process.wait(120) == 0, (logs / "err0").read_text() + (logs / "err1").read_text()
        assert (logs / "out1").read_text() == ""
        return json.loads((logs / "out0").read_text())


@pytest.fixture
def pair() -> Pair:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Pair(port)


def weights(run: Path) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in load_checkpoint(run, CPU).model.parameters()])


def test_two_processes_take_the_steps_of_one(bundle: Path, tmp_path: Path, pair: Pair) -> None:
    """One process that takes each batch in two parts shows networks the same parts.

    Four steps, in batches of 32 and 17: sums run in another order, and with every further step it
    is likelier that a unit comes out on the other side of zero, which no tolerance would forgive.
    """
    part = tmp_path / "small.beton"
    cut(open_bundle(bundle), part, np.arange(49))
    short = ("--set", "epochs=2", "--set", "batch_size=32", "--full-examples", 49)
    found = pair.run(command(part, tmp_path / "two", *short), tmp_path, IN_FLOAT32)
    code = f"{IN_FLOAT32}from tamis.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command(part, tmp_path / "one", *short, "--accumulate", 2)],
        capture_output=True,
        check=True,
        text=True,
    )
    alone = json.loads(done.stdout)
    assert (found["processes"], alone["processes"]) == (2, 1)
    assert found["steps"] == 4
    for name in ("steps", "examples_seen", "n_examples"):
        assert found[name] == alone[name]
    assert found["epoch_losses"] == pytest.approx(alone["epoch_losses"], rel=1e-3)
    two, one = weights(tmp_path / "two"), weights(tmp_path / "one")
    recipe = dataclasses.replace(get_recipe("digits"), width=4)
    fresh = torch.cat([w.detach().flatten() for w in new_network(recipe, 10, 0).parameters()])
    assert float((two - one).norm()) < 1e-3 * float((one - fresh).norm())
    # Tested in halves, too: every example counts once.
    per_class = np.bincount(open_bundle(part).labels, minlength=10)
    right = np.array(found["per_class_accuracy"]) @ per_class
    assert found["test_accuracy"] == pytest.approx(right / 49)


@pytest.mark.parametrize("recipe", ["digits", "cifar-fast"])
def test_what_is_recorded_is_what_the_saved_network_does(
    bundle: Path, tmp_path: Path, pair: Pair, recipe: str
) -> None:
    """Norms of each process see other examples; of the whitening images, one process's count."""
    small = ("--recipe", recipe, "--set", "epochs=2", "--set", "resolution=16")
    sizes = ("--set", "batch_size=60", "--full-examples", 401)
    found = pair.run(command(bundle, tmp_path / "run", *small, *sizes), tmp_path)
    opened = open_bundle(bundle)
    loader = open_loader(opened, batch_size=100, resolution=16)
    model = load_checkpoint(tmp_path / "run", CPU).model
    tested = evaluate(model, loader, 10, CPU, flip=recipe == "cifar-fast")
    assert found["test_accuracy"] == pytest.approx(tested.accuracy)
    assert found["test_loss"] == pytest.approx(tested.loss, rel=1e-3)


def test_dynamic_pruning_and_a_stop_are_shared(bundle: Path, tmp_path: Path, pair: Pair) -> None:
    long = ("--set", "epochs=24", "--dynamic", 0.5, "--full-examples", 401, "--resume")
    arguments = command(bundle, tmp_path / "run", *long)
    started = pair.start(arguments, tmp_path)
    while started[0].poll() is None and "train: " not in (tmp_path / "err0").read_text():
        time.sleep(0.01)
    started[1].send_signal(signal.SIGTERM)  # one is told, both stop
    codes = [process.wait(60) for process in started]
    assert codes == [130, 130], (tmp_path / "err0").read_text()
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert kept["taken"] > 0
    found = pair.run(arguments, tmp_path)
    assert found["test_accuracy"] > 0.95
    assert found["examples_seen"] < 24 * 401 * 0.8
    whole = pair.run(command(bundle, tmp_path / "whole", *long), tmp_path)
    assert found["epoch_losses"] == pytest.approx(whole["epoch_losses"], rel=1e-4)
    assert found["examples_seen"] == whole["examples_seen"]


def test_a_gpu_by_its_number_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="LOCAL_RANK not set; start it with torchrun"):
        own_device(torch.device("cuda"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match="found cuda:1, LOCAL_RANK 0"):
        own_device(torch.device("cuda:1"))
    assert own_device(CPU) == CPU


def test_batches_that_cannot_be_shared_evenly_are_refused() -> None:
    recipe = get_recipe("digits")
    assert loader_settings(recipe, Seeds.from_one(0), (1, 4)).batch_size == 16
    with pytest.raises(UsageError, match=r"expected a multiple of 3.*pass --set batch_size=66"):
        loader_settings(recipe, Seeds.from_one(0), (0, 3))

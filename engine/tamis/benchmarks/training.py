"""``tamis bench training``: what the loop costs besides the network, and what runs share.

On digits, which are built in, and on random images of 32 pixels: nothing is downloaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from tamis.arrays import to_numpy
from tamis.benchmarks.measuring import Row, row, timed
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.devices import autocast
from tamis.errors import WorkFailedError
from tamis.loaders.batch import Batch, Loader
from tamis.loaders.memory_loader import ImageSet, MemoryLoader
from tamis.metrics.metric import RunShape
from tamis.metrics.registry import METRICS
from tamis.metrics.watching import RunWatch
from tamis.models.network import Network
from tamis.progress import QUIET, Progress
from tamis.sources.opening import open_source
from tamis.training.loop import Observer, Seeds, n_steps, train
from tamis.training.many import TrainSpec, train_many
from tamis.training.networks import new_network
from tamis.training.recipes import Recipe, get_recipe
from tamis.training.runs import RunOptions, loader_settings

__all__ = ["bench_training"]

_EXAMPLES = 2048
_RUNS = 10
_GOAL_LOOP, _GOAL_LOADER, _GOAL_HOOK, _GOAL_MANY = 1.0, 0.97, 0.99, 2.0


def bench_training(
    device: torch.device, folder: Path, repetitions: int = 5, *, progress: Progress = QUIET
) -> list[Row]:
    """Steps of the recipe ``small`` against a plain loop, and ten runs against ten processes.

    Args:
        device: Where to train.
        folder: A folder for two small bundles; nothing stays in it.
        repetitions: Turns; the median counts.
        progress: Told of every turn.
    """
    rows: list[Row] = []
    with progress.task("bench training", 7 * repetitions + 2) as advance:
        bench = _Steps(device)
        seconds = timed(
            {
                "loop": bench.loop,
                "plain": bench.plain,
                "ready": bench.ready,
                "watched": bench.watched,
                "half, same steps": lambda: bench.part(0.5, "steps"),
                "half, same epochs": lambda: bench.part(0.5, "epochs"),
                "warm": bench.loop,
            },
            repetitions,
            advance=advance,
        )
        rows += _step_rows(seconds)
        with TemporaryDirectory(prefix=".tamis-bench-", dir=folder) as name:
            rows += _many(Path(name), device, advance)
    return rows


def _step_rows(seconds: dict[str, float]) -> Iterator[Row]:
    unit, n = "images/s", float(_EXAMPLES)
    loop = seconds["loop"]
    for name, peer, of, goal in (
        ("small, one epoch", "plain torch loop", "plain", _GOAL_LOOP),
        ("small with its loader", "batches made before", "ready", _GOAL_LOADER),
    ):
        yield row(name, n, unit, loop, peer=peer, peer_seconds=seconds[of], goal=goal)
    yield row(
        "small, watched for scores",
        n,
        unit,
        seconds["watched"],
        peer="not watched",
        peer_seconds=seconds["warm"],
        goal=_GOAL_HOOK,
    )
    # Of a subset times are compared, which are to be small.
    for name, most in (("half, same steps", 1.03), ("half, same epochs", 0.55)):
        taken = seconds[name]
        yield Row(f"small, {name}", taken, "s", "the whole set", loop, taken / loop, most, True)


class _Steps:
    """One epoch of the recipe ``small`` on random images, in several ways."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recipe = replace(get_recipe("small"), epochs=1)
        rng = np.random.default_rng(0)
        side = self._recipe.resolution
        pixels = torch.from_numpy(rng.integers(0, 256, (_EXAMPLES, side, side, 3), np.uint8))
        labels = torch.from_numpy(rng.integers(0, 10, _EXAMPLES))
        ids = np.arange(_EXAMPLES)
        self._images = ImageSet(pixels.to(device), labels.to(device), ids, 10)
        self._settings = loader_settings(self._recipe, 0)
        self._batches = list(self._loader())

    def _loader(self, share: float = 1.0) -> MemoryLoader:
        positions = np.arange(round(share * _EXAMPLES))
        return MemoryLoader(self._images, self._settings, positions=positions)

    def loop(self, loader: Loader | None = None, observer: Observer | None = None) -> None:
        """As ``tamis train`` takes them."""
        steps = n_steps(_EXAMPLES, _EXAMPLES, self._recipe, "steps")
        self._train(self._loader() if loader is None else loader, steps, observer)

    def part(self, share: float, budget: str) -> None:
        """On a part of the set."""
        loader = self._loader(share)
        n = loader.n_examples if budget == "epochs" else _EXAMPLES
        self._train(loader, n_steps(n, n, self._recipe, "steps"), None)

    def ready(self) -> None:
        """With batches that are there already."""
        self.loop(_Ready(self._loader(), self._batches))

    def watched(self) -> None:
        """For all metrics that are read off presentations: statistics by example."""
        shape = RunShape(_EXAMPLES, 10, 1, self._device)
        metrics = [METRICS["forgetting"], METRICS["aum"]]
        self.loop(observer=RunWatch(metrics, self._images.example_ids, shape))

    def _train(self, loader: Loader, steps: int, observer: Observer | None) -> None:
        trained = train(
            loader, self._recipe, 10, steps=steps, seeds=Seeds.from_one(0), device=self._device,
            observer=observer,
        )  # fmt: skip
        to_numpy(trained.model.head.weight.detach())  # waits for the device

    def plain(self) -> None:
        """The same network and batches by hand: what anybody would write."""
        recipe, device = self._recipe, self._device
        model = _placed(new_network(recipe, 10, 0), device)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 5e-4},
            {"params": [p for p in model.parameters() if p.ndim == 1]},
        ]
        optimizer = torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=True,
        )
        n = len(self._batches)
        for step, batch in enumerate(self._loader()):
            done = (step + 0.5) / n
            factor = done / 0.2 if done < 0.2 else (1 - done) / 0.8
            for group in optimizer.param_groups:
                group["lr"] = factor * recipe.learning_rate
            with autocast(device):
                features = model.features(batch.images)
            loss = nn.functional.cross_entropy(model.classify(features.float()), batch.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        to_numpy(model.head.weight.detach())


def _placed(model: Network, device: torch.device) -> Network:
    return model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


class _Ready(MemoryLoader):
    """Gives the same batches as another loader, which were made before."""

    def __init__(self, like: MemoryLoader, batches: list[Batch]) -> None:
        super().__init__(like.image_set, like.settings)
        self._ready = batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return iter(self._ready)


def _many(work: Path, device: torch.device, advance: Callable[[], object]) -> Iterator[Row]:
    """Ten runs of ``digits`` in one process, and in ten."""
    training, testing = (_digits(part, work) for part in ("train", "test"))
    recipe: Recipe = get_recipe("digits")
    specs = [TrainSpec(recipe, options=RunOptions(seed=seed)) for seed in range(_RUNS)]
    start = time.perf_counter()
    together = [record.test_accuracy for record in train_many(training, testing, specs, device)]
    middle = time.perf_counter()
    advance()
    alone = [_process(work, device, seed) for seed in range(_RUNS)]
    end = time.perf_counter()
    advance()
    if together != alone:
        raise WorkFailedError(
            "bench training",
            expected="the same accuracies of runs together and alone",
            found=f"{together} and {alone}",
            do="report it",
        )
    yield row(
        f"{_RUNS} runs of digits",
        float(_RUNS),
        "runs/s",
        middle - start,
        peer=f"{_RUNS} processes of tamis train",
        peer_seconds=end - middle,
        goal=_GOAL_MANY,
    )


def _digits(part: str, work: Path) -> Bundle:
    convert(open_source(f"digits:{part}"), work / f"{part}.beton")
    return open_bundle(work / f"{part}.beton")


def _process(work: Path, device: torch.device, seed: int) -> float:
    """Test accuracy of a run in a process of its own."""
    done = subprocess.run(
        [
            sys.executable, "-c", "from tamis.cli import main; main()", "train",
            str(work / "train.beton"), "--test", str(work / "test.beton"), "--recipe", "digits",
            "--out", str(work / f"run{seed}"), "--seed", str(seed), "--device", str(device),
            "--json",
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["test_accuracy"])

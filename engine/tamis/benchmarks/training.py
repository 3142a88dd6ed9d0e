"""``tamis bench training``: what the loop costs besides the network, and what runs share.

On digits, which are built in, and on random images of 32 pixels: nothing is downloaded.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.benchmarks.measuring import Row, row
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
from tamis.training.loop import Seeds, n_steps, train
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
    with progress.task("bench training", 6 * repetitions + 2) as advance:
        bench = _Steps(device)
        steps: dict[str, list[float]] = {}
        epochs: dict[str, list[float]] = {}
        # Not in our process, whose memory tamis handles as it likes it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as others:
            contenders = bench.contenders | {
                "plain": lambda: others.submit(_plain_epoch, str(device)).result()
            }
            contenders["plain"]()
            for _ in range(repetitions):  # in turns: a slow minute hits all alike
                for name, run in contenders.items():
                    start = time.perf_counter()
                    steps.setdefault(name, []).extend(run())
                    epochs.setdefault(name, []).append(time.perf_counter() - start)
                    advance()
        rows += _step_rows({name: median(taken) for name, taken in steps.items()})
        rows += _part_rows({name: median(taken) for name, taken in epochs.items()})
        with TemporaryDirectory(prefix=".tamis-bench-", dir=folder) as name:
            rows += _many(Path(name), device, advance)
    return rows


def _step_rows(seconds: dict[str, float]) -> Iterator[Row]:
    """Median steps of all turns, which a pause of the machine does not move."""
    batch = float(get_recipe("small").batch_size)
    for name, contender, peer, of, goal in (
        ("step of small", "loop", "plain torch loop", "plain", _GOAL_LOOP),
        ("step with its loader", "loop", "batches made before", "ready", _GOAL_LOADER),
        ("step watched for scores", "watched", "not watched", "loop", _GOAL_HOOK),
    ):
        yield row(
            name, batch, "images/s", seconds[contender], peer=peer, peer_seconds=seconds[of],
            goal=goal,
        )  # fmt: skip


def _part_rows(seconds: dict[str, float]) -> Iterator[Row]:
    """Of a subset times are compared, which are to be small."""
    loop = seconds["loop"]
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
        self._settings = loader_settings(self._recipe, Seeds.from_one(0))
        self._batches = list(self._loader())

    def _loader(self, share: float = 1.0) -> MemoryLoader:
        positions = np.arange(round(share * _EXAMPLES))
        return MemoryLoader(self._images, self._settings, positions=positions)

    @property
    def contenders(self) -> dict[str, Callable[[], list[float]]]:
        """Name → an epoch, which returns the seconds of its steps."""
        return {
            "loop": lambda: self._train(self._loader()),
            "ready": lambda: self._train(_Ready(self._loader(), self._batches)),
            "watched": lambda: self._train(self._loader(), self._watch()),
            "half, same steps": lambda: self._train(self._loader(0.5)),
            "half, same epochs": lambda: self._train(self._loader(0.5), n_examples=_EXAMPLES // 2),
        }

    def _watch(self) -> RunWatch:
        """For metrics that are read off presentations: statistics by example."""
        shape = RunShape(_EXAMPLES, 10, 1, self._device)
        metrics = [METRICS["forgetting"], METRICS["aum"]]
        return RunWatch(metrics, self._images.example_ids, shape)

    def _train(
        self, loader: Loader, watch: RunWatch | None = None, n_examples: int = _EXAMPLES
    ) -> list[float]:
        """As ``tamis train`` does."""
        clock = _Clock(watch, self._device)
        train(
            loader, self._recipe, 10, device=self._device, seeds=Seeds.from_one(0), observer=clock,
            steps=n_steps(n_examples, n_examples, self._recipe, "steps"),
        )  # fmt: skip
        return clock.seconds

    def plain(self) -> list[float]:
        """The same network and batches by hand: what anybody would write."""
        recipe, device = self._recipe, self._device
        model = new_network(recipe, 10, 0).placed(device).train()
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
        n, clock = len(self._batches), _Clock(None, device)
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
            clock.tick()
        return clock.seconds


_steps: dict[str, _Steps] = {}  # of the process that runs the plain loop


def _plain_epoch(device: str) -> list[float]:
    if device not in _steps:
        _steps[device] = _Steps(torch.device(device))
    return _steps[device].plain()


class _Clock:
    """Seconds between steps; hands everything on to a watch."""

    def __init__(self, watch: RunWatch | None, device: torch.device) -> None:
        self._watch, self._device = watch, device
        self.seconds: list[float] = []
        self._last: float | None = None

    def tick(self) -> None:
        """A step is done; the first one only starts the clock."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        if self._watch is not None:
            self._watch.on_batch(epoch, example_ids, labels, logits)
        self.tick()

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        pass


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
    if device.type == "cpu" and together != alone:  # cuDNN's sums run in any order
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

"""SimCLR, which trains tamis's label-free encoder, against SwAV's swapped prediction.

``python bench/compare_selfsup.py TRAIN.beton TEST.beton [--epochs 30] [--seeds 2] [--record FILE]``
trains the recipe ``small``'s network with both on the same views and steps, and prints the accuracy
of a linear probe and the seconds of training. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tamis.arrays import to_numpy
from tamis.benchmarks.measuring import environment
from tamis.bundles.opening import open_bundle
from tamis.devices import resolve_device
from tamis.inference import infer
from tamis.loaders.batch import Loader
from tamis.loaders.memory_loader import MemoryLoader, load_image_set
from tamis.loaders.settings import LoaderSettings
from tamis.models.network import Network
from tamis.training.probe import linear_probe
from tamis.training.recipes import get_recipe
from tamis.training.selfsup import SelfsupSettings, SimCLR, new_encoder, train_encoder

_PROTOTYPES = 100
_TEMPERATURE, _EPSILON, _ROUNDS = 0.1, 0.05, 3  # SwAV's (Caron et al. 2020, arXiv:2006.09882)
_FROZEN_STEPS = 20  # SwAV holds prototypes still in the first epoch


class SwAV(nn.Module):
    """Each view predicts the other's codes, which share a batch out evenly over prototypes."""

    def __init__(self, width: int, settings: SelfsupSettings) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.projection)
        )
        self.prototypes = nn.Linear(settings.projection, _PROTOTYPES, bias=False)
        self._steps = 0

    def forward(self, features: Tensor) -> Tensor:
        """(2b, width), all first views and then the second ones → the loss."""
        with torch.no_grad():
            weight = self.prototypes.weight
            weight.copy_(nn.functional.normalize(weight, dim=1))
        rows = nn.functional.normalize(self.project(features).float(), dim=1)
        with torch.autocast(features.device.type, enabled=False):
            scores = nn.functional.linear(rows, self.prototypes.weight.float())
        self._steps += 1
        if self._steps <= _FROZEN_STEPS:
            scores = nn.functional.linear(rows, self.prototypes.weight.detach().float())
        first, second = scores.chunk(2)
        log_p = [nn.functional.log_softmax(part / _TEMPERATURE, dim=1) for part in (first, second)]
        codes = [shared_out(part.detach()) for part in (first, second)]
        return -((codes[0] * log_p[1]).sum(1) + (codes[1] * log_p[0]).sum(1)).mean() / 2


def shared_out(scores: Tensor) -> Tensor:
    """Codes (b, k): rows sum to 1, columns to b / k (Sinkhorn and Knopp)."""
    q = torch.exp((scores - scores.max()) / _EPSILON)
    b, k = q.shape
    for _ in range(_ROUNDS):
        q = q / q.sum(0, keepdim=True) * (b / k)
        q = q / q.sum(1, keepdim=True)
    return q


def rows_of(model: Network, loader: Loader, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels."""
    found = [(to_numpy(o.embeddings), to_numpy(o.labels)) for o in infer(model, loader, device)]
    return np.concatenate([rows for rows, _ in found]), np.concatenate([y for _, y in found])


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    device, recipe = resolve_device(), get_recipe("small")
    sets = [
        load_image_set(open_bundle(path), recipe.resolution, device)
        for path in (asked.train, asked.test)
    ]
    settings = SelfsupSettings(epochs=asked.epochs)
    probed = [MemoryLoader(one, LoaderSettings(512, recipe.resolution)) for one in sets]

    def probe(model: Network) -> float:
        (train, labels), (test, truth) = (rows_of(model, loader, device) for loader in probed)
        return linear_probe(train, labels, test, truth)

    tasks: dict[str, Callable[[int, SelfsupSettings], nn.Module]] = {"SimCLR": SimCLR, "SwAV": SwAV}
    found: dict[str, dict[str, list[float]]] = {
        "untrained": {
            "accuracy": [probe(new_encoder(recipe, s, device)) for s in range(asked.seeds)]
        }
    }
    for seed in range(asked.seeds):
        for name, task in tasks.items():
            order = LoaderSettings(settings.batch_size, recipe.resolution, "train", seed=seed)
            start = time.perf_counter()
            model = train_encoder(
                MemoryLoader(sets[0], order),
                recipe,
                settings,
                seed=seed,
                device=device,
                pretext=task,
            )
            seconds = time.perf_counter() - start
            of = found.setdefault(name, {"accuracy": [], "seconds": []})
            of["accuracy"].append(probe(model))
            of["seconds"].append(seconds)
            print(f"{name}, seed {seed}: {of['accuracy'][-1]:.4f}, {seconds:.0f} s", flush=True)
    line = {
        "command": [Path(argument).name for argument in sys.argv],
        "examples": len(sets[0].labels),
        "epochs": asked.epochs,
        "linear_probe": found,
        "environment": environment(),
    }
    print(json.dumps(line))
    if asked.record:
        with asked.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

"""Many runs of one trainer are those that each would have been alone."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.training.many import TrainSpec, train_many
from tamis.training.networks import Forward, new_network
from tamis.training.recipes import RECIPES
from tamis.training.records import RunRecord
from tamis.training.runs import RunOptions, train_on_bundle

CPU = torch.device("cpu")
SHORT = replace(RECIPES["digits"], epochs=1, width=4)


def numbers(record: RunRecord) -> dict[str, Any]:
    return {k: v for k, v in asdict(record).items() if "seconds" not in k and "per_second" not in k}


def test_records_are_those_of_single_runs(digits_bundle: Path, tmp_path: Path) -> None:
    whole = open_bundle(digits_bundle)
    cut(whole, tmp_path / "part.beton", whole.example_ids[:300])
    bundle = open_bundle(tmp_path / "part.beton")
    ids = bundle.example_ids[np.random.default_rng(0).permutation(300)[:100]]
    specs = [
        TrainSpec(SHORT),
        TrainSpec(SHORT, ids, RunOptions(budget="epochs", seed=1, order_seed=4)),
        TrainSpec(replace(SHORT, resolution=16), ids, RunOptions(dynamic=0.5)),
        TrainSpec(replace(SHORT, random_crop=True), ids),  # streams
        TrainSpec(SHORT),
    ]
    found = list(train_many(bundle, bundle, specs, CPU))
    for spec, record in zip(specs, found, strict=True):
        _, alone = train_on_bundle(
            bundle, bundle, spec.recipe, spec.options, example_ids=spec.example_ids, device=CPU
        )
        assert numbers(record) == numbers(alone)
    assert numbers(found[0]) == numbers(found[4])
    assert found[0].full_examples == whole.n_examples


class Graphs(list[tuple[int, ...]]):
    """The shapes of images that something was compiled for; it runs as it is."""

    def compiled(self, module: nn.Module) -> Any:
        """As on a GPU; what cannot be compiled as one graph is an error."""
        return torch.compile(module, backend=self._take, fullgraph=True, dynamic=False)

    def _take(self, graph: Any, inputs: list[Tensor]) -> Any:
        shapes = [tuple(one.shape) for one in inputs if one.dtype == torch.uint8]
        self.extend(shapes)
        return graph.forward


def test_runs_of_all_sizes_share_what_is_compiled(
    digits_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(digits_bundle)
    small = bundle.example_ids[:130]
    fast = replace(RECIPES["cifar-fast"], epochs=1, width=4, resolution=16, batch_size=64)
    ids = bundle.example_ids
    specs = [
        TrainSpec(fast, chosen, RunOptions(seed=seed))
        for seed, chosen in enumerate([small, ids[:70], ids[:64], ids[:40], ids[:131], small])
    ]
    plain = list(train_many(bundle, bundle, specs, CPU))
    graphs = Graphs()
    monkeypatch.setattr("tamis.training.stepping._is_compiled", lambda recipe, device: True)
    monkeypatch.setattr("tamis.training.stepping._compiled", graphs.compiled)
    found = list(train_many(bundle, bundle, specs, CPU))
    assert [one.epoch_losses for one in found] == [one.epoch_losses for one in plain]
    assert graphs == [(64, 3, 16, 16)]


@pytest.mark.parametrize("name", ["cifar-fast", "cifar-resnet18", "imagenet-rn50-16"])
def test_what_is_compiled_is_one_graph(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.compile
    graphs, images = Graphs(), torch.zeros((2, 3, 32, 32), dtype=torch.uint8)
    network = new_network(recipe, 10, 0).train()
    logits = graphs.compiled(Forward(network, CPU))(images)
    assert logits.shape == (2, 10)
    assert graphs == [(2, 3, 32, 32)]

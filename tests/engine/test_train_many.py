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
from tamis.training import stepping
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

    _compile = staticmethod(torch.compile)

    def compile(self, module: nn.Module, **options: Any) -> Any:
        """In place of torch's; what cannot be compiled as one graph is an error."""
        return self._compile(module, backend=self._take, fullgraph=True, **options)

    def _take(self, graph: Any, inputs: list[Tensor]) -> Any:
        self.extend(tuple(one.shape) for one in inputs if one.dtype == torch.uint8)
        return graph.forward


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """What is compiled from now on, as on a GPU."""
    torch.compiler.reset()
    made = Graphs()
    monkeypatch.setattr(torch, "compile", made.compile)
    monkeypatch.setattr("tamis.training.stepping._is_compiled", lambda recipe, device: True)
    return made


def test_runs_of_all_sizes_share_what_is_compiled(
    digits_bundle: Path, request: pytest.FixtureRequest
) -> None:
    bundle = open_bundle(digits_bundle)
    ids = bundle.example_ids
    fast = replace(RECIPES["cifar-fast"], epochs=1, width=4, resolution=16, batch_size=64)
    specs = [
        TrainSpec(fast, ids[:size], RunOptions(seed=seed))
        for seed, size in enumerate([130, 70, 64, 40, 131, 130])
    ]
    plain = list(train_many(bundle, bundle, specs, CPU))
    graphs = request.getfixturevalue("graphs")
    found = list(train_many(bundle, bundle, specs, CPU))
    assert [one.epoch_losses for one in found] == [one.epoch_losses for one in plain]
    assert graphs == [(64, 3, 16, 16)]
    # One batch, and not a full one: nothing was compiled for it.
    assert found[3].compile_seconds == 0 < found[0].compile_seconds


class Doubled(nn.Module):
    """Has one code, as networks' forward passes have."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2


def test_a_process_compiles_for_more_shapes_than_torch_would(graphs: Graphs) -> None:
    shapes = [(size, 3, 8, 8) for size in range(2, 20)]  # torch stops after eight
    for shape in shapes:
        stepping._compiled(Doubled())(torch.zeros(shape, dtype=torch.uint8))
    assert graphs == shapes


@pytest.mark.parametrize("name", ["cifar-fast", "cifar-resnet18", "imagenet-rn18-16"])
def test_what_is_compiled_is_one_graph(name: str, graphs: Graphs) -> None:
    recipe = RECIPES[name]
    assert recipe.compile
    images = torch.zeros((2, 3, 32, 32), dtype=torch.uint8)
    logits = torch.compile(Forward(new_network(recipe, 10, 0).train(), CPU))(images)
    assert logits.shape == (2, 10)
    assert graphs == [(2, 3, 32, 32)]

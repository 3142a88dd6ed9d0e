"""Every recipe takes its steps, if only a few and on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tamis.bundles.opening import open_bundle
from tamis.errors import WorkFailedError
from tamis.training.recipes import RECIPES, get_recipe
from tamis.training.runs import RunOptions, train_on_bundle

# Of a family that differs in its epochs alone, one stands for all.
FAMILIES = (
    "small",
    "digits",
    "cifar-fast",
    "cifar-resnet18",
    "imagenet-rn18-16",
    "imagenet-rn50-16",
)
TINY: dict[str, dict[str, Any]] = {
    "small": {"width": 4},
    "digits": {},
    "cifar-fast": {"width": 4},
    "cifar-resnet18": {"resolution": 16},
    "imagenet-rn18-16": {"resolution": 64, "start_resolution": 32, "test_resolution": 64},
    "imagenet-rn50-16": {"resolution": 64, "start_resolution": 32, "test_resolution": 64},
}


def test_the_families_are_all_there_is() -> None:
    assert {name.removesuffix(f"-{RECIPES[name].epochs}") for name in RECIPES} == {
        name.removesuffix("-16") for name in FAMILIES
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_trains_and_tests(sample_bundle: Path, name: str) -> None:
    bundle = open_bundle(sample_bundle)
    recipe = get_recipe(name, {"epochs": 2, **TINY[name], "batch_size": 6})
    trained, record = train_on_bundle(
        bundle, bundle, recipe, RunOptions(budget="epochs"), device=torch.device("cpu")
    )
    assert record.steps == 2 * -(-bundle.n_examples // 6)
    assert record.examples_seen == 2 * bundle.n_examples
    assert len(record.epoch_losses) == 2
    assert 0 <= record.test_accuracy <= record.test_accuracy_top5 <= 1
    assert trained.model.config["network"] == recipe.network


def test_a_batch_of_one_that_norms_cannot_take_is_explained(sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    alone = {"resolution": 8, "epochs": 1, "batch_size": bundle.n_examples - 1}
    with pytest.raises(WorkFailedError, match="found a batch of one; pass another --set batch_"):
        train_on_bundle(
            bundle, bundle, get_recipe("cifar-resnet18", alone), device=torch.device("cpu")
        )

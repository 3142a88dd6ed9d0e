"""Trainings on a GPU: compiled, resumed, many, and what they are compared with on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tamis.bundles.bundle import Bundle
from tamis.bundles.opening import open_bundle
from tamis.errors import InterruptedRunError
from tamis.training.interrupting import StopRequest
from tamis.training.loop import Extras
from tamis.training.many import TrainSpec, train_many
from tamis.training.recipes import RECIPES
from tamis.training.runs import Keeping, RunOptions, train_on_bundle
from tamis.training.workers import Workers

# torch's own, of what it imports to compile.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")]

GPU = torch.device("cuda", 0)
DIGITS = replace(RECIPES["digits"], epochs=4)
FAST = replace(
    RECIPES["cifar-fast"], epochs=4, width=16, resolution=16, batch_size=100, translate=0,
    flip=False, alternating_flip=False, flip_test=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.mark.parametrize("recipe", [DIGITS, replace(DIGITS, compile=True), FAST],
                         ids=["plain", "compiled", "fast"])  # fmt: skip
def test_a_recipe_learns(bundle: Bundle, recipe: object) -> None:
    assert isinstance(recipe, type(DIGITS))
    trained, record = train_on_bundle(bundle, bundle, recipe, device=GPU)
    assert next(trained.model.parameters()).device == GPU
    assert record.test_accuracy > 0.95
    assert (record.compile_seconds > 0) == recipe.compile
    assert record.environment["precision"] == "bfloat16"


def test_many_runs_compile_once(bundle: Bundle) -> None:
    specs = [TrainSpec(FAST, options=RunOptions(seed=seed)) for seed in range(3)]
    first, second, third = train_many(bundle, bundle, specs, GPU)
    assert second.compile_seconds < first.compile_seconds / 5
    assert first.epoch_losses != third.epoch_losses
    alone = train_on_bundle(bundle, bundle, FAST, RunOptions(seed=1), device=GPU)[1]
    assert second.epoch_losses == pytest.approx(alone.epoch_losses, rel=0.05)


def test_an_interrupted_run_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    class StopAfter(StopRequest):
        left = 30

        def asked(self, workers: Workers) -> bool:
            self.left -= 1
            self.name = "SIGTERM"
            return self.left == 0

    options = RunOptions(keeping=Keeping(tmp_path / "c.pt"))
    stopped = replace(options, extras=Extras(stop=StopAfter()))
    with pytest.raises(InterruptedRunError):
        train_on_bundle(bundle, bundle, FAST, stopped, device=GPU)
    resumed = replace(options, keeping=Keeping(tmp_path / "c.pt", resume=True))
    found = train_on_bundle(bundle, bundle, FAST, resumed, device=GPU)[1]
    whole = train_on_bundle(bundle, bundle, FAST, device=GPU)[1]
    assert found.steps == whole.steps
    assert found.epoch_losses == pytest.approx(whole.epoch_losses, rel=0.05)


def test_dynamic_pruning_runs_there_too(bundle: Bundle) -> None:
    recipe = replace(DIGITS, epochs=8)
    record = train_on_bundle(bundle, bundle, recipe, RunOptions(dynamic=0.5), device=GPU)[1]
    assert record.test_accuracy > 0.95
    assert record.examples_seen < 8 * bundle.n_examples * 0.9

"""Dynamic pruning: what it leaves out, and that gradients stay what they were on average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from loading import epoch, ids_of, memory_loader, noise
from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError
from tamis.loaders.opening import open_loader
from tamis.training.dynamic import DynamicPruning
from tamis.training.recipes import RECIPES
from tamis.training.runs import RunOptions, train_on_bundle

CPU = torch.device("cpu")
IDS = np.array([9, 4, 70, 2, 33, 8, 5, 21])
LOSSES = np.array([0.1, 2.0, 0.2, 1.5, 0.05, 0.3, 3.0, 0.4], np.float32)


def after_one_epoch(ratio: float, seed: int) -> DynamicPruning:
    made = DynamicPruning(IDS, ratio, seed, CPU)
    assert made.begin(0, 1000) is None
    assert torch.equal(made.weighted(IDS, torch.ones(8)), torch.ones(8))
    made.weighted(IDS[:5], torch.from_numpy(LOSSES[:5]))
    made.weighted(IDS[5:], torch.from_numpy(LOSSES[5:]))
    return made


def test_the_expected_gradient_is_that_of_the_whole_set() -> None:
    gradients = np.random.default_rng(0).normal(size=(8, 3))
    total, draws = np.zeros(3), 4000
    for seed in range(draws):
        made = after_one_epoch(0.6, seed)
        shown = made.begin(1, 1000)
        assert shown is not None
        rows = np.flatnonzero(np.isin(IDS, shown))
        weights = made.weighted(IDS[rows], torch.ones(len(rows))).numpy()
        total += weights @ gradients[rows]
    # Deviation of the mean: √(Σ g² r / (1 − r) / draws), at most 0.05 here.
    assert total / draws == pytest.approx(gradients.sum(axis=0), abs=0.2)


def test_only_what_lies_below_the_mean_is_left_out_and_weighs_more() -> None:
    easy = set(IDS[LOSSES.mean() > LOSSES].tolist())
    for seed in range(50):
        made = after_one_epoch(0.5, seed)
        shown = made.begin(1, 1000)
        assert shown is not None
        assert set(IDS.tolist()) - set(shown.tolist()) <= easy
        weights = made.weighted(shown, torch.ones(len(shown))).numpy()
        assert weights.tolist() == [2.0 if one in easy else 1.0 for one in shown.tolist()]
        same = DynamicPruning(IDS, 0.5, seed, CPU)
        same.load_state_dict(made.state_dict())
        again = same.shown(1)
        assert again is not None
        assert np.array_equal(again, shown)


def test_the_last_eighth_shows_everything() -> None:
    made = after_one_epoch(0.9, 0)
    assert made.begin(1, 8) is not None
    assert made.begin(7, 8) is None
    assert after_one_epoch(0.0, 0).begin(1, 8) is None


def test_a_ratio_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match="--dynamic: expected 0 ≤ ratio < 1"):
        DynamicPruning(IDS, 1.0, 0, CPU)


def test_loaders_show_the_rest_in_the_order_of_all(digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    images = noise(100, 4)
    asked: dict[str, Any] = {"batch_size": 64, "resolution": 8, "mode": "train", "seed": 3}
    for loader, ids in (
        (memory_loader(images, 16, seed=3), images.example_ids),
        (open_loader(bundle, backend="ffcv", **asked), bundle.example_ids),
        (open_loader(bundle, backend="dali", **asked), bundle.example_ids),
    ):
        whole = ids_of(epoch(loader, 2))
        only = np.sort(ids)[::3]
        loader.restrict(only)
        assert len(loader) == -(-len(only) // loader.batch_size)
        kept = set(only.tolist())
        assert ids_of(epoch(loader, 2)) == [one for one in whole if one in kept]
        loader.restrict(None)
        assert ids_of(epoch(loader, 2)) == whole


@pytest.mark.parametrize("loader", ["memory", "ffcv", "dali"])
def test_a_training_takes_fewer_steps_and_learns_all_the_same(
    digits_bundle: Path, loader: str
) -> None:
    bundle = open_bundle(digits_bundle)
    recipe = replace(RECIPES["digits"], epochs=8, width=8)
    shown: list[tuple[int, NDArray[np.int64]]] = []

    class Recorder:
        def on_batch(
            self, epoch: int, example_ids: NDArray[np.int64], labels: object, logits: object
        ) -> None:
            shown.append((epoch, example_ids))

        def on_epoch_end(self, epoch: int, model: object) -> None:
            pass

    options = RunOptions(dynamic=0.5)
    _, record = train_on_bundle(
        bundle, bundle, recipe, options, loader=loader, device=CPU, observer=Recorder()
    )
    per_epoch = [sum(len(ids) for e, ids in shown if e == number) for number in range(8)]
    n = bundle.n_examples
    assert per_epoch[0] == per_epoch[7] == n
    assert all(0.5 * n < count < 0.85 * n for count in per_epoch[2:7])
    assert record.examples_seen == sum(per_epoch)
    assert record.steps == sum(-(-count // recipe.batch_size) for count in per_epoch)
    assert record.dynamic == 0.5
    assert record.test_accuracy > 0.97

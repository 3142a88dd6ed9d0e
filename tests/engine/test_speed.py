"""How fast a device is said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.loaders.batch import Loader
from tamis.metrics.speed import measure_speed
from tamis.training.loop import train
from tamis.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("n", "batch_size", "seconds_a_step", "shown"),
    [
        (1200, 16, 0.1, [(16, 1024)]),
        (400, 64, 0.1, [(64, 384)]),
        (400, 300, 0.3, [(64, 384)]),  # a part, on a CPU
        (400, 300, 0.2, [(64, 384), (80, 400)]),  # a larger one takes it a quarter of a second
        (400, 300, 0.01, [(64, 384), (300, 300)]),
        (40, 64, 0.1, [(64, 40)]),
    ],
)
def test_it_is_measured_in_batches_of_one_size(
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    batch_size: int,
    seconds_a_step: float,
    shown: list[tuple[int, int]],
) -> None:
    cut(open_bundle(digits_bundle), tmp_path / "part.beton", np.arange(n))
    seen: list[tuple[int, int]] = []

    def watched(loader: Loader, *args: Any, **options: Any) -> Any:
        seen.append((loader.batch_size, loader.n_examples))
        trained = train(loader, *args, **options)
        seconds = trained.steps * seconds_a_step
        return replace(trained, seconds=seconds, compile_seconds=9.0 / len(seen))

    monkeypatch.setattr("tamis.metrics.speed.train", watched)
    recipe = replace(RECIPES["digits"], width=4, batch_size=batch_size)
    bundle = open_bundle(tmp_path / "part.beton")
    speed = measure_speed(bundle, recipe, torch.device("cpu"), in_memory=True)
    assert seen == [one for one in shown for _ in range(2)]
    assert speed.step == pytest.approx(seconds_a_step * batch_size / min(shown[-1]))
    assert speed.compiling == 9  # the first training's

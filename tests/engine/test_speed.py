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
    ("n", "batch_size", "shown", "whole_batches"),
    [
        (1200, 16, (16, 1024), 1.0),
        (400, 64, (64, 384), 1.0),
        (400, 300, (64, 384), 64 / 300),  # in parts, on a CPU
        (40, 64, (64, 40), 40 / 64),
    ],
)
def test_it_is_measured_in_batches_of_one_size(
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    batch_size: int,
    shown: tuple[int, int],
    whole_batches: float,
) -> None:
    cut(open_bundle(digits_bundle), tmp_path / "part.beton", np.arange(n))
    seen: list[tuple[int, int]] = []

    def watched(loader: Loader, *args: Any, **options: Any) -> Any:
        seen.append((loader.batch_size, loader.n_examples))
        trained = train(loader, *args, **options)
        return replace(trained, seconds=float(trained.steps), compile_seconds=9.0 / len(seen))

    monkeypatch.setattr("tamis.metrics.speed.train", watched)
    recipe = replace(RECIPES["digits"], width=4, batch_size=batch_size)
    bundle = open_bundle(tmp_path / "part.beton")
    speed = measure_speed(bundle, recipe, torch.device("cpu"), in_memory=True)
    assert seen == [shown, shown]
    assert speed.step == pytest.approx(1 / whole_batches)
    assert speed.compiling == 9  # the first training's

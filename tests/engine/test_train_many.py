"""Many runs of one trainer are those that each would have been alone."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.training.many import TrainSpec, train_many
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

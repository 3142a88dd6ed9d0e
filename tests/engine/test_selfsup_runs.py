"""Encoders trained without labels as runs of their own: probe, record, use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.encoders.opening import open_encoder
from tamis.errors import UsageError
from tamis.sources.opening import open_source
from tamis.training.checkpoints import load_checkpoint, write_run
from tamis.training.probe import linear_probe
from tamis.training.recipes import RECIPES
from tamis.training.selfsup import SelfsupSettings
from tamis.training.selfsup_runs import train_encoder_on_bundle

CPU = torch.device("cpu")
RECIPE = replace(RECIPES["digits"], width=8)


@pytest.fixture(scope="module")
def testing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("test") / "test.beton"
    convert(open_source("digits:test"), path)
    return open_bundle(path)


def test_a_probe_finds_what_is_linear_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(600, 5)) * [1, 100, 1, 1, 1]).astype(np.float32)
    linear = (rows[:, 0] > 0).astype(np.int64)
    noise = rng.integers(0, 2, 600)
    assert linear_probe(rows[:400], linear[:400], rows[400:], linear[400:]) > 0.95
    assert linear_probe(rows[:400], noise[:400], rows[400:], noise[400:]) < 0.65


def test_an_encoder_learns_without_labels(
    digits_bundle: Path, testing: Bundle, tmp_path: Path
) -> None:
    training = open_bundle(digits_bundle)
    settings = SelfsupSettings(epochs=8)
    model, record = train_encoder_on_bundle(training, testing, RECIPE, settings, device=CPU)
    assert record.probe_accuracy > record.untrained_probe_accuracy + 0.02
    assert record.n_examples == training.n_examples
    # The labels of the images change the probe, not the network.
    shuffled = replace(training)
    labels = np.random.default_rng(0).permutation(training.labels)
    object.__setattr__(shuffled, "labels", labels)
    brief = SelfsupSettings(epochs=1)
    one, _ = train_encoder_on_bundle(training, testing, RECIPE, brief, device=CPU)
    other, _ = train_encoder_on_bundle(shuffled, testing, RECIPE, brief, device=CPU)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    write_run(tmp_path / "run", record, model)
    assert load_checkpoint(tmp_path / "run", CPU).objective == "selfsup"
    encoder = open_encoder(f"tamis:{tmp_path / 'run'}", CPU)
    assert encoder.provenance()["labels_used"] is False
    written = json.loads((tmp_path / "run" / "record.json").read_text())
    assert written["probe_accuracy"] == record.probe_accuracy


def test_one_class_cannot_be_probed(digits_bundle: Path, testing: Bundle, tmp_path: Path) -> None:
    training = open_bundle(digits_bundle)
    cut(training, tmp_path / "one.beton", training.example_ids[training.labels == 3])
    one = open_bundle(tmp_path / "one.beton")
    with pytest.raises(UsageError, match="expected at least two classes, which the probe"):
        train_encoder_on_bundle(one, testing, RECIPE, SelfsupSettings(epochs=1), device=CPU)

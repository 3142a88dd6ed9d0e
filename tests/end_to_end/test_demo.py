"""The whole line in one call, on real handwritten digits."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tamis.bundles.opening import open_bundle
from tamis.bundles.verify import verify
from tamis.demo import _write_sweep, run_demo
from tamis.errors import UsageError
from tamis.metrics.settings import CampaignSettings
from tamis.selection.files import read_selected_ids
from tamis.training.recipes import get_recipe
from tamis.training.selfsup import SelfsupSettings

SMALLER = {"width": 8, "epochs": 4, "batch_size": 128}


def test_the_demo_leaves_every_artifact_and_a_true_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer and smaller trainings than the demo's, which are most of its minutes.
    few = partial(CampaignSettings, models=1, subset_models=10, selfsup=SelfsupSettings(epochs=5))
    monkeypatch.setattr("tamis.demo.CampaignSettings", few)
    monkeypatch.setattr("tamis.demo.get_recipe", lambda name: get_recipe(name, SMALLER))

    def write_sweep(folder: Path, seeds: int) -> Path:
        spec = _write_sweep(folder, seeds)
        spec.write_text(spec.read_text() + f"set: {json.dumps(SMALLER)}\n")
        return spec

    monkeypatch.setattr("tamis.demo._write_sweep", write_sweep)
    out = tmp_path / "demo"
    report = run_demo(out, seeds=2)
    training, pruned = open_bundle(out / "train.beton"), open_bundle(out / "pruned.beton")
    assert verify(pruned).ok
    assert pruned.lineage[1].digest == training.digest
    kept = read_selected_ids(out / "kept.parquet", training)
    assert pruned.example_ids.tolist() == kept.tolist()
    assert len(kept) == round(0.4 * training.n_examples)
    run = json.loads((out / "run" / "record.json").read_text())
    assert run["n_examples"] == len(kept)
    assert run["full_examples"] == training.n_examples
    lines = (out / "sweep" / "records.jsonl").read_text().splitlines()
    # Three metrics on two sides and random at three fractions, and full: 22 cells, two seeds.
    assert len(lines) == 44
    accuracies = [json.loads(line)["run"]["test_accuracy"] for line in lines]
    with report.csv.open() as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == 22
    assert np.mean([float(row["accuracy"]) for row in rows]) == pytest.approx(np.mean(accuracies))
    full = next(float(row["accuracy"]) for row in rows if row["metric"] == "full")
    # Ten classes of which chance gets a tenth; pruning to a fifth costs accuracy on average.
    assert full > 0.93
    fifth = np.mean([float(row["accuracy"]) for row in rows if row["keep_fraction"] == "0.2"])
    assert 0.5 < fifth < full
    (sentences,) = report.verdicts
    assert sentences[0].startswith("Keeping the hardest")
    # Of nine metrics twelve hardest, twelve easiest, and twelve on which it disagrees.
    page = report.html.read_text()
    assert page.count('class="thumb"') == 9 * 36
    assert 36 <= page.count("data:image/png") < 9 * 36
    assert (out / "sweep" / "table.tex").is_file()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="choose another one with --out"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"

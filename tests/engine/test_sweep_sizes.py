"""Sweeps over initial sets: what is drawn, scored, trained on, and kept."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from command_line import process_command
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError
from tamis.metrics.campaign import score
from tamis.metrics.registry import get_metrics
from tamis.selection.selecting import select
from tamis.sources.opening import open_source
from tamis.sweep.exporting import export_records
from tamis.sweep.grid import initial_set
from tamis.sweep.lines import append_lines
from tamis.sweep.planning import plan_sweep
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import read_records
from tamis.sweep.running import run_sweep
from tamis.sweep.scoring import open_sweep, scoring_seconds

CPU = torch.device("cpu")
SPEC = """
train: train.beton
test: test.beton
metrics: [random, el2n]
scoring:
  models: 1
keep: [1.0, 0.5]
sizes: [1.0, 0.25]
seeds: 1
recipe: [digits, small]
set: {epochs: 2, width: 4, resolution: 8}
"""


@pytest.fixture(scope="module")
def folder(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep in ``done``."""
    root = tmp_path_factory.mktemp("sizes")
    cut(open_bundle(digits_bundle), root / "train.beton", np.arange(400))
    convert(open_source("digits:test"), root / "test.beton")
    (root / "sweep.yaml").write_text(SPEC)
    run_sweep(read_sweep_spec(root / "sweep.yaml"), root / "done", device="cpu")
    return root


def test_every_size_and_recipe_is_trained_on_a_part_of_its_initial_set(folder: Path) -> None:
    records = read_records(folder / "done" / "records.jsonl").values()
    cells = {(r.trial.recipe, r.trial.size, r.trial.metric, r.trial.keep) for r in records}
    kinds = [("full", 1.0), ("random", 0.5), ("el2n", 0.5)]
    assert cells == {
        (r, s, *kind) for r in ("digits", "small") for s in (1, 0.25) for kind in kinds
    }
    assert len(records) == len(cells)
    for record in records:
        trial, run = record.trial, record.run
        assert run["n_examples"] == 400 * trial.size * trial.keep
        assert record.keep_fraction == trial.keep
        # Steps are those of the whole bundle, however small the set.
        assert run["steps"] == 2 * 7
        assert run["recipe"]["name"] == trial.recipe


def test_initial_sets_are_nested_and_do_not_follow_the_order(digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    small, large = initial_set(bundle, 0.1), initial_set(bundle, 0.4)
    assert (len(small), len(large)) == (135, 539)
    assert set(small) < set(large)
    assert list(small) == sorted(small)
    # Uniform: the mean id of 539 of 1,347 lies within four standard errors of the middle.
    error = np.sqrt((1347**2 / 12) / 539 * (1 - 0.4))
    assert abs(large.mean() - 673) < 4 * error


def test_scores_of_a_size_are_those_of_its_initial_set_alone(folder: Path, tmp_path: Path) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml")
    sweep = open_sweep(spec, folder / "done")
    ids = initial_set(sweep.train, 0.25)
    cut(sweep.train, tmp_path / "part.beton", ids)
    alone = score(open_bundle(tmp_path / "part.beton"), get_metrics(["el2n"]), spec.campaign(), CPU)
    found = sweep.table(0.25)
    np.testing.assert_array_equal(found.example_ids, ids)
    np.testing.assert_allclose(
        found.columns["el2n"].values, alone.table.columns["el2n"].values, rtol=1e-4
    )
    trial = next(t for t in sweep.trials if t.metric == "el2n" and t.size < 1)
    kept = select(found, sweep.selection(trial)).example_ids
    assert set(kept) < set(ids)
    seconds = scoring_seconds(folder / "done")
    assert set(seconds) == {1.0, 0.25}
    assert all(value > 0 for value in seconds.values())


def test_seconds_of_scoring_are_summed_and_cut_off_lines_left_out(tmp_path: Path) -> None:
    lines = (
        '{"size": 1.0, "seconds": 2}\n{"size": 0.5, "seconds": 1}\n{"size": 1.0, "seconds": 3}\n'
    )
    (tmp_path / "scoring.jsonl").write_text(lines + '{"size": 1.0, "sec')
    assert scoring_seconds(tmp_path) == {1.0: 5.0, 0.5: 1.0}
    assert scoring_seconds(tmp_path / "none") == {}


def test_further_metrics_are_added_to_the_scores_that_there_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml").model_copy(update={"sizes": [0.25]})
    run_sweep(spec, tmp_path, device="cpu")
    before = open_sweep(spec, tmp_path).table(0.25).columns["el2n"].values
    asked: list[list[str]] = []

    def watch(bundle: Any, metrics: Any, *rest: Any, **named: Any) -> Any:
        asked.append([metric.name for metric in metrics])
        return score(bundle, metrics, *rest, **named)

    monkeypatch.setattr("tamis.sweep.scoring.score", watch)
    more = spec.model_copy(update={"metrics": ["random", "el2n", "aum"]})
    plan = plan_sweep(more, tmp_path, CPU)
    assert (plan.n_trials, plan.n_missing) == (8, 2)
    assert plan.scoring_seconds is not None
    assert plan.scoring_seconds >= 0
    report = run_sweep(more, tmp_path, device="cpu")
    assert report.n_done == 8
    assert asked == [["aum"]]
    columns = open_sweep(more, tmp_path).table(0.25).columns
    np.testing.assert_array_equal(columns["el2n"].values, before)


def test_a_table_that_is_given_serves_every_size(folder: Path, tmp_path: Path) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml")
    given = next((folder / "done" / "scores").glob("size-1-*.parquet"))
    other = spec.model_copy(update={"scores": given, "scoring": None})
    whole, part = (open_sweep(other, tmp_path).table(size) for size in (1.0, 0.25))
    rows = np.isin(whole.example_ids, part.example_ids)
    assert len(part.example_ids) == 100
    np.testing.assert_array_equal(whole.columns["el2n"].values[rows], part.columns["el2n"].values)
    assert plan_sweep(other, tmp_path, None).n_missing == 12


def test_a_plan_estimates_and_counts(folder: Path, tmp_path: Path) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml")
    plan = plan_sweep(spec, tmp_path / "new", CPU)
    assert (plan.n_trials, plan.n_done, plan.n_missing, plan.n_sets) == (12, 0, 12, 6)
    assert plan.steps == 12 * 14
    assert plan.seconds is not None
    assert plan.scoring_seconds is not None
    assert plan.seconds > 0
    assert plan.scoring_seconds > 0
    assert plan.memory_bytes == 2 * (400 + 450) * 3 * 8 * 8
    assert not (tmp_path / "new").exists()
    done = plan_sweep(spec, folder / "done", None)
    assert (done.n_missing, done.steps, done.seconds) == (0, 0, None)


def test_records_become_one_table(folder: Path, tmp_path: Path) -> None:
    assert export_records(folder / "done", tmp_path / "all.parquet") == 12
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    records = read_records(folder / "done" / "records.jsonl")
    assert {row["key"] for row in table} == set(records)
    for row in table:
        record = records[row["key"]]
        assert row["test_accuracy"] == record.run["test_accuracy"]
        assert (row["size"], row["recipe"]) == (record.trial.size, record.trial.recipe)
        assert row["epoch_losses"] == record.run["epoch_losses"]
    with pytest.raises(UsageError, match="run first: tamis sweep"):
        export_records(tmp_path, tmp_path / "none.parquet")


def test_trackers_are_told_of_every_trial_once(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = read_sweep_spec(folder / "sweep.yaml")
    for _ in range(2):  # what finished before is told, too, and only once
        run_sweep(spec, folder / "done", device="cpu", track="tensorboard")
    records = read_records(folder / "done" / "records.jsonl")
    told = sorted((folder / "done" / "tracking").iterdir())
    assert {path.name.rpartition("-")[2] for path in told} == set(records)
    for path in told:
        assert len(list(path.iterdir())) == 1
        curves = EventAccumulator(str(path))
        curves.Reload()
        (event,) = curves.Scalars("test/accuracy")
        record = records[path.name.rpartition("-")[2]]
        assert event.value == pytest.approx(record.run["test_accuracy"])
        assert "_hparams_/session_start_info" in curves.PluginTagToContent("hparams")


def test_one_sweep_at_a_time_in_a_folder(folder: Path, tmp_path: Path) -> None:
    with (
        append_lines(tmp_path / "records.jsonl"),
        pytest.raises(UsageError, match="another sweep that is writing it now"),
    ):
        run_sweep(read_sweep_spec(folder / "sweep.yaml"), tmp_path, device="cpu")


def test_kill_9_at_any_moment_loses_no_finished_trial_and_doubles_none(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(
        f"train: {folder}/train.beton\ntest: {folder}/test.beton\nmetrics: [random]\n"
        "keep: [1, 0.5]\nsizes: [1, 0.5]\nseeds: 6\nrecipe: digits\nset: {epochs: 1, width: 4}\n"
    )
    lines = tmp_path / "out" / "records.jsonl"
    command = process_command(
        "sweep", tmp_path / "sweep.yaml", "--out", lines.parent, "--resume", "--device", "cpu"
    )
    luck, finished = random.Random(0), 0
    for _ in range(2):
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while running.poll() is None and count(lines) < finished + 2:
            time.sleep(0.005)
        time.sleep(luck.random() * 0.2)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        before, finished = finished, count(lines)
        assert before + 2 <= finished < 24
    kept = lines.read_bytes()[: lines.read_bytes().rfind(b"\n") + 1]
    report = run_sweep(read_sweep_spec(tmp_path / "sweep.yaml"), lines.parent, device="cpu")
    assert (report.n_done, report.n_failed) == (24, 0)
    assert lines.read_bytes().startswith(kept)
    found = read_records(lines)
    assert count(lines) == len(found) == 24
    sweep = open_sweep(read_sweep_spec(tmp_path / "sweep.yaml"), lines.parent)
    assert set(found) == {sweep.key(trial) for trial in sweep.trials}


def count(lines: Path) -> int:
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("sizes: [1, 0]", "line 9: sizes, entry 2: expected greater than 0, found 0"),
        ("sizes: []", "line 9: sizes: expected at least one entry"),
        ("sizes: [0.5, 0.5]", "sizes: expected every entry once"),
        ("recipe: [digits, digits]", "recipe: expected every entry once"),
        ("scoring: {modles: 3}", "line 9: expected the keys recipe, .* did you mean models"),
        ("scoring:\n  models: 0", "line 10: models: expected greater than or equal to 1, found 0"),
        ("scores: a.parquet\nscoring: {models: 2}", "line 10: scoring: expected either scores"),
    ],
)
def test_wrong_sizes_and_scoring_name_the_line(tmp_path: Path, lines: str, message: str) -> None:
    spec = "\ntrain: a.beton\ntest: b.beton\nmetrics:\n  - random\nkeep:\n  - 1\n  - 0.5\n"
    (tmp_path / "sweep.yaml").write_text(spec + lines + "\n")
    with pytest.raises(UsageError, match=message) as caught:
        read_sweep_spec(tmp_path / "sweep.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["el3n"]}, "expected .*el2n"),
        ({"sizes": [0.001]}, "at least one of the 400 examples in every set"),
        ({"recipe": ["finetune"]}, "one that begins with a fresh network"),
        ({"recipe": ["digits", "smal"]}, "recipe"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_trial(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml").model_copy(update={"set": {}, **change})
    with pytest.raises(UsageError, match=message):
        run_sweep(spec, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()

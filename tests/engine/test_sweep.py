"""Sweeps: the grid, what a second call runs, and what a crash leaves."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from sample_images import write_digits
from tamis.bundles.opening import open_bundle
from tamis.errors import (
    BundleError,
    ScoreTableError,
    TamisError,
    UsageError,
    WorkFailedError,
)
from tamis.score_table import ScoreColumn, ScoreTable, write_score_table
from tamis.sweep.grid import Sweep
from tamis.sweep.planning import plan_sweep
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import TrialRecord, read_records
from tamis.sweep.running import run_sweep
from tamis.sweep.spec import SweepSpec
from tamis.training.runs import run_training

SPEC = """
train: train.beton
test: test.beton
scores: scores.parquet
metrics: [random, el2n]
keep: [1.0, 0.3]
side: [hard, easy]
class_balance: 0.5
seeds: 2
recipe: digits
set: {epochs: 1, width: 4}
budget: epochs
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles, a score table that knows the label, and sweep.yaml."""
    root = tmp_path_factory.mktemp("sweep")
    write_digits(root)
    bundle = open_bundle(root / "train.beton")
    scores = bundle.labels + np.random.default_rng(0).random(bundle.n_examples)
    table = ScoreTable(
        bundle.digest,
        bundle.example_ids,
        bundle.labels.astype(np.int32),
        [None] * bundle.n_examples,
        {"el2n": ScoreColumn(scores.astype(np.float32))},
    )
    write_score_table(table, root / "scores.parquet")
    (root / "sweep.yaml").write_text(SPEC)
    return root


@pytest.fixture(scope="module")
def finished(folder: Path) -> dict[str, TrialRecord]:
    run_sweep(read_sweep_spec(folder / "sweep.yaml"), folder / "done")
    return read_records(folder / "done" / "records.jsonl")


def test_the_grid_is_complete_and_trains_the_full_set_once_a_seed(
    folder: Path, finished: dict[str, TrialRecord]
) -> None:
    cells = {(r.trial.metric, r.trial.side, r.trial.keep, r.trial.seed) for r in finished.values()}
    kinds = [("full", "full", 1.0), ("random", "random", 0.3), ("el2n", "hard", 0.3)]
    kinds.append(("el2n", "easy", 0.3))
    assert cells == {(*kind, seed) for kind in kinds for seed in (0, 1)}
    assert len(finished) == 8


def test_records_say_what_was_kept(finished: dict[str, TrialRecord], folder: Path) -> None:
    sizes = np.bincount(open_bundle(folder / "train.beton").labels)
    for record in finished.values():
        kept = sum(record.per_class_kept.values())
        assert kept == record.run["n_examples"] == round(record.trial.keep * sizes.sum())
        assert record.keep_fraction == kept / sizes.sum()
        if record.trial.keep < 1:
            # Half of an equal share is every class's floor, whatever the scores.
            floor = np.ceil(0.5 * kept * sizes / sizes.sum())
            assert all(record.per_class_kept[str(c)] >= floor[c] for c in range(10))
        steps = -(-kept // 64)
        assert record.run["steps"] == steps
    # These scores rise with the label: hard keeps all of the nines it may.
    hard = next(r for r in finished.values() if r.trial.side == "hard")
    easy = next(r for r in finished.values() if r.trial.side == "easy")
    assert hard.per_class_kept["9"] > 2 * hard.per_class_kept["0"]
    assert easy.per_class_kept["0"] > 2 * easy.per_class_kept["9"]


def test_a_second_call_runs_only_what_is_missing(
    folder: Path, finished: dict[str, TrialRecord], tmp_path: Path
) -> None:
    lines = (folder / "done" / "records.jsonl").read_text().splitlines()
    # Two records are gone, and the crash cut a third one short.
    (tmp_path / "records.jsonl").write_text("\n".join(lines[:5]) + "\n" + lines[5][:200])
    spec = read_sweep_spec(folder / "sweep.yaml")
    plan = plan_sweep(spec, tmp_path, None)
    assert (plan.n_trials, plan.n_done, plan.n_missing) == (8, 5, 3)
    report = run_sweep(spec, tmp_path)
    assert (report.n_trials, report.n_done, report.n_failed) == (8, 8, 0)
    written = (tmp_path / "records.jsonl").read_text().splitlines()
    assert written[:5] == lines[:5]
    assert len(written) == 8
    again = read_records(tmp_path / "records.jsonl")
    assert again.keys() == finished.keys()
    for key, record in again.items():
        assert record.run["test_accuracy"] == finished[key].run["test_accuracy"]


def test_worker_processes_give_the_same_trials(
    folder: Path, finished: dict[str, TrialRecord], tmp_path: Path
) -> None:
    report = run_sweep(read_sweep_spec(folder / "sweep.yaml"), tmp_path, workers=2)
    assert report.n_done == 8
    found = read_records(report.records)
    assert found.keys() == finished.keys()
    for key, record in found.items():
        assert record.per_class_kept == finished[key].per_class_kept
        # Fewer threads add in another order.
        expected = finished[key].run["test_accuracy"]
        assert record.run["test_accuracy"] == pytest.approx(expected, abs=0.08)


def test_keys_change_with_whatever_decides_the_result(folder: Path) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml")
    base = Sweep(spec)
    keys = [base.key(trial) for trial in base.trials]
    assert len(set(keys)) == len(keys)
    for change in ({"set": {"epochs": 2, "width": 4}}, {"budget": ["steps"]}):
        other = Sweep(spec.model_copy(update=change))
        assert not {other.key(trial) for trial in other.trials} & set(keys)
    balanced = Sweep(spec.model_copy(update={"class_balance": 1.0}))
    common = {balanced.key(trial) for trial in balanced.trials} & set(keys)
    assert common == {key for key, t in zip(keys, base.trials, strict=True) if t.metric == "full"}


def test_a_failing_trial_leaves_no_record_and_the_others_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_on_seed_one(*args: object, **options: object) -> object:
        if args[3].seed == 1:  # type: ignore[attr-defined]
            raise WorkFailedError("loss", expected="finite", found="nan", do="nothing")
        return run_training(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("tamis.training.many.run_training", fails_on_seed_one)
    report = run_sweep(read_sweep_spec(folder / "sweep.yaml"), tmp_path)
    assert (report.n_done, report.n_failed) == (4, 4)
    assert {record.trial.seed for record in read_records(report.records).values()} == {0}
    assert "expected finite" in report.failures[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": "[0.5, 0.0]"}, "keep, entry 2: expected greater than 0, found 0.0"),
        ({"keep": "[1.5]"}, "keep, entry 1: expected less than or equal to 1, found 1.5"),
        ({"metrics": "[]"}, "metrics: expected at least one entry"),
        (
            {"side": "[middle]"},
            "side, entry 1: expected 'hard', 'easy', 'stratified' or 'moderate', found 'middle'",
        ),
        ({"seeds": "0"}, "seeds: expected greater than or equal to 1, found 0"),
        (
            {"epochs": "5"},
            "expected the keys train, test.*, found the unknown key epochs; remove it",
        ),
        ({"budget": "hours"}, "budget, entry 1: expected 'steps' or 'epochs', found 'hours'"),
        ({"metrics": "[random]", "seed": "5"}, "unknown key seed; did you mean seeds?"),
        ({"train": "[1, 2"}, "expected a YAML file"),
        ({"train": ""}, "train: expected a path, found None"),
        ({"set": "{1: 2}"}, "set: expected a valid string"),
        ({"5": "3"}, "expected keys and values, as 'seeds: 5', found 5"),
        ({"recipe": "2020-13-45"}, "expected a YAML file, found month must be in 1..12"),
        ({"seeds": "9" * 5000}, "expected a YAML file, found Exceeds the limit"),
    ],
)
def test_wrong_sweep_files_name_the_key(
    folder: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    lines = [line for line in SPEC.strip().splitlines() if line.split(":")[0] not in change]
    lines += [f"{key}: {value}" for key, value in change.items()]
    (tmp_path / "sweep.yaml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=message) as caught:
        read_sweep_spec(tmp_path / "sweep.yaml")
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_before_any_trial(
    folder: Path, sample_bundle: Path, tmp_path: Path
) -> None:
    spec = read_sweep_spec(folder / "sweep.yaml")
    cases: list[tuple[dict[str, object], type[TamisError], str]] = [
        ({"train": sample_bundle}, BundleError, "training bundle's"),
        ({"train": folder / "test.beton"}, ScoreTableError, "scores of another bundle"),
        ({"test": tmp_path / "none.beton"}, BundleError, "found no file"),
        ({"metrics": ["loss"]}, ScoreTableError, "metrics: el2n, found loss"),
        ({"recipe": "big"}, UsageError, "expected small or digits"),
    ]
    for change, kind, message in cases:
        with pytest.raises(kind, match=message):
            run_sweep(spec.model_copy(update=change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_in_the_middle_is_named(
    finished: dict[str, TrialRecord], tmp_path: Path
) -> None:
    line = json.dumps(asdict(next(iter(finished.values()))))
    (tmp_path / "records.jsonl").write_text(f"{line}\n{line[:50]}\n{line}\n")
    with pytest.raises(UsageError, match="line 2: expected a trial record"):
        read_records(tmp_path / "records.jsonl")


def test_the_spec_in_the_folder_is_the_one_that_ran(
    folder: Path, finished: dict[str, TrialRecord]
) -> None:
    written = SweepSpec.model_validate_json((folder / "done" / "sweep.json").read_text())
    assert written == read_sweep_spec(folder / "sweep.yaml")


def test_trials_that_fail_are_reported_alike_by_workers(folder: Path, tmp_path: Path) -> None:
    wild = {"set": {"epochs": 3, "width": 4, "learning_rate": 1e30}, "seeds": 1}
    spec = read_sweep_spec(folder / "sweep.yaml").model_copy(update=wild)
    for workers in (1, 2):
        report = run_sweep(spec, tmp_path / f"out{workers}", workers=workers)
        assert (report.n_done, report.n_failed) == (0, 4)
        assert all("expected a finite training loss" in line for line in report.failures)


def test_errors_keep_their_parts_between_processes() -> None:
    error = ScoreTableError("a table", expected="this", found="that", do="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (ScoreTableError, str(error))
    assert copy.do == "mend it"

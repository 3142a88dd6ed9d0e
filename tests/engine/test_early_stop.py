"""Trials that a sweep gives up: which, when, and what is left of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError
from tamis.loaders.opening import open_loader
from tamis.report.page import write_report
from tamis.scaling.points import read_points
from tamis.sources.opening import open_source
from tamis.sweep.planning import plan_sweep
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import Trial, TrialRecord, read_records
from tamis.sweep.results import read_results
from tamis.sweep.runner import Runner
from tamis.sweep.running import run_sweep
from tamis.sweep.spec import EarlyStopRule, SweepSpec
from tamis.sweep.stopping import STOPPED, StoppedTrial, read_stopped
from tamis.training.evaluation import evaluate
from tamis.training.loop import Seeds, n_steps, train
from tamis.training.runs import loader_settings

CPU = torch.device("cpu")
SPEC = """
train: train.beton
test: test.beton
metrics: [random]
keep: [1.0, 0.3, 0.05]
seeds: 2
recipe: digits
set: {epochs: 4, width: 4}
budget: epochs
"""
AFTER = 0.4  # of four epochs: after the second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles, and sweep.yaml without a rule."""
    root = tmp_path_factory.mktemp("early")
    for part in ("train", "test"):
        convert(open_source(f"digits:{part}"), root / f"{part}.beton")
    (root / "sweep.yaml").write_text(SPEC)
    return root


@pytest.fixture(scope="module")
def spec(folder: Path) -> SweepSpec:
    return read_sweep_spec(folder / "sweep.yaml")


def _with(spec: SweepSpec, below: float | None, after: float = AFTER) -> SweepSpec:
    rule = None if below is None else EarlyStopRule(after=after, below=below)
    return spec.model_copy(update={"stop_early": rule})


def _numbers(records: dict[str, TrialRecord]) -> dict[str, tuple[object, ...]]:
    names = ("test_accuracy", "test_loss", "epoch_losses", "steps", "per_class_accuracy")
    return {key: tuple(one.run[name] for name in names) for key, one in records.items()}


@pytest.fixture(scope="module")
def finished(folder: Path, spec: SweepSpec) -> dict[str, TrialRecord]:
    """All trials, to their end."""
    return read_records(run_sweep(spec, folder / "all", device="cpu").records)


@pytest.fixture(scope="module")
def judged(folder: Path, spec: SweepSpec) -> dict[str, StoppedTrial]:
    """All trials, each given up where it is judged."""
    report = run_sweep(_with(spec, 1.0), folder / "none", device="cpu")
    assert (report.n_done, report.n_stopped, report.n_failed) == (0, 6, 0)
    assert report.records.read_text() == ""
    return _stopped(folder / "none")


def _stopped(folder: Path) -> dict[str, StoppedTrial]:
    lines = (folder / STOPPED).read_text().splitlines()
    found = [
        StoppedTrial(**{**(raw := json.loads(x)), "trial": Trial(**raw["trial"])}) for x in lines
    ]
    assert len({one.key for one in found}) == len(found)
    return {one.key: one for one in found}


@pytest.fixture(scope="module")
def threshold(judged: dict[str, StoppedTrial]) -> float:
    """An accuracy that one seed of some cell has and the other has not, and that others have."""
    values = sorted(one.accuracy for one in judged.values())
    assert len(set(values)) > 3
    return values[3]


@pytest.fixture(scope="module")
def some(folder: Path, spec: SweepSpec, threshold: float) -> Path:
    """A sweep of which some trials were given up."""
    report = run_sweep(_with(spec, threshold), folder / "some", device="cpu")
    assert (report.n_done, report.n_stopped, report.n_failed) == (3, 3, 0)
    return folder / "some"


def test_accuracy_is_that_of_a_training_that_ends_there(
    spec: SweepSpec, judged: dict[str, StoppedTrial]
) -> None:
    one = next(one for one in judged.values() if one.trial.side == "full" and one.trial.seed == 1)
    recipe, training = spec.recipes()[0], open_bundle(spec.train)
    seeds = Seeds.from_one(1)
    settings = loader_settings(recipe, seeds)
    trained = train(
        open_loader(
            training,
            batch_size=settings.batch_size,
            resolution=8,
            mode="train",
            seed=settings.seed,
            augmentation=settings.augmentation,
        ),
        recipe,
        10,
        steps=n_steps(training.n_examples, training.n_examples, recipe, "epochs"),
        seeds=seeds,
        device=CPU,
        stop_after=2,
    )
    tests = open_loader(open_bundle(spec.test), batch_size=64, resolution=8)
    assert one.accuracy == evaluate(trained.model, tests, 10, CPU).accuracy
    assert {one.epochs for one in judged.values()} == {2}


@pytest.mark.parametrize("workers", [1, 2])
def test_those_below_are_given_up_and_the_others_are_as_ever(
    folder: Path,
    spec: SweepSpec,
    finished: dict[str, TrialRecord],
    judged: dict[str, StoppedTrial],
    threshold: float,
    workers: int,
) -> None:
    out = folder / f"by{workers}"
    report = run_sweep(_with(spec, threshold), out, device="cpu", workers=workers)
    expected = {key for key, one in judged.items() if one.accuracy < threshold}
    assert len(expected) == 3 == report.n_stopped
    found = _stopped(out)
    assert found.keys() == expected
    assert {key: one.accuracy for key, one in found.items()} == {
        key: judged[key].accuracy for key in expected
    }
    if workers == 1:  # two have one thread each, whose sums have another order
        kept = {key: one for key, one in finished.items() if key not in expected}
        assert _numbers(read_records(report.records)) == _numbers(kept)


def test_a_second_call_runs_nothing_and_another_rule_what_it_changes(
    some: Path,
    spec: SweepSpec,
    finished: dict[str, TrialRecord],
    threshold: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(some, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rule = _with(spec, threshold)
    assert plan_sweep(rule, out, None).n_missing == 0
    assert plan_sweep(_with(spec, threshold / 2), out, None).n_missing == 3
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", lambda *args: pytest.fail("nothing is missing"))
        again = run_sweep(rule, out, device="cpu")
    assert (again.n_done, again.n_stopped) == (3, 3)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Without the rule they are trained to their end, and that is what counts from then on.
    report = run_sweep(_with(spec, None), out, device="cpu")
    assert (report.n_done, report.n_stopped) == (6, 0)
    assert _numbers(read_records(report.records)) == _numbers(finished)
    assert run_sweep(rule, out, device="cpu").n_stopped == 0


def test_what_is_not_judged_in_time_is_not_judged(spec: SweepSpec, tmp_path: Path) -> None:
    one_epoch = {"set": {"epochs": 1, "width": 4}, "keep": [1.0], "seeds": 1}
    report = run_sweep(_with(spec.model_copy(update=one_epoch), 1.0), tmp_path, device="cpu")
    assert (report.n_done, report.n_stopped) == (1, 0)


def test_cells_with_a_trial_that_was_given_up_are_named_and_in_no_mean(some: Path) -> None:
    results = read_results(some)
    hopeless = {replace(one.trial, seed=0) for one in results.stopped}
    assert len(results.stopped) == 3
    assert results.n_left_out + len(results.records) == 3
    assert results.n_left_out > 0, "a cell of which one seed was given up and the other was not"
    assert not hopeless & {replace(record.trial, seed=0) for record in results.records}
    points = read_points(some).points
    assert sorted(point.keep for point in points) == sorted(
        record.trial.keep for record in results.records
    )
    page = write_report(some).html.read_text()
    assert "3 of 6 finished" in page
    assert "others are missing" not in page
    for cell in hopeless:
        n = sum(replace(one.trial, seed=0) == cell for one in results.stopped)
        assert f"{cell.cell_name} ({n} of 2 seeds)" in page


def test_a_line_that_a_crash_cut_off_is_run_again(
    some: Path, spec: SweepSpec, threshold: float, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(some, out)
    text = (out / STOPPED).read_text()
    (out / STOPPED).write_text(text[:-20])
    report = run_sweep(_with(spec, threshold), out, device="cpu")
    assert (report.n_done, report.n_stopped) == (3, 3)
    told = [{**json.loads(line), "seconds": 0} for line in text.splitlines()]
    found = [
        {**json.loads(line), "seconds": 0} for line in (out / STOPPED).read_text().splitlines()
    ]
    assert found == told


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / STOPPED).write_text('{"key": 5}\n')
    rule = EarlyStopRule(after=0.5, below=0.5)
    with pytest.raises(UsageError, match="line 1: expected a record of a trial that was given up"):
        read_stopped(tmp_path / STOPPED, rule, [])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{after: 1.0, below: 0.5}", "line 10: after: expected less than 1, found 1.0"),
        ("{after: 0.5}", "expected the key below of stop_early, found none; add it"),
        ("{after: 0.5, under: 0.3}", "expected the keys after, below, found the unknown key under"),
        ("yes", "stop_early: expected keys and values of its own, found True"),
    ],
)
def test_wrong_rules_are_one_line(folder: Path, tmp_path: Path, rule: str, message: str) -> None:
    (tmp_path / "sweep.yaml").write_text(f"{SPEC}stop_early: {rule}\n")
    with pytest.raises(UsageError, match=message) as caught:
        read_sweep_spec(tmp_path / "sweep.yaml")
    assert "\n" not in str(caught.value)

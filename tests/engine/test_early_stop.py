"""Trials that a sweep gives up: which, when, and what is left of them."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_images import write_digits
from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError
from tamis.loaders.opening import open_loader
from tamis.report.page import write_report
from tamis.scaling.points import read_points
from tamis.sweep.grid import Sweep
from tamis.sweep.lines import append_lines
from tamis.sweep.planning import plan_sweep
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import Trial, TrialRecord, read_records
from tamis.sweep.results import read_results
from tamis.sweep.runner import Runner
from tamis.sweep.running import run_sweep
from tamis.sweep.spec import EarlyStopRule, SweepSpec
from tamis.sweep.stopping import STOPPED, StoppedTrial, read_stopped
from tamis.training.early_stop import EarlyStop
from tamis.training.evaluation import Evaluation, evaluate
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
    write_digits(root)
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
    """An accuracy that an odd number of trials miss: one seed of some cell and not the other."""
    values = sorted(one.accuracy for one in judged.values())
    return next(values[n] for n in (3, 1, 5) if values[n] > values[n - 1])


@pytest.fixture(scope="module")
def n_hopeless(judged: dict[str, StoppedTrial], threshold: float) -> int:
    return sum(one.accuracy < threshold for one in judged.values())


@pytest.fixture(scope="module")
def some(folder: Path, spec: SweepSpec, threshold: float, n_hopeless: int) -> Path:
    """A sweep of which some trials were given up."""
    report = run_sweep(_with(spec, threshold), folder / "some", device="cpu")
    counts = (6 - n_hopeless, n_hopeless, 0)
    assert (report.n_done, report.n_stopped, report.n_failed) == counts
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


def test_those_below_are_given_up_and_the_others_are_as_ever(
    some: Path,
    finished: dict[str, TrialRecord],
    judged: dict[str, StoppedTrial],
    threshold: float,
) -> None:
    expected = {key: one.accuracy for key, one in judged.items() if one.accuracy < threshold}
    assert {key: one.accuracy for key, one in _stopped(some).items()} == expected
    kept = {key: one for key, one in finished.items() if key not in expected}
    assert _numbers(read_records(some / "records.jsonl")) == _numbers(kept)


def test_workers_give_up_by_the_same_rule(
    folder: Path, spec: SweepSpec, finished: dict[str, TrialRecord], threshold: float
) -> None:
    # With a thread each, whose sums have another order.
    report = run_sweep(_with(spec, threshold), folder / "by2", device="cpu", workers=2)
    stopped, records = _stopped(folder / "by2"), read_records(report.records)
    assert stopped
    assert records
    assert stopped.keys() | records.keys() == finished.keys()
    assert not stopped.keys() & records.keys()
    assert all(one.accuracy < threshold for one in stopped.values())


def test_what_judging_takes_is_no_training(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow(*arguments: Any, **options: Any) -> Evaluation:
        clock[0] += 1000  # as if it had taken so long
        return evaluate(*arguments, **options)

    now = time.perf_counter
    monkeypatch.setattr("tamis.training.runs.evaluate", slow)
    monkeypatch.setattr("time.perf_counter", lambda: now() + clock[0])
    for module in ("runs", "early_stop"):
        monkeypatch.setattr(f"tamis.training.{module}.energy_joules", lambda device: clock[0])
    one = spec.model_copy(update={"keep": [1.0], "seeds": 1})
    (record,) = read_records(run_sweep(_with(one, 0.01), tmp_path, device="cpu").records).values()
    run = record.run
    assert clock == [2000]
    assert run["evaluation_seconds"] > 1000
    assert run["train_seconds"] < 500
    assert run["energy_joules"] == 0
    assert run["images_per_second"] == pytest.approx(
        run["examples_seen"] / (run["train_seconds"] - run["compile_seconds"])
    )


def test_a_second_call_runs_nothing_and_another_rule_what_it_changes(
    some: Path,
    spec: SweepSpec,
    finished: dict[str, TrialRecord],
    threshold: float,
    n_hopeless: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(some, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rule = _with(spec, threshold)
    assert plan_sweep(rule, out, None).n_missing == 0
    accuracies = [one.accuracy for one in _stopped(out).values()]
    lowest, n_lowest = min(accuracies), accuracies.count(min(accuracies))
    # What it would give up as well is not tried again; what it would not is.
    lower = _with(spec, lowest + 1e-9)
    assert plan_sweep(lower, out, None).n_missing == n_hopeless - n_lowest
    (out / "sweep.json").write_text(lower.model_dump_json())
    told = sorted(one.below for one in read_results(out).stopped)
    assert told == [lowest + 1e-9] * n_lowest + [threshold] * (n_hopeless - n_lowest)
    (out / "sweep.json").write_text(rule.model_dump_json())
    assert plan_sweep(_with(spec, threshold, after=0.7), out, None).n_missing == n_hopeless
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", lambda *args: pytest.fail("nothing is missing"))
        again = run_sweep(rule, out, device="cpu")
    assert (again.n_done, again.n_stopped) == (6 - n_hopeless, n_hopeless)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Without the rule they are trained to their end, and that is what counts from then on.
    report = run_sweep(_with(spec, None), out, device="cpu")
    assert (report.n_done, report.n_stopped) == (6, 0)
    assert _numbers(read_records(report.records)) == _numbers(finished)
    assert run_sweep(rule, out, device="cpu").n_stopped == 0


def test_the_epoch_is_the_first_that_reaches_the_share() -> None:
    for after, n_epochs, epoch in (
        (0.3, 10, 3),
        (0.31, 10, 4),
        (0.55, 200, 110),  # 110.00000000000001 as a product
        (0.5, 7.3, 4),
        (0.9, 8, 8),
    ):
        assert EarlyStop(after, 0.5).epoch(n_epochs) == epoch


def test_a_rule_that_never_judges_is_refused(spec: SweepSpec, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"found 0\.8, after which there is none; lower it to 0\.75"
    ):
        run_sweep(_with(spec, 0.5, after=0.8), tmp_path / "out", device="cpu")
    for epochs, most in ((3, 0.666), (200, 0.995)):
        change = {"set": {"epochs": epochs, "width": 4}}
        with pytest.raises(UsageError, match=f"lower it to {most} or less"):
            Sweep(_with(spec.model_copy(update=change), 0.5, after=0.999))
        Sweep(_with(spec.model_copy(update=change), 0.5, after=most))
    once = spec.model_copy(update={"set": {"epochs": 1, "width": 4}})
    with pytest.raises(UsageError, match="leave stop_early out"):
        run_sweep(_with(once, 0.5), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_cells_that_lost_a_seed_are_named_and_in_no_mean(
    some: Path, n_hopeless: int, tmp_path: Path
) -> None:
    results = read_results(some)
    hopeless = {one.trial.cell for one in results.stopped}
    assert len(results.stopped) == n_hopeless
    assert len(results.left_out) + len(results.records) == 6 - n_hopeless
    assert results.left_out, "a cell of which one seed was given up and the other was not"
    assert not hopeless & {record.trial.cell for record in results.records}
    assert {one.cell for one in results.given_up} == hopeless
    assert sum(one.n_stopped + one.n_finished for one in results.given_up) == 2 * len(hopeless)
    report = write_report(some)
    page = report.html.read_text()
    assert f"{6 - n_hopeless} of 6 finished" in page
    assert f"{6 - n_hopeless} training runs and {n_hopeless} that were given up" in page
    assert "others are missing" not in page
    for cell in hopeless:
        n = sum(one.trial.cell == cell for one in results.stopped)
        named = f"{cell.cell_name} ({n} of 2 seeds)"
        assert named in page
        assert named in " ".join(sentence for part in report.verdicts for sentence in part)
    # With the sweep's files, and where they are gone.
    shutil.copytree(some, tmp_path / "alone")
    (tmp_path / "alone" / "sweep.json").unlink()
    for place in (some, tmp_path / "alone"):
        found = read_points(place)
        assert sorted(point.keep for point in found.points) == sorted(
            record.trial.keep for record in results.records
        )
        assert all(cell.cell_name in found.left_out for cell in hopeless)


def test_survivors_stay_out_until_the_others_are_trained(
    some: Path, spec: SweepSpec, tmp_path: Path
) -> None:
    before = read_results(some)
    shutil.copytree(some, tmp_path / "out")
    # As a sweep without the rule leaves it that was killed before its first trial was finished.
    (tmp_path / "out" / "sweep.json").write_text(_with(spec, None).model_dump_json())
    after = read_results(tmp_path / "out")
    assert [one.key for one in after.records] == [one.key for one in before.records]
    assert [one.key for one in after.stopped] == [one.key for one in before.stopped]


def test_a_report_of_full_sets_alone(folder: Path, spec: SweepSpec, tmp_path: Path) -> None:
    sizes = {"sizes": [1.0, 0.5], "keep": [1.0, 0.02], "seeds": 1}
    report = run_sweep(spec.model_copy(update=sizes), tmp_path, device="cpu")
    records = read_records(report.records).values()
    pruned = [record for record in records if record.trial.keep < 1]
    with append_lines(tmp_path / STOPPED) as give_up:
        for record in pruned:
            facts = (0.5, 0.9, record.run["test_accuracy"], 2, 1.0)
            give_up(StoppedTrial(record.key, record.trial, *facts))
    left = [json.dumps(asdict(record)) for record in records if record.trial.keep == 1]
    report.records.write_text("\n".join(left) + "\n")
    page = write_report(tmp_path).html.read_text()
    assert "2 of 4 finished" in page
    report.records.write_text("")
    with pytest.raises(UsageError, match="0 finished trials in cells that were not given up"):
        write_report(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="no finished trials but of cells that were given up"):
        read_points(tmp_path)


def test_a_line_that_a_crash_cut_off_is_run_again(
    some: Path, spec: SweepSpec, threshold: float, n_hopeless: int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(some, out)
    text = (out / STOPPED).read_text()
    (out / STOPPED).write_text(text[:-20])
    report = run_sweep(_with(spec, threshold), out, device="cpu")
    assert (report.n_done, report.n_stopped) == (6 - n_hopeless, n_hopeless)
    told = [{**json.loads(line), "seconds": 0} for line in text.splitlines()]
    found = [
        {**json.loads(line), "seconds": 0} for line in (out / STOPPED).read_text().splitlines()
    ]
    assert found == told


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / STOPPED).write_text('{"key": 5}\n')
    with pytest.raises(UsageError, match="line 1: expected a record of a trial that was given up"):
        read_stopped(tmp_path / STOPPED)


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

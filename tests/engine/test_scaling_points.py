"""Runs from sweep folders and CSV files; what is written of a study."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling_laws import law_points
from tamis.bundles.convert import convert
from tamis.errors import UsageError
from tamis.scaling.curves import CurveKey
from tamis.scaling.figures import scaling_figure
from tamis.scaling.planning import Goal, make_plan
from tamis.scaling.points import Point, PointSet, read_points
from tamis.scaling.studies import Settings, study_scaling
from tamis.scaling.tables import plan_values, study_values, write_csv
from tamis.sources.opening import open_source
from tamis.sweep.records import Trial, TrialRecord, append_records

HEADER = "n_kept,metric,side,keep,seed,error"


def record(trial: Trial, n_examples: int, accuracy: float) -> TrialRecord:
    run = {"n_examples": n_examples, "test_accuracy": accuracy, "train_seconds": 2.0, "steps": 50}
    return TrialRecord(repr(trial), trial, trial.keep, {}, run)


def points() -> list[Point]:
    """All and two keep fractions of one metric, by known power laws."""
    sizes = np.array([1000.0, 2000, 4000, 8000, 16_000])
    found = []
    for number, (keep, level) in enumerate(((1.0, 6.0), (0.5, 4.0), (0.25, 4.0))):
        metric = "full" if keep == 1 else "el2n"
        found += law_points(
            lambda n, a=level: a * n**-0.5, keep * sizes, seeds=3, noise=0.01, rng=number,  # type: ignore[misc]
            keep=keep, metric=metric,
        )  # fmt: skip
    return found


def test_a_sweep_s_records_become_points(tmp_path: Path) -> None:
    convert(open_source("digits:test"), tmp_path / "test.beton")
    (tmp_path / "sweep.json").write_text(json.dumps({"test": str(tmp_path / "test.beton")}))
    with append_records(tmp_path / "records.jsonl") as append:
        append(record(Trial("full", "full", 1.0, 0, "steps", 0.5, "small"), 500, 0.9))
        append(record(Trial("el2n", "hard", 0.3, 1, "epochs", 0.5, "small"), 150, 0.75))
    found = read_points(tmp_path)
    assert found.n_test == 450
    assert found.points == (
        Point(500, 500, 1.0, "full", "full", 0, 1 - 0.9, 2.0, 50, "small", "steps"),
        Point(150, 500, 0.3, "el2n", "hard", 1, 0.25, 2.0, 50, "small", "epochs"),
    )
    (tmp_path / "test.beton").unlink()
    assert read_points(tmp_path).n_test is None


def test_records_without_size_and_recipe_are_read(tmp_path: Path) -> None:
    """As sweeps wrote them before there were sizes."""
    old = {"metric": "full", "side": "full", "keep": 1.0, "seed": 0, "budget": "steps"}
    line = {
        "key": "k", "trial": old, "keep_fraction": 1.0, "per_class_kept": {},
        "run": {"n_examples": 10, "test_accuracy": 0.5},
    }  # fmt: skip
    (tmp_path / "records.jsonl").write_text(json.dumps(line) + "\n")
    (only,) = read_points(tmp_path).points
    assert (only.recipe, only.seconds, only.n_total) == ("", None, 10)


def test_a_csv_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "n_kept,metric,side,keep,seed,error,note,n_test\n300,el2n,hard,0.3,4,0.25,x,1000\n"
        "900,anything,hard,1,4,0.125,,1000\n"
    )
    found = read_points(path)
    assert found.n_test == 1000
    assert found.points == (
        Point(300, 1000, 0.3, "el2n", "hard", 4, 0.25),
        Point(900, 900, 1.0, "full", "full", 4, 0.125),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_kept,metric,side,keep,seed\n", "found none called error"),
        ("", "found none called n_kept"),
        (f"{HEADER}\n", "expected a row for each run, found none"),
        (f"{HEADER}\n1,m,hard,1.5,0,0.1", "line 2: keep: expected a number up to 1 above 0, found"),
        (
            f"{HEADER}\n1,m,hard,1,0,0.1\n1,m,hard,0,0,0.1",
            "line 3: keep: expected a number up to 1",
        ),
        (
            f"{HEADER}\nmany,m,hard,1,0,0.1",
            "line 2: n_kept: expected a number above 0, found 'many'",
        ),
        (f"{HEADER}\n1,m,hard,1,0,1.5", "line 2: error: expected a number up to 1, found '1.5'"),
        (f"{HEADER}\n1,m,hard,1,0", "line 2: error: expected a number up to 1, found None"),
        (f"{HEADER}\n1,,hard,0.5,0,0.1", "line 2: metric: expected a name, found ''"),
        (f"{HEADER},n_total\n9,m,hard,0.5,0,0.1,8", "n_total: expected at least n_kept, 9, found"),
        (f"{HEADER},n_test\n9,m,hard,1,0,0.1,8\n9,m,hard,1,0,0.1,7", "n_test: expected the same"),
    ],
)
def test_wrong_csv_files_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_csv_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(UsageError, match="expected a CSV file"):
        read_points(path)


def test_names_of_curves() -> None:
    assert CurveKey("", "", "full", "full", 1.0).name == "all"
    assert CurveKey("", "", "random", "random", 0.5).name == "random, keep 0.5"
    assert CurveKey("", "", "el2n", "easy", 0.25).name == "el2n, easy, keep 0.25"


def test_tables_hold_every_law_of_every_curve(tmp_path: Path) -> None:
    study = study_scaling(PointSet(tuple(points())), Settings(n_resamples=100))
    write_csv(study, tmp_path / "laws.csv")
    with (tmp_path / "laws.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    # Three curves and the envelope, five laws each.
    assert len(rows) == 20
    chosen = [row for row in rows if row["chosen"] == "True"]
    assert len(chosen) == 4
    nu = study.curves[0].fit("power").parameters["nu"]  # type: ignore[union-attr]
    first = next(row for row in rows if row["law"] == "power" and row["keep"] == "0.25")
    assert [float(first[name]) for name in ("nu", "nu_low", "nu_high")] == [
        nu.value, nu.low, nu.high,
    ]  # fmt: skip
    values = study_values(study)
    assert json.loads(json.dumps(values, default=str))["curves"][0]["metric"] == "el2n"
    assert values["envelopes"][1]["frontier"]["keep"][0] == 0.25
    plan = plan_values(make_plan(study, Goal(target_accuracy=0.95)))
    assert plan["chosen"]["keep"] == 0.5
    assert json.loads(json.dumps(plan))["words"][0].startswith("Of 16,000 examples keep")


@pytest.mark.parametrize("pruned", [True, False])
def test_figures_show_every_curve(pruned: bool) -> None:
    runs = [p for p in points() if pruned or p.keep == 1]
    figure = scaling_figure(study_scaling(PointSet(tuple(runs)), Settings(n_resamples=100)))
    left, right = figure.axes
    names = [text.get_text() for text in left.get_legend().get_texts()]  # type: ignore[union-attr]
    expected = ["all", "keep 0.5", "keep 0.25", "envelope"] if pruned else ["all"]
    assert names == expected
    assert left.get_xscale() == left.get_yscale() == "log"
    assert right.get_title(loc="left").startswith("better than a power law: ")
    figure.savefig("/dev/null", format="png")


def test_curves_without_intervals_are_drawn() -> None:
    runs = [replace(p, seed=0) for p in points() if p.seed == 0]
    study = study_scaling(PointSet(tuple(runs)), Settings(n_resamples=100))
    assert any("fewer than 3 seeds" in sentence for sentence in study.words)
    scaling_figure(study).savefig("/dev/null", format="png")

"""Runs from sweep folders and CSV files; what is written of a study."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sample_images import write_digits
from scaling_laws import law_points
from tamis.errors import UsageError
from tamis.scaling.costs import recorded_scoring
from tamis.scaling.curves import CurveKey
from tamis.scaling.figures import scaling_figure
from tamis.scaling.planning import Goal, make_plan
from tamis.scaling.points import Point, PointSet, read_points
from tamis.scaling.studies import Settings, study_scaling
from tamis.scaling.tables import plan_values, study_values, write_csv
from tamis.sweep.lines import append_lines
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.records import Trial, TrialRecord, read_records
from tamis.sweep.running import run_sweep

HEADER = "n_kept,metric,side,keep,seed,error"


def record(trial: Trial, n_examples: int, accuracy: float) -> TrialRecord:
    run: dict[str, object] = {
        "n_examples": n_examples,
        "test_accuracy": accuracy,
        "train_seconds": 2.0,
        "steps": 50,
    }
    run["recipe"] = {"name": trial.recipe}
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


SPEC = """
train: train.beton
test: test.beton
metrics: [random]
keep: [1.0, 0.5]
sizes: [1.0, 0.5, 0.25]
seeds: 1
recipe: digits
set: {epochs: 1, width: 4}
budget: epochs
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short trainings on digits; not to be written to."""
    root = tmp_path_factory.mktemp("scaling")
    write_digits(root)
    (root / "sweep.yaml").write_text(SPEC)
    run_sweep(read_sweep_spec(root / "sweep.yaml"), root / "out")
    return root


def test_a_sweep_s_records_become_points(sweep: Path) -> None:
    found = read_points(sweep / "out")
    assert found.n_test == 450
    assert len(found.points) == 6
    cells = {(p.n_kept, p.n_total, p.keep, p.metric, p.side, p.seed) for p in found.points}
    stocks = (1347, 674, 337)
    full = {(n, n, 1.0, "full", "full", 0) for n in stocks}
    assert {cell for cell in cells if cell[2] == 1} == full
    for n_kept, n_total, keep, *_ in cells - full:
        assert (keep, n_kept) == (0.5, round(n_total / 2))
        assert min(abs(n_total - stock) for stock in stocks) <= 1
    records = read_records(sweep / "out" / "records.jsonl")
    errors = sorted(1 - record.run["test_accuracy"] for record in records.values())
    assert sorted(p.error for p in found.points) == errors
    assert all((p.recipe, p.budget) == ("digits", "epochs") for p in found.points)
    assert all(p.steps == -(-p.n_kept // 64) and p.seconds for p in found.points)
    study = study_scaling(found, Settings(n_resamples=100))
    assert {c.resampled for c in study.curves} == {"residuals"}
    assert all(one.verdict.answer == "cannot tell" for one in study.envelopes)


def test_records_of_other_settings_stay_out_unless_nobody_can_tell(
    sweep: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(sweep / "out", out)
    with append_lines(out / "records.jsonl") as append:
        append(record(Trial("full", "full", 1.0, 7, "steps", 0.5, "small"), 500, 0.9))
    assert len(read_points(out).points) == 6
    (out / "sweep.json").unlink()
    found = read_points(out)
    assert (len(found.points), found.n_test) == (7, None)
    expected = Point(500, 500, 1.0, "full", "full", 7, 1 - 0.9, 2.0, 50, "small", "steps")
    assert found.points[-1] == expected


def test_the_cost_of_scoring_is_the_sweep_s_own(sweep: Path, tmp_path: Path) -> None:
    runs = [Point(10, 10, 1, "full", "full", 0, 0.1), Point(5, 10, 0.5, "el2n", "hard", 0, 0.1)]
    assert recorded_scoring(sweep / "out", runs) == {}
    lines = [{"size": 0.5, "seconds": 3.0}, {"size": 1.0, "seconds": 5.0}]
    (tmp_path / "scoring.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recorded_scoring(tmp_path, runs) == {"el2n": 5.0}


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

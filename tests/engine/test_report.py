"""The report shows the numbers of the records, and nothing else."""

from __future__ import annotations

import base64
import csv
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.errors import UsageError
from tamis.images import resize_to_side
from tamis.report.gallery import gallery
from tamis.report.page import write_report
from tamis.report.summary import summarise, verdict
from tamis.score_table import ScoreColumn, ScoreTable, write_score_table
from tamis.sources.opening import open_source
from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord
from tamis.sweep.spec import SweepSpec

# Test accuracies by seed.
ACCURACY = {
    ("full", "full", 1.0): [0.95, 0.96, 0.94],
    ("random", "random", 0.5): [0.90, 0.91, 0.92],
    ("el2n", "hard", 0.5): [0.931, 0.940, 0.952],
    ("el2n", "easy", 0.5): [0.85, 0.86, 0.84],
    ("random", "random", 0.2): [0.80, 0.81, 0.79],
    ("el2n", "hard", 0.2): [0.70, 0.72, 0.69],
    ("loss", "hard", 0.2): [0.81, 0.79, 0.80],
}


def records() -> list[TrialRecord]:
    found = []
    for (metric, side, keep), accuracies in ACCURACY.items():
        for seed, accuracy in enumerate(accuracies):
            trial = Trial(metric, side, keep, seed, "steps")  # type: ignore[arg-type]
            run = {
                "test_accuracy": accuracy, "train_seconds": 1.5, "test_digest": "xxh3:0",
                "recipe": {"name": "digits"}, "environment": {"device": "a CPU"},
            }  # fmt: skip
            per_class = {str(label): 10 for label in range(10)}
            found.append(TrialRecord(f"{metric}{side}{keep}{seed}", trial, keep, per_class, run))
    return found


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.fixture(scope="module")
def table(bundle: Bundle) -> ScoreTable:
    rng = np.random.default_rng(0)
    columns = {
        name: ScoreColumn(
            rng.random(bundle.n_examples).astype(np.float32), {"labels_used": True, "flipped": True}
        )
        for name in ("random", "el2n", "loss")
    }
    return ScoreTable(
        bundle.digest,
        bundle.example_ids,
        bundle.labels.astype(np.int32),
        [f"<i>{i}" for i in range(bundle.n_examples)],
        columns,
    )


@pytest.fixture(scope="module")
def folder(
    digits_bundle: Path, table: ScoreTable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("report")
    convert(open_source("digits:test"), root / "test.beton")
    write_score_table(table, root / "scores.parquet")
    spec = SweepSpec(
        train=digits_bundle, test=root / "test.beton", scores=root / "scores.parquet",
        metrics=["random", "el2n", "loss"], keep=[1.0, 0.5, 0.2], side=["hard", "easy"],
    )  # fmt: skip
    (root / "sweep.json").write_text(spec.model_dump_json())
    sweep = Sweep(spec)
    kept = [replace(record, key=sweep.key(record.trial)) for record in records()]
    # A record of other settings, as an edited sweep file leaves it: not to be counted.
    stale = replace(kept[0], key="stale", run={**kept[0].run, "test_accuracy": 0.0})
    lines = [json.dumps(asdict(record)) for record in [*kept, stale]]
    (root / "records.jsonl").write_text("\n".join(lines) + "\n")
    write_report(root)
    return root


class Page(HTMLParser):
    """Text of the table's cells, and every address that the page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for key, value in attrs if key in ("src", "href") and value]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += " ".join(data.split()) + " "


def test_the_table_holds_the_records_means_random_first_full_last(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    rows = [[cell.strip() for cell in row] for row in page.rows]
    assert rows[0] == ["keep fraction", "0.5", "0.2"]
    assert [row[0] for row in rows] == [
        "keep fraction", "random", "el2n, easy", "el2n, hard", "loss, hard", "full, nothing pruned",
    ]  # fmt: skip
    for name, key in (("random", ("random", "random")), ("el2n, hard", ("el2n", "hard"))):
        row = next(row for row in rows if row[0] == name)
        for cell, keep in zip(row[1:], (0.5, 0.2), strict=True):
            values = np.array(ACCURACY[*key, keep])
            half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
            assert cell.startswith(f"{100 * values.mean():.2f} ± {100 * half:.2f}")
    assert rows[-1][1].startswith("95.00 ±")


def test_the_csv_agrees_with_the_records(folder: Path) -> None:
    with (folder / "table.csv").open() as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == len(ACCURACY)
    for row in rows:
        key = (row["metric"], row["side"], float(row["keep_fraction"]))
        assert float(row["accuracy"]) == pytest.approx(np.mean(ACCURACY[key]), abs=1e-6)
        assert row["n_seeds"] == "3"
        if row["metric"] not in ("random", "full"):
            other = ACCURACY["random", "random", key[2]]
            difference = np.mean(np.subtract(ACCURACY[key], other))
            assert float(row["minus_random"]) == pytest.approx(difference, abs=1e-6)


def test_the_verdict_says_where_hard_is_better_and_worse() -> None:
    (table,) = summarise(records())
    first, second, *rest = verdict(table)
    assert first.startswith("Keeping the hardest beats random at el2n, keep 0.5 (+3.10 ± ")
    assert second.startswith("Keeping the hardest is worse than random at el2n, keep 0.2 (-9.67 ±")
    assert "2 of 3 comparisons" in rest[0]


def test_the_verdict_admits_when_nothing_was_better() -> None:
    kept = [r for r in records() if r.trial.keep != 0.5]
    (table,) = summarise(kept)
    assert (
        verdict(table)[0]
        == "Keeping the hardest by el2n or loss beat random nowhere in this sweep."
    )


def test_one_seed_is_no_evidence() -> None:
    (table,) = summarise([r for r in records() if r.trial.seed == 0])
    assert verdict(table) == [
        "One seed says nothing about chance: run at least two to compare with random."
    ]


def test_the_page_needs_no_network_and_escapes_names(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert all(address.startswith("data:") for address in Page(text).addresses)
    assert "http://" not in re.sub(r"data:[^\"]*", "", text)
    assert "<i>" not in text


def test_the_gallery_shows_the_bundle_s_own_pixels(bundle: Bundle, table: ScoreTable) -> None:
    rows = {row.metric: row for row in gallery(bundle, table, count=5)}
    assert list(rows) == ["el2n", "loss"]
    values = table.columns["el2n"].values
    order = np.argsort(-values)
    for image, position in zip(rows["el2n"].hardest, order[:5], strict=True):
        assert image.example_id == bundle.example_ids[position]
        assert image.score == values[position]
        data = base64.b64decode(image.uri.removeprefix("data:image/png;base64,"))
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        expected = resize_to_side(decode_image(bundle, int(position)), 96)
        assert shown is not None
        assert np.array_equal(shown, expected)
    easiest = [image.example_id for image in rows["el2n"].easiest]
    assert easiest == bundle.example_ids[order[::-1][:5]].tolist()


def test_plots_lie_beside_the_page(folder: Path) -> None:
    for name in ("accuracy-steps", "histograms", "class-keep", "correlation"):
        image = cv2.imread(str(folder / f"{name}.png"))
        assert image is not None
        assert min(image.shape[:2]) > 200
        assert image.std() > 5
        assert (folder / f"{name}.svg").read_text().startswith("<?xml")


def test_a_report_is_not_replaced_unasked_and_needs_records(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite"):
        write_report(folder)
    with pytest.raises(UsageError, match="found 0 finished trials"):
        write_report(tmp_path)

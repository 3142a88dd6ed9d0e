"""The report shows the numbers of the records, and nothing else."""

from __future__ import annotations

import base64
import csv
import html
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from report_sweep import ACCURACY, SIZES, known_records, random_scores
from tamis.bundles.bundle import Bundle
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.errors import UsageError
from tamis.images import resize_to_side
from tamis.report.canvas import INK, darkened
from tamis.report.curves import accuracy_plot, sizes_plot
from tamis.report.figures import class_rates
from tamis.report.gallery import gallery
from tamis.report.latex import escape, latex_tables
from tamis.report.page import write_report
from tamis.report.summary import summarise
from tamis.report.throughput import read_throughput
from tamis.report.verdict import verdict
from tamis.score_table import ScoreColumn, ScoreTable
from tamis.sweep import scoring
from tamis.sweep.grid import Sweep
from tamis.sweep.records import TrialRecord
from tamis.sweep.spec import SweepSpec

P_VALUES = [
    stats.ttest_rel(values, ACCURACY["random", "random", keep]).pvalue
    for (metric, _, keep), values in ACCURACY.items()
    if metric not in ("random", "full")
]


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.fixture(scope="module")
def page(report_folder: Path) -> Page:
    return Page((report_folder / "report.html").read_text())


class Page(HTMLParser):
    """Text of the cells of every table, and every address that the page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = ("src", "href", "srcset")
        self.addresses += [value for key, value in attrs if key in named and value]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            cell = self.tables[-1][-1]
            cell[-1] = " ".join(f"{cell[-1]} {data}".split())


def test_the_tables_hold_the_records_means_random_first_full_last(page: Page) -> None:
    for rows, loss in zip(page.tables, SIZES.values(), strict=False):
        assert rows[0] == ["keep fraction", "0.5", "0.2"]
        assert [row[0] for row in rows] == [
            "keep fraction", "random", "el2n, easy", "el2n, hard", "loss, hard",
            "full, nothing pruned",
        ]  # fmt: skip
        for name, key in (("random", ("random", "random")), ("el2n, hard", ("el2n", "hard"))):
            row = next(row for row in rows if row[0] == name)
            for cell, keep in zip(row[1:], (0.5, 0.2), strict=True):
                values = np.array(ACCURACY[*key, keep]) - loss
                half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
                assert cell.startswith(f"{100 * values.mean():.2f} ± {100 * half:.2f}")
        assert rows[-1][1].startswith(f"{95 - 100 * loss:.2f} ±")


def test_cells_say_difference_p_and_worst_class(page: Page) -> None:
    hard = next(row for row in page.tables[0] if row[0] == "el2n, hard")
    p = stats.ttest_rel(ACCURACY["el2n", "hard", 0.2], ACCURACY["random", "random", 0.2]).pvalue
    # Below 5 % also after the correction for four comparisons.
    assert f"▼ −9.67 ± 1.43, p {p:.2g}" in hard[2]
    # Of seed s class s was worst: of three that were worst once the first is named.
    assert hard[2].endswith(f"worst 0: {100 * (np.mean([0.70, 0.72, 0.69]) - 0.2):.2f}")
    every = page.tables[len(SIZES)]
    names, row = every[0], next(row for row in every if row[:4] == ["el2n", "hard", "0.2", "1"])
    cells = dict(zip(names, row, strict=True))
    assert cells["p"] == f"{p:.2g}"
    assert sorted(P_VALUES)[1] == p  # so that Holm multiplies it by three
    assert float(cells["Holm"]) == pytest.approx(3 * p, rel=0.05)
    assert cells["worst class, %"] == "50.33, 0"
    assert cells["training, s"] == "3"
    assert "What the scores took was not recorded" in page.text


def test_recipes_budgets_and_sizes_are_never_mixed() -> None:
    records = []
    for number, (recipe, budget, size) in enumerate(
        [("b", "steps", 0.5), ("b", "epochs", 1.0), ("a", "steps", 1.0), ("b", "steps", 1.0)]
    ):
        for record in known_records():
            trial = replace(record.trial, recipe=recipe, budget=budget, size=size)  # type: ignore[arg-type]
            accuracy = record.run["test_accuracy"] - number / 10
            records.append(
                replace(record, trial=trial, run={**record.run, "test_accuracy": accuracy})
            )
    tables = summarise(records)
    assert [(t.recipe, t.budget, t.size) for t in tables] == [
        ("b", "steps", 1.0), ("b", "steps", 0.5), ("b", "epochs", 1.0), ("a", "steps", 1.0),
    ]  # fmt: skip
    for table, number in zip(tables, (3, 0, 1, 2), strict=True):
        for row, keep, cell in table.cells:
            values = np.array(ACCURACY[row.metric, row.side, keep]) - number / 10
            assert cell.accuracy.mean == pytest.approx(values.mean())
            assert cell.accuracy.n == 3


def test_a_difference_of_no_spread_has_no_p_value() -> None:
    records = [r for r in known_records() if (r.trial.metric, r.trial.keep) == ("random", 0.5)]
    shifted = [
        replace(
            record,
            trial=replace(record.trial, metric="el2n", side="hard"),
            run={**record.run, "test_accuracy": record.run["test_accuracy"] + 0.01},
        )
        for record in records
    ]
    (table,) = summarise([*records, *shifted])
    difference = table.cells[-1][2].minus_random
    assert difference is not None
    assert difference.interval.mean == pytest.approx(0.01)
    assert np.isnan(difference.p)
    assert not difference.is_decided
    assert table.n_compared == 0


def test_the_worst_class_is_the_one_that_was_worst_most_often() -> None:
    record = known_records()[0]
    per_class = [[0.9, 0.2, None], [0.1, 0.3, None], [0.5, 0.4, None]]
    seeds = [
        replace(
            record,
            trial=replace(record.trial, seed=seed),
            run={**record.run, "per_class_accuracy": values},
        )
        for seed, values in enumerate(per_class)
    ]
    (table,) = summarise(seeds)
    assert table.full is not None
    worst = table.full.worst
    assert worst is not None
    assert (worst.label, worst.n_seeds) == (1, 2)
    assert worst.accuracy == pytest.approx((0.2 + 0.1 + 0.4) / 3)


def test_the_csv_agrees_with_the_records(report_folder: Path) -> None:
    with (report_folder / "table.csv").open() as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == len(ACCURACY) * len(SIZES)
    for row in rows:
        key = (row["metric"], row["side"], float(row["keep_fraction"]))
        loss = SIZES[float(row["size"])]
        assert float(row["accuracy"]) == pytest.approx(np.mean(ACCURACY[key]) - loss, abs=1e-6)
        assert row["n_seeds"] == "3"
        assert float(row["n_kept"]) == round(key[2] * round(float(row["size"]) * 1347))
        assert float(row["train_seconds"]) == pytest.approx(10 * key[2] + 1)
        if row["metric"] not in ("random", "full"):
            other = ACCURACY["random", "random", key[2]]
            difference = np.mean(np.subtract(ACCURACY[key], other))
            assert float(row["minus_random"]) == pytest.approx(difference, abs=1e-6)
            p = stats.ttest_rel(ACCURACY[key], other).pvalue
            assert float(row["p"]) == pytest.approx(p, rel=1e-4)
            assert row["scoring_seconds"] == ""
        else:
            assert row["p"] == row["minus_random"] == ""
            assert float(row["scoring_seconds"]) == 0


def test_the_verdict_says_where_hard_is_better_and_worse() -> None:
    (table,) = summarise(known_records())
    first, second, *rest = verdict(table)
    assert first.startswith("Keeping the hardest beats random at el2n, keep 0.5 (+3.10 ± ")
    assert second.startswith("Keeping the hardest is worse than random at el2n, keep 0.2 (-9.67 ±")
    assert "2 of 3 comparisons" in rest[0]
    # By Holm's rule the smallest is compared with a quarter of 5 %, the next with a third.
    assert sorted(P_VALUES)[0] < 0.05 / 4
    assert sorted(P_VALUES)[1] < 0.05 / 3
    assert "2 of them remain after Holm's correction for the table's 4" in rest[0]


def test_the_verdict_admits_when_nothing_was_better() -> None:
    kept = [r for r in known_records() if r.trial.keep != 0.5]
    (table,) = summarise(kept)
    assert (
        verdict(table)[0]
        == "Keeping the hardest by el2n or loss beat random nowhere in this sweep."
    )


def test_one_seed_is_no_evidence() -> None:
    (table,) = summarise([r for r in known_records() if r.trial.seed == 0])
    assert verdict(table) == [
        "One seed says nothing about chance: run at least two to compare with random."
    ]


def test_the_page_needs_no_network_and_escapes_names(page: Page) -> None:
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "http" not in re.sub(r"data:[^\"]*|http-equiv", "", page.text)
    assert "<i>" not in page.text
    assert "<all>" not in page.text


def test_the_page_prints_the_sweep_file_that_repeats_it(report_folder: Path, page: Page) -> None:
    found = re.search(r'<pre id="sweep-file">(.*?)</pre>', page.text, re.DOTALL)
    assert found is not None
    spec = SweepSpec.model_validate(yaml.safe_load(html.unescape(found[1])))
    assert spec == SweepSpec.model_validate_json((report_folder / "sweep.json").read_text())
    assert f"tamis sweep sweep.yaml --out {report_folder}" in page.text
    for part in (open_bundle(spec.train).digest, open_bundle(spec.test).digest, "commit abc"):
        assert part in page.text


def test_the_last_record_of_a_bench_is_shown(page: Page, tmp_path: Path) -> None:
    loaders, rows = page.tables[len(SIZES) + 1 : len(SIZES) + 3]
    assert loaders[0][:3] == ["loader", "mode", "images/s"]
    assert loaders[1:] == [["plain FFCV", "score", "654", "32.6", "2.88", "12.7", "491"]]
    crop = ["ffcv: a <crop> to 224 px", "1,227 images/s", "plain FFCV", "654", "1.88", "1.3 ✓"]
    assert rows[1] == crop
    assert rows[2][-1] == "≤ 400 missed"
    assert "a &lt;CPU&gt;, cores 2" in page.text
    assert "Left out: dali: not here." in page.text
    record = tmp_path / "record.jsonl"
    record.write_text("{}")
    with pytest.raises(UsageError, match="expected a file of records"):
        read_throughput(record)
    record.write_text(json.dumps({"rows": [{"name": "x"}]}))
    with pytest.raises(UsageError, match=r"as this version writes them.*measure again"):
        read_throughput(record)


def test_latex_holds_the_numbers_and_escapes_names() -> None:
    records = [
        replace(r, trial=replace(r.trial, metric="el2n_100%")) if r.trial.metric == "el2n" else r
        for r in known_records()
    ]
    (table,) = summarise(records)
    text = latex_tables([table], [f"class_{i}" for i in range(10)])
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 3
    row = next(line for line in text.splitlines() if line.startswith(r"el2n\_100\%, hard"))
    half = stats.t.ppf(0.975, 2) * np.std(ACCURACY["el2n", "hard", 0.5], ddof=1) / np.sqrt(3)
    assert row.startswith(
        rf"el2n\_100\%, hard & 94.10 $\pm$ {100 * half:.2f}$^{{\uparrow}}$ & 70.33"
    )
    assert row.endswith(r"$^{\downarrow}$ \\")
    assert r"50.33 (class\_0)" in text
    # Every line of a table has as many columns as its head says.
    for part in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{(l r*|lr*)\}", part)[1])  # type: ignore[index]
        for line in part.splitlines():
            if line.endswith(r"\\") and "multicolumn" not in line:
                assert line.count(" & ") == columns - 1
    assert escape(r"a\b~{^}") == (r"a\textbackslash{}b\textasciitilde{}\{\textasciicircum{}\}")


def test_the_gallery_shows_the_bundle_s_own_pixels(bundle: Bundle) -> None:
    table = random_scores(bundle, ("random", "el2n", "loss", "margin"))
    shown = gallery(bundle, table, count=6)
    assert [row.metric for row in shown.rows] == ["el2n", "loss", "margin"]
    values = table.columns["el2n"].values
    order = np.argsort(-values)
    hardest, easiest, harder, easier = shown.rows[0].strips
    assert hardest.example_ids == tuple(bundle.example_ids[order[:6]].tolist())
    assert easiest.example_ids == tuple(bundle.example_ids[order[::-1][:6]].tolist())
    ranks = {
        name: stats.rankdata(table.columns[name].values) for name in ("el2n", "loss", "margin")
    }
    apart = ranks["el2n"] - (ranks["loss"] + ranks["margin"]) / 2
    assert harder.example_ids == tuple(bundle.example_ids[np.argsort(-apart)[:3]].tolist())
    assert easier.example_ids == tuple(bundle.example_ids[np.argsort(apart)[:3]].tolist())
    named = {one for row in shown.rows for strip in row.strips for one in strip.example_ids}
    assert shown.pictures.keys() == named
    for example, picture in shown.pictures.items():
        (position,) = np.flatnonzero(bundle.example_ids == example)
        assert picture.scores["el2n"] == values[position]
        assert picture.ranks["el2n"] == pytest.approx((ranks["el2n"][position] - 0.5) / 1347)
        assert (picture.path, picture.label) == (f"<i>{position}", str(bundle.labels[position]))
        data = base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert pixels is not None
        assert np.array_equal(pixels, decode_image(bundle, int(position)))


def test_large_images_are_shown_small_and_two_metrics_disagree_once(sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    shown = gallery(bundle, random_scores(bundle, ("el2n", "loss")), count=4)
    assert [len(row.strips) for row in shown.rows] == [4, 2]
    assert shown.rows[0].strips[2].title == "much harder than by loss"
    for example, picture in shown.pictures.items():
        (position,) = np.flatnonzero(bundle.example_ids == example)
        stored = decode_image(bundle, int(position))
        assert max(picture.width, picture.height) == min(128, max(stored.shape[:2]))
        if max(picture.width, picture.height) > 64:
            data = base64.b64decode(picture.uri.removeprefix("data:image/jpeg;base64,"))
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            assert pixels is not None
            difference = pixels.astype(float) - resize_to_side(stored, 128)
            assert np.abs(difference).mean() < 12


def test_an_image_stands_once_in_the_page_however_often_it_is_shown(page: Page) -> None:
    images = re.findall(r'<image id="p(\d+)" .*? href="(data:image/png[^"]*)"', page.text)
    used = re.findall(r'<use href="#p(\d+)"/>', page.text)
    assert len(images) == len(dict(images)) == page.text.count("data:image/png")
    assert dict(images).keys() == set(used)
    assert len(used) > 2 * len(images)


def test_plots_lie_beside_the_page(report_folder: Path, page: Page) -> None:
    for name in (
        "accuracy-steps-size1", "accuracy-steps-size0.5", "scaling-steps", "frontier-steps",
        "histograms", "class-keep-0.2", "class-keep-0.5", "correlation",
    ):  # fmt: skip
        image = cv2.imread(str(report_folder / f"{name}.png"))
        assert image is not None
        assert min(image.shape[:2]) > 200
        assert image.std() > 5
        svg = (report_folder / f"{name}.svg").read_text()
        assert svg.startswith("<?xml")
        assert INK in svg
        assert INK not in darkened(svg)
        for shown in (svg, darkened(svg)):
            assert page.text.count(base64.b64encode(shown.encode()).decode()) == 1


def test_many_lines_stay_at_their_keep_fraction() -> None:
    (table, *_) = summarise(known_records())
    many = replace(table, rows=table.rows * 8)
    figure = accuracy_plot(many)
    step = min(np.diff(sorted(many.keeps)))
    lines = figure.axes[0].get_lines()
    drawn = [line.get_xdata() for line in lines if str(line.get_marker()) in "osD"]
    assert len(drawn) >= len(many.rows)
    for xs in drawn:
        for x in np.asarray(xs):
            assert min(abs(x - keep) for keep in many.keeps) <= 0.15 * step + 1e-9


def test_errors_are_drawn_against_the_examples_kept() -> None:
    figure = sizes_plot(summarise(known_records(SIZES)))
    assert [axes.get_title() for axes in figure.axes] == ["el2n, easy", "el2n, hard", "loss, hard"]
    lines = {line.get_label(): line for line in figure.axes[1].containers}
    drawn = {str(name): line[0].get_xydata() for name, line in lines.items()}
    for name, key in (
        ("keep 0.2", ("el2n", "hard", 0.2)), ("random, 0.5", ("random", "random", 0.5)),
        ("full", ("full", "full", 1.0)),
    ):  # fmt: skip
        kept = [round(key[2] * round(size * 1347)) for size in (0.5, 1.0)]
        errors = [100 * (1 - np.mean(ACCURACY[key]) + SIZES[size]) for size in (0.5, 1.0)]
        assert np.allclose(drawn[name], np.stack([kept, errors], axis=1))
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_class_rates_are_those_of_the_largest_initial_set(bundle: Bundle) -> None:
    table = random_scores(bundle, ("el2n",))
    records: list[TrialRecord] = []
    for record in known_records(SIZES):
        # Half of class 3 and all of the others, but for the smaller set, which keeps nothing.
        sizes = np.bincount(table.labels)
        kept = {str(c): int(n // 2 if c == 3 else n) for c, n in enumerate(sizes)}
        records.append(
            replace(record, per_class_kept=kept if record.trial.size == 1 else {}),
        )
    rates = class_rates(records, table, 10)
    assert list(rates) == [0.2, 0.5]
    assert list(rates[0.2]) == ["random", "el2n, hard", "loss, hard"]
    expected = np.ones(10)
    expected[3] = (sizes[3] // 2) / sizes[3]
    for shares in rates[0.5].values():
        assert np.allclose(shares, expected)


def test_a_sweep_of_random_alone_has_a_page(
    digits_bundle: Path, report_folder: Path, tmp_path: Path
) -> None:
    spec = SweepSpec(
        train=digits_bundle, test=report_folder / "test.beton", metrics=["random"], keep=[0.5]
    )
    (tmp_path / "sweep.json").write_text(spec.model_dump_json())
    text = (report_folder / "records.jsonl").read_text()
    lines = [
        line for line in text.splitlines() if '"random", "side": "random", "keep": 0.5' in line
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    report = write_report(tmp_path)
    assert report.tables[0].full is None
    text = report.html.read_text()
    assert "This sweep used no scores." in text
    assert "3 of 3 finished" in text


def test_a_report_is_not_replaced_unasked_and_needs_records(
    report_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--overwrite"):
        write_report(report_folder)
    with pytest.raises(UsageError, match="found 0 finished trials"):
        write_report(tmp_path)


def test_scores_of_one_value_are_drawn(bundle: Bundle) -> None:
    from tamis.report.plots import correlation_plot, histogram_plot
    from tamis.statistics import rank_correlation

    constant = ScoreColumn(np.zeros(bundle.n_examples, np.float32))
    table: ScoreTable = replace(random_scores(bundle, ("el2n",)), columns={"flat": constant})
    assert len(gallery(bundle, table, count=3).rows) == 1
    values = {"flat": constant.values, "flatter": constant.values}
    histogram_plot(values)
    correlation_plot(list(values), rank_correlation(np.stack(list(values.values()))))


def test_seconds_of_scoring_are_shown_where_the_sweep_computed_its_scores(
    digits_bundle: Path, report_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SweepSpec.model_validate_json((report_folder / "sweep.json").read_text())
    spec = given.model_copy(update={"scores": None, "budget": ["epochs"], "sizes": [1.0]})
    (tmp_path / "sweep.json").write_text(spec.model_dump_json())
    table = random_scores(open_bundle(digits_bundle), ("el2n", "loss"))
    monkeypatch.setattr(scoring, "score", lambda *_, **__: SimpleNamespace(table=table))
    scoring.score_initial_sets(Sweep(spec), tmp_path, torch.device("cpu"))
    sweep = scoring.open_sweep(spec, tmp_path)
    lines = []
    for record in known_records():
        trial = replace(record.trial, budget="epochs")
        lines.append(json.dumps(asdict(replace(record, trial=trial, key=sweep.key(trial)))))
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    notes = [{"size": 1.0, "metrics": [m], "seconds": 24.0} for m in ("el2n", "loss")]
    (tmp_path / "scoring.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    page = Page(write_report(tmp_path).html.read_text())
    row = next(row for row in page.tables[1] if row[:3] == ["el2n", "hard", "0.2"])
    cells = dict(zip(page.tables[1][0], row, strict=True))
    # 48 seconds over four cells of three seeds; training took 3 of the full set's 11.
    assert (cells["training, s"], cells["scoring, s"]) == ("3", "4")
    assert cells["saved"] == f"+{100 * (1 - 7 / 11):.0f} %"
    assert "took 48 s, once for all metrics" in page.text

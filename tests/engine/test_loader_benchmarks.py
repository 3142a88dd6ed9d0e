"""``tamis bench loaders`` runs, on little, and its contenders do the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from loading import images_of
from sample_images import picture
from tamis.benchmarks.loaders.cold import _refuse_cached
from tamis.benchmarks.loaders.contenders import (
    CONTENDERS,
    RESIDENT,
    Mode,
    Task,
    _Transform,
    open_contender,
)
from tamis.benchmarks.loaders.running import (
    LoaderBench,
    LoaderReport,
    _prepared,
    bench_loaders,
)
from tamis.benchmarks.loaders.scoring_pass import scoring_rows
from tamis.benchmarks.loaders.worker import LoaderProcess
from tamis.benchmarks.measuring import Row
from tamis.benchmarks.picture import draw
from tamis.benchmarks.records import append_record, changes, last_record
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError, WorkFailedError
from tamis.images import encode_jpeg
from tamis.loaders.boxes import random_boxes
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import RandomResizedCrop
from tamis.progress import QUIET
from tamis.sources.opening import open_source

N, SIDE = 20, 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """20 JPEGs of 80 × 60 in two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(N):
        file = folder / "images" / str(i % 2) / f"{i:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_jpeg(picture(80, 60, i), 90))
    convert(open_source(str(folder / "images")), folder / "x.beton")
    return open_bundle(folder / "x.beton")


@pytest.fixture(scope="module")
def task(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Task:
    size = LoaderBench(side=SIDE, batch_size=8)
    task, left_out = _prepared(bundle, tmp_path_factory.mktemp("prepared"), size)
    assert left_out == []
    return replace(task, workers=2)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "plain FFCV"])
@pytest.mark.parametrize("mode", ["score", "train"])
def test_contenders_give_every_image_once(task: Task, name: str, mode: Mode) -> None:
    epoch = open_contender(name, replace(task, mode=mode))
    for number in range(2):
        images = list(epoch(number))
        assert sum(map(len, images)) == N
        assert {tuple(batch.shape[1:]) for batch in images} == {(3, SIDE, SIDE)}
        assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in images)


def test_peers_show_the_same_part_of_an_image(task: Task, bundle: Bundle) -> None:
    ours = images_of(open_loader(bundle, backend="ffcv", batch_size=8, resolution=SIDE))
    transform = _Transform(task)
    for position, example_id in enumerate(bundle.example_ids.tolist()):
        theirs = transform(bundle.image_record(position)[3].tobytes()).numpy()
        assert np.abs(theirs.astype(int) - ours[example_id]).mean() < 6  # another resampler
    boxes = [_Transform(replace(task, mode="train"))._box(60, 80) for _ in range(2000)]
    sides = np.full(2000, 60), np.full(2000, 80)
    expected = random_boxes(np.arange(2000), *sides, RandomResizedCrop(), 0, 0)
    for column in range(4):
        drawn = [box[column] for box in boxes]
        assert ks_2samp(drawn, expected[:, column]).pvalue > 1e-4


@pytest.fixture(scope="module")
def report(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> LoaderReport:
    """A small run by two loaders, which feed a network, too."""
    loaders, folder = ("ffcv", "PIL DataLoader"), tmp_path_factory.mktemp("bench")
    size = LoaderBench(loaders, 1, SIDE, 8, cold_bytes=0, feed=True)
    found = bench_loaders(bundle.path, folder, size)
    assert list(folder.iterdir()) == []
    return found


def test_a_small_run(bundle: Bundle, report: LoaderReport) -> None:
    alone = [one for one in report.figures if one.mode != "fed"]
    assert {(one.mode, one.loader) for one in alone} == {
        (mode, name) for mode in ("score", "train") for name in ("ffcv", "PIL DataLoader")
    }
    for one in alone:
        assert one.images_per_second > 0
        assert one.first_batch > N / one.images_per_second
        assert 50e6 < one.memory < 5e9
        size_mb = bundle.extents[..., 1].sum() / 1e6
        assert one.megabytes_per_second / one.images_per_second == pytest.approx(size_mb / N)
    by_name = {(row.name, row.peer): row for row in report.rows}
    row = by_name[f"ffcv: centre crop to {SIDE} px", "PIL DataLoader"]
    assert row.goal == 2
    assert row.ratio == row.value / (row.peer_value or 0)
    growth = by_name["ffcv: memory after epochs 16 to 20", "after epochs 2 to 6"]
    assert growth.lower_is_better
    assert growth.ratio == pytest.approx(1, abs=0.1)
    assert any(row.name.startswith("scoring pass with ResNet-18") for row in report.rows)


def test_loaders_feed_a_network(report: LoaderReport) -> None:
    rates = {one.loader: one.images_per_second for one in report.figures if one.mode == "fed"}
    assert set(rates) == {"ffcv", "PIL DataLoader", RESIDENT}
    rows = [row for row in report.rows if row.name.startswith("ffcv: training step of ResNet-18")]
    assert [(row.peer, row.peer_value) for row in rows] == [
        (name, rates[name]) for name in ("PIL DataLoader", RESIDENT)
    ]
    assert all(row.name.endswith("to 160 px") for row in rows)
    # The step is nearly all of it here, and none of it without a network.
    loaded = next(one for one in report.figures if (one.mode, one.loader) == ("train", "ffcv"))
    assert rates["ffcv"] < loaded.images_per_second / 2


def test_raw_images_have_no_files(digits_bundle: Path, tmp_path: Path) -> None:
    report = bench_loaders(digits_bundle, tmp_path, LoaderBench(("memory", "WebDataset"), 1))
    assert [(one.mode, one.loader) for one in report.figures] == [("small", "memory")]
    assert report.left_out == ["PIL DataLoader and WebDataset: the bundle holds pixels, not files"]


def test_a_contender_that_fails_says_why(task: Task) -> None:
    with pytest.raises(WorkFailedError, match=r"memory: expected a loader .* found .*no file"):
        LoaderProcess("memory", replace(task, bundle="/nowhere.beton"))


def test_a_file_in_memory_is_not_cold(bundle: Bundle) -> None:
    bundle.path.read_bytes()
    with pytest.raises(WorkFailedError, match="expected none of it in memory before x reads it"):
        _refuse_cached(bundle.path, "x")


def test_the_scoring_pass_names_its_slowest_stage(bundle: Bundle) -> None:
    first, *others = scoring_rows(bundle, 32, "cpu", QUIET)
    rates = [row.value for row in others if row.unit == "images/s" and row.peer is None]
    assert len(rates) == 3
    assert first.peer_value == min(rates)
    in_turn = next(row for row in others if row.peer == "its stages one after the other")
    assert in_turn.value == first.value
    assert in_turn.peer_value is not None
    assert in_turn.peer_value < min(rates)
    shares = [row.value for row in others if row.unit == "%"]
    assert sum(shares) == pytest.approx(100, abs=15)  # medians of shares


# ---- records


def test_changes_since_a_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    before = [
        Row("a", 10, "images/s", "p", 5, 2.0),
        Row("b", 10, "s", "p", 5, 2.0, lower_is_better=True),
        Row("c", 4, "GB/s"),
        Row("gone", 4, "GB/s"),
    ]
    append_record(path, before[:1], {})
    append_record(path, before, {"cores": 2}, left_out=["x"])
    now = [
        Row("a", 30, "images/s", "p", 10, 3.0),
        Row("a", 30, "images/s", "q", 10, 3.0),
        Row("b", 10, "s", "p", 10, 1.0, lower_is_better=True),
        Row("c", 2, "GB/s"),
    ]
    found = changes(now, last_record(path))
    assert [(c.name, c.before, c.now, c.better) for c in found] == [
        ("a, against p", 2.0, 3.0, 1.5),
        ("b, against p", 2.0, 1.0, 2.0),
        ("c (GB/s)", 4, 2, 0.5),
    ]
    assert json.loads(path.read_text().splitlines()[1])["left_out"] == ["x"]


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"rows": 3}'])
def test_what_is_no_record(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="expected a file of records, as --record writes them"):
        last_record(path)


def test_ratios_are_drawn(tmp_path: Path) -> None:
    rows = [
        Row("a", 30, "images/s", "p", 10, 3.0, 2.0),
        Row("b", 10, "s", "p", 10, 0.5, 0.4, lower_is_better=True),
        Row("c", 2, "GB/s"),
    ]
    for shown in (rows, rows[2:]):
        draw(shown, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as image:
            assert image.size[0] > 1000
            assert np.asarray(image.convert("L")).std() > 10

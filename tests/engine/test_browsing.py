"""The folder for FiftyOne, loaded by its own script with a stand-in for FiftyOne."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from report_sweep import random_scores
from tamis.bundles.layout import JPEG_MODE
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.errors import UsageError
from tamis.report.browsing import write_browsing_folder

# As much of FiftyOne as load.py uses. With FiftyOne 1.22.1 the samples were made once by hand.
STAND_IN = """
import json, sys
class Classification:
    def __init__(self, label): self.label = label
class Sample(dict):
    def __init__(self, filepath, **fields):
        super().__init__(fields, filepath=filepath)
class Dataset:
    def __init__(self, name, persistent, overwrite): self.name = name
    def add_samples(self, samples, num_samples):
        rows = list(samples)
        assert len(rows) == num_samples
        json.dump([{**r, "ground_truth": r["ground_truth"].label} for r in rows], sys.stdout)
class launch_app:
    def __init__(self, dataset): pass
    def wait(self): pass
"""


def load(folder: Path, tmp_path: Path) -> list[dict[str, object]]:
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "fiftyone.py").write_text(STAND_IN)
    done = subprocess.run(
        [sys.executable, folder / "load.py"], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(tmp_path / "stand-in")},
    )  # fmt: skip
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def test_fiftyone_gets_every_image_with_its_label_and_scores(
    sample_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(sample_bundle)
    table = random_scores(bundle, ("el2n", "self-sup", "self.sup"))
    n = write_browsing_folder(bundle, table, tmp_path / "browse")
    rows = load(tmp_path / "browse", tmp_path)
    assert n == len(rows) == bundle.n_examples
    kinds = set()
    for position, row in enumerate(rows):
        assert row["example_id"] == bundle.example_ids[position]
        assert row["ground_truth"] == bundle.class_names[bundle.labels[position]]
        assert row["source_path"] == f"<i>{position}"
        for field, metric in (
            ("score_el2n", "el2n"), ("score_self_sup", "self-sup"), ("score_self_sup_2", "self.sup")
        ):  # fmt: skip
            assert row[field] == table.columns[metric].values[position]
        path = Path(str(row["filepath"]))
        mode, _, _, record = bundle.image_record(position)
        kinds.add(path.suffix)
        if mode == JPEG_MODE:
            assert path.read_bytes() == record.tobytes()
        else:
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            assert pixels is not None
            assert np.array_equal(pixels, decode_image(bundle, position))
    assert kinds == {".jpg", ".png"}


def test_some_images_are_drawn_the_same_ones_each_time(digits_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(digits_bundle)
    table = random_scores(bundle, ("el2n",))
    drawn = []
    for name in ("one", "two"):
        assert write_browsing_folder(bundle, table, tmp_path / name, max_images=40) == 40
        lines = (tmp_path / name / "samples.jsonl").read_text().splitlines()
        drawn.append([json.loads(line)["example_id"] for line in lines])
    assert drawn[0] == drawn[1] == sorted(set(drawn[0]))
    # Of all the bundle, not its first ones: the mean of 40 ids of 1,347 is within 4 deviations.
    assert abs(np.mean(drawn[0]) - 673) < 4 * 1347 / np.sqrt(12 * 40)


def test_only_its_own_folder_is_replaced_and_only_when_asked(
    digits_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(digits_bundle)
    table = random_scores(bundle, ("el2n",))
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()  # an empty one may be filled
    write_browsing_folder(bundle, table, own, max_images=3)
    with pytest.raises(UsageError, match="pass --overwrite"):
        write_browsing_folder(bundle, table, own, max_images=2)
    assert write_browsing_folder(bundle, table, own, max_images=2, overwrite=True) == 2
    assert len(list(own.glob("images/*/*"))) == 2
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(UsageError, match="name another one"):
        write_browsing_folder(bundle, table, other, overwrite=True)
    # Work that fails leaves the old folder, and nothing else.
    broken = replace(table, example_ids=table.example_ids + 10**6)
    with pytest.raises(Exception, match="does not hold"):
        write_browsing_folder(bundle, broken, own, overwrite=True)
    assert len(list(own.glob("images/*/*"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "own"]

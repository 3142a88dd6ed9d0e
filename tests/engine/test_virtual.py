"""Virtual bundles stand for the bundle that cutting would have written."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from tamis.bundles.cut import cut
from tamis.bundles.inspect import inspect
from tamis.bundles.opening import open_bundle
from tamis.bundles.verify import verify
from tamis.errors import BundleError, UsageError
from tamis.loaders.opening import open_loader

KEEP = np.array([1300, 4, 5, 6, 700, 41])


@pytest.fixture
def parent(digits_bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "data" / "parent.beton"
    path.parent.mkdir()
    shutil.copy(digits_bundle, path)
    return path


@pytest.fixture
def pair(parent: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same cut, virtual and real."""
    (tmp_path / "cuts").mkdir()
    virtual, real = tmp_path / "cuts" / "virtual.beton", tmp_path / "cuts" / "real.beton"
    cut(open_bundle(parent), virtual, KEEP, order="ids", virtual=True, settings={"a": 1})
    cut(open_bundle(parent), real, KEEP, order="ids", settings={"a": 1})
    return virtual, real


def test_it_is_the_bundle_that_cutting_would_write(pair: tuple[Path, Path]) -> None:
    virtual, real = (open_bundle(path) for path in pair)
    assert pair[0].stat().st_size < pair[1].stat().st_size
    assert virtual.digest == real.digest
    assert virtual.manifest == real.manifest
    assert virtual.lineage[0].digest == real.lineage[0].digest
    assert virtual.lineage[1:] == real.lineage[1:]
    assert virtual.example_ids.tolist() == real.example_ids.tolist() == KEEP.tolist()
    assert np.array_equal(virtual.labels, real.labels)
    assert virtual.paths is not None
    assert real.paths is not None
    assert virtual.paths.to_pylist() == real.paths.to_pylist()
    for position in range(len(KEEP)):
        mode, width, height, record = virtual.image_record(position)
        assert (mode, width, height) == real.image_record(position)[:3]
        assert np.array_equal(record, real.image_record(position)[3])
    report = verify(virtual, deep=True)
    assert report.ok
    assert report.n_examples == len(KEEP)
    assert inspect(virtual).classes == inspect(real).classes


@pytest.mark.parametrize("backend", ["memory", "ffcv", "dali"])
@pytest.mark.parametrize("mode", ["score", "train"])
def test_loaders_take_it_like_a_bundle(
    pair: tuple[Path, Path], backend: str, mode: Literal["score", "train"]
) -> None:
    batches: list[Any] = []
    for path in pair:
        loader = open_loader(
            open_bundle(path), backend=backend, batch_size=4, resolution=8, mode=mode, seed=3
        )
        loader.set_epoch(1)
        batches.append(list(loader))
    for virtual, real in zip(*batches, strict=True):
        assert virtual.example_ids.tolist() == real.example_ids.tolist()
        assert virtual.labels.tolist() == real.labels.tolist()
        assert (virtual.images == real.images).all()


def test_cut_again(pair: tuple[Path, Path], parent: Path, tmp_path: Path) -> None:
    less = np.array([5, 700])
    cut(open_bundle(pair[0]), tmp_path / "real.beton", less)
    cut(open_bundle(pair[0]), tmp_path / "virtual.beton", less, virtual=True)
    cut(open_bundle(tmp_path / "virtual.beton"), tmp_path / "both.beton", less)
    cut(open_bundle(pair[1]), tmp_path / "expected.beton", less)
    expected = open_bundle(tmp_path / "expected.beton")
    for name in ("real", "virtual", "both"):
        found = open_bundle(tmp_path / f"{name}.beton")
        assert found.digest == expected.digest
        assert found.manifest is not None
        assert found.manifest.full_examples == 1347
    # A virtual cut of a virtual bundle refers to the file that holds the records.
    assert open_bundle(tmp_path / "virtual.beton").file.resolve() == parent.resolve()
    with pytest.raises(BundleError, match="found 2 that it does not hold"):
        cut(open_bundle(pair[0]), tmp_path / "x.beton", np.array([1, 2, 5]))


def test_both_moved_together(pair: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "data", elsewhere / "data")
    shutil.move(tmp_path / "cuts", elsewhere / "cuts")
    assert open_bundle(elsewhere / "cuts" / "virtual.beton").example_ids.tolist() == KEEP.tolist()


def test_moved_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = shutil.move(pair[0], tmp_path / "far" / "away" / "v.beton")
    assert open_bundle(moved).example_ids.tolist() == KEEP.tolist()


def test_a_parent_that_is_gone(pair: tuple[Path, Path], parent: Path) -> None:
    parent.unlink()
    with pytest.raises(BundleError, match=r"expected its parent at .*parent.beton, found no file"):
        open_bundle(pair[0])


def test_another_parent_in_its_place(pair: tuple[Path, Path], parent: Path) -> None:
    whole = open_bundle(parent)
    cut(whole, parent.with_name("other.beton"), whole.example_ids[:-1])
    parent.with_name("other.beton").replace(parent)
    with pytest.raises(BundleError, match="found another one"):
        open_bundle(pair[0])


def test_a_damaged_parent_is_refused(pair: tuple[Path, Path], parent: Path) -> None:
    data = bytearray(parent.read_bytes())
    data[-30] ^= 1
    parent.write_bytes(data)
    with pytest.raises(BundleError):
        open_bundle(pair[0])


def test_a_parent_of_plain_ffcv_is_refused(ffcv_folder: Path, tmp_path: Path) -> None:
    parent = open_bundle(ffcv_folder / "pages.beton")
    with pytest.raises(BundleError, match="expected a bundle with checksums"):
        cut(parent, tmp_path / "x.beton", np.arange(3), virtual=True)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_safe(pair: tuple[Path, Path], parent: Path) -> None:
    before = pair[1].read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        cut(open_bundle(parent), pair[1], KEEP, virtual=True)
    assert pair[1].read_bytes() == before


def test_a_virtual_bundle_is_not_written_over_its_parent(parent: Path) -> None:
    before = parent.read_bytes()
    with pytest.raises(UsageError, match="found the bundle itself"):
        cut(open_bundle(parent), parent, KEEP, virtual=True, overwrite=True)
    assert parent.read_bytes() == before


def rewrite(path: Path, ids: list[int] | None = None, **changes: Any) -> None:
    """Write the file anew, with checksums that fit, by the format's description."""
    data = path.read_bytes()
    n_text, n_ids = struct.unpack_from("<QQ", data, 16)
    text, tail = json.loads(data[32 : 32 + n_text]), data[32 + n_text :]
    assert (data[:8], len(tail)) == (b"TAMISV\x00\x01", 8 * n_ids)
    text |= changes
    if ids is not None:
        tail = np.array(ids, "<i8").tobytes()
    encoded = json.dumps({key: value for key, value in text.items() if value != "drop"}).encode()
    body = struct.pack("<QQ", len(encoded), len(tail) // 8) + encoded + tail
    path.write_bytes(data[:8] + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [1300, 4, 5, 6, 700]}, "do not match its digest"),
        ({"ids": [4, 1300, 5, 6, 700, 41]}, "do not match its digest"),
        ({"ids": [4, 4]}, "repeated example ids"),
        ({"ids": []}, "no example ids"),
        ({"ids": [4, 10**9]}, "found 1 that it does not hold"),
        ({"child_digest": None}, "incomplete reference"),
        ({"digest": "drop"}, "missing 1 required"),
        ({"more": "words"}, "unexpected keyword"),
        ({"manifest": {"format": "other"}}, "JSON of the format"),
        ({"manifest": "drop"}, "manifest"),
        ({"absolute": "/nowhere", "relative": "nowhere"}, "found no file there"),
        ({"absolute": "/nowhere\0", "relative": "\0"}, "virtual"),
    ],
)
def test_a_forged_one_is_refused(
    pair: tuple[Path, Path], change: dict[str, Any], message: str
) -> None:
    rewrite(pair[0])
    assert open_bundle(pair[0]).example_ids.tolist() == KEEP.tolist()
    rewrite(pair[0], **change)
    with pytest.raises(BundleError, match=message):
        open_bundle(pair[0])


def test_any_damage_is_noticed(pair: tuple[Path, Path]) -> None:
    data = pair[0].read_bytes()
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        pair[0].write_bytes(damaged)
        with pytest.raises(BundleError):
            open_bundle(pair[0])
        pair[0].write_bytes(data[:at])
        with pytest.raises(BundleError):
            open_bundle(pair[0])


def test_a_selection_is_no_bundle(tmp_path: Path) -> None:
    pq.write_table(pa.table({"example_id": [1, 2]}), tmp_path / "kept.parquet")
    with pytest.raises(BundleError, match=r"found a Parquet file; .*--selection"):
        open_bundle(tmp_path / "kept.parquet")

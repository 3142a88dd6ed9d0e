from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffcv_bundles import N_MIXED, mixed
from ffcv_reading import epoch
from tamis.bundles.beton import Bundle, open_bundle
from tamis.bundles.convert import ConvertSettings, convert
from tamis.bundles.cut import cut
from tamis.bundles.verify import verify
from tamis.errors import BundleError, UsageError
from tamis.sources.opening import open_source


def contents(bundle: Bundle) -> dict[int, tuple[Any, ...]]:
    """Id → everything of an example but where it lies: row, payloads, path, checksum."""
    found = {}
    for position, example_id in enumerate(bundle.example_ids.tolist()):
        values: list[Any] = []
        for index, field in enumerate(bundle.fields):
            cell = bundle.metadata[f"f{index}"][position]
            names = cell.dtype.names or (() if field.has_payload else ("",))
            values += [(cell[name] if name else cell).item() for name in names if name != "ptr"]
        payloads = tuple(
            bundle.data[offset : offset + size].tobytes()
            for offset, size in bundle.extents[position].tolist()
        )
        path = bundle.paths[position].as_py() if bundle.paths is not None else None
        found[example_id] = (tuple(values), payloads, path, int(bundle.checksums[position]))
    return found


def test_records_are_the_parents(sample_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(sample_bundle)
    report = cut(parent, tmp_path / "x.beton", np.array([1, 2, 3, 7, 8]))
    child = open_bundle(tmp_path / "x.beton")
    expected = contents(parent)
    assert contents(child) == {i: expected[i] for i in (1, 2, 3, 7, 8)}
    assert child.example_ids.tolist() == [1, 2, 3, 7, 8]
    assert child.fields == parent.fields
    assert child.page_size == parent.page_size
    assert child.classes == parent.classes
    assert report.n_examples == 5
    assert report.keep_fraction == 5 / 9
    assert report.bytes == (tmp_path / "x.beton").stat().st_size
    assert verify(child, deep=True).ok


@pytest.mark.parametrize("count", [1, 2, 500, 1346, 1347])
def test_any_number_of_digits(digits_bundle: Path, tmp_path: Path, count: int) -> None:
    parent = open_bundle(digits_bundle)
    keep = np.random.default_rng(count).permutation(1347)[:count]
    cut(parent, tmp_path / "x.beton", keep)
    child = open_bundle(tmp_path / "x.beton")
    assert child.example_ids.tolist() == sorted(keep.tolist())
    expected = contents(parent)
    assert contents(child) == {i: expected[i] for i in sorted(keep.tolist())}
    # No padding: the file shrinks with the examples (rows, payload, trailer, allocation rows).
    assert (tmp_path / "x.beton").stat().st_size < 6000 + count * (24 + 192 + 60 + 24)


def test_the_order_of_the_ids_does_not_matter(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    keep = np.arange(3, 1347, 5)
    files = []
    for name, ids in (
        ("a", keep),
        ("b", keep[::-1]),
        ("c", np.random.default_rng(0).permutation(keep)),
    ):
        cut(parent, tmp_path / f"{name}.beton", ids)
        files.append((tmp_path / f"{name}.beton").read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_cut_of_a_cut_keeps_ids_and_lineage(digits_bundle: Path, tmp_path: Path) -> None:
    whole = open_bundle(digits_bundle)
    cut(whole, tmp_path / "half.beton", np.arange(0, 1347, 2), settings={"keep": 0.5})
    half = open_bundle(tmp_path / "half.beton")
    cut(half, tmp_path / "few.beton", np.array([1300, 8, 446]), settings={"keep": 0.1})
    few = open_bundle(tmp_path / "few.beton")
    assert few.example_ids.tolist() == [8, 446, 1300]
    expected = contents(whole)
    assert contents(few) == {i: expected[i] for i in (8, 446, 1300)}
    assert half.manifest is not None
    assert few.manifest is not None
    assert [parent.digest for parent in few.manifest.parents] == [half.digest, whole.digest]
    assert [parent.n_examples for parent in few.manifest.parents] == [674, 1347]
    assert half.manifest.full_examples == few.manifest.full_examples == 1347
    assert (few.manifest.operation, few.manifest.settings) == ("cut", {"keep": 0.1})
    # Straight from the whole: the same content by another way.
    cut(whole, tmp_path / "straight.beton", np.array([8, 446, 1300]))
    assert open_bundle(tmp_path / "straight.beton").digest == few.digest


def test_skipped_images_are_remembered(tmp_path: Path, sample_folder: Path) -> None:
    for name in ("1.jpg", "2.jpg", "broken.jpg"):
        target = tmp_path / "images" / "bird" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (sample_folder / "bird" / "grey.jpg").read_bytes()
        target.write_bytes(data[:50] if name == "broken.jpg" else data)
    source = open_source(str(tmp_path / "images"))
    convert(source, tmp_path / "parent.beton", ConvertSettings(on_error="skip"))
    cut(open_bundle(tmp_path / "parent.beton"), tmp_path / "x.beton", np.array([1]))
    manifest = open_bundle(tmp_path / "x.beton").manifest
    assert manifest is not None
    assert [row["path"] for row in manifest.skipped] == ["bird/broken.jpg"]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], UsageError, "distinct example ids, 1 to 1347 of them, found none"),
        ([4, 5, 4, 4], UsageError, "found 2 repeated ones"),
        ([0, 1347], BundleError, "1 that it does not hold, the first is 1347"),
        ([-1], BundleError, "the first is -1"),
    ],
)
def test_ids_that_cannot_be_cut(
    digits_bundle: Path, tmp_path: Path, ids: list[int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cut(open_bundle(digits_bundle), tmp_path / "x.beton", np.array(ids, np.int64))
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs(digits_bundle: Path, tmp_path: Path) -> None:
    parent, out = open_bundle(digits_bundle), tmp_path / "x.beton"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="--overwrite"):
        cut(parent, out, np.array([1]))
    with pytest.raises(UsageError, match="mkdir -p"):
        cut(parent, tmp_path / "missing" / "x.beton", np.array([1]))
    with pytest.raises(BundleError):
        cut(parent, out, np.array([5000]), overwrite=True)
    assert out.read_bytes() == b"precious"
    cut(parent, out, np.array([1]), overwrite=True)
    assert open_bundle(out).example_ids.tolist() == [1]
    assert list(tmp_path.iterdir()) == [out]


def test_a_bundle_is_not_cut_into_itself(digits_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    path.write_bytes(digits_bundle.read_bytes())
    (tmp_path / "link.beton").symlink_to(path)
    for out in (path, tmp_path / "link.beton"):
        with pytest.raises(UsageError, match="found the bundle itself"):
            cut(open_bundle(path), out, np.array([1]), overwrite=True)
    assert path.read_bytes() == digits_bundle.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.beton", "x.beton"]


def test_a_parent_replaced_meanwhile_is_not_mixed_in(digits_bundle: Path, tmp_path: Path) -> None:
    # FFCV opens its file again and again and mixes old tables with new bytes.
    path = tmp_path / "parent.beton"
    path.write_bytes(digits_bundle.read_bytes())
    parent = open_bundle(path)
    expected = contents(parent)
    convert(open_source("digits"), path, ConvertSettings(mode="raw"), overwrite=True)
    try:
        cut(parent, tmp_path / "x.beton", np.arange(10, 60))
    except BundleError:
        assert not (tmp_path / "x.beton").exists()
        return
    child = open_bundle(tmp_path / "x.beton")
    assert verify(child).ok
    assert contents(child) == {i: expected[i] for i in range(10, 60)}


@pytest.mark.parametrize("failure", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_copying_where_the_kernel_cannot(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(failure, "no")

    keep = np.arange(0, 1347, 3)
    cut(open_bundle(digits_bundle), tmp_path / "a.beton", keep)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    cut(open_bundle(digits_bundle), tmp_path / "b.beton", keep)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_copying_in_short_steps(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.copy_file_range
    steps = []

    def short(source: int, target: int, count: int, *offsets: int) -> int:
        steps.append(min(count, 100))
        return whole(source, target, min(count, 100), *offsets)

    keep = np.arange(0, 1347, 3)
    cut(open_bundle(digits_bundle), tmp_path / "a.beton", keep)
    monkeypatch.setattr(os, "copy_file_range", short)
    cut(open_bundle(digits_bundle), tmp_path / "b.beton", keep)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()
    assert steps == [100, 92] * len(keep)


def test_a_full_disk_leaves_nothing(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space left"):
        cut(open_bundle(digits_bundle), tmp_path / "x.beton", np.array([1]))
    assert list(tmp_path.iterdir()) == []


# ---- bundles that plain FFCV wrote


def test_cut_of_an_ffcv_bundle(ffcv_folder: Path, tmp_path: Path) -> None:
    parent = open_bundle(ffcv_folder / "pages.beton")
    keep = np.random.default_rng(0).permutation(250)[:170]
    cut(parent, tmp_path / "x.beton", keep)
    child = open_bundle(tmp_path / "x.beton")
    expected = contents(parent)
    assert contents(child) == {i: expected[i] for i in sorted(keep.tolist())}
    # 170 records of 30,000 bytes, 69 to a page.
    assert np.unique(child.extents[:, 0, 0] // child.page_size).tolist() == [0, 1, 2]
    assert child.manifest is not None
    assert child.manifest.full_examples == 250


def test_empty_records_get_pointers_of_their_own(ffcv_folder: Path, tmp_path: Path) -> None:
    parent = open_bundle(ffcv_folder / "mixed.beton")
    pointers = parent.extents[..., 0].ravel()
    assert len(np.unique(pointers)) < len(pointers)  # as FFCV writes them: shared
    cut(parent, tmp_path / "x.beton", np.arange(N_MIXED))
    child = open_bundle(tmp_path / "x.beton")
    pointers = child.extents[..., 0].ravel()
    assert len(np.unique(pointers)) == len(pointers)
    assert contents(child) == contents(parent)
    assert (child.extents[..., 1] == 0).sum() == 21


@pytest.mark.parametrize("os_cache", [True, False])
def test_all_field_types_read_back_in_plain_ffcv(
    ffcv_folder: Path, tmp_path: Path, os_cache: bool
) -> None:
    from ffcv.fields import JSONField

    keep = np.array([0, 1, 2, 3, 5, 8, 13, 21, 30, 33, 34, 55, N_MIXED - 1])
    cut(open_bundle(ffcv_folder / "mixed.beton"), tmp_path / "x.beton", keep)
    sizes = open_bundle(tmp_path / "x.beton").metadata["f0"]["size"].tolist()
    assert sizes[0] == sizes[-1] == 0
    # Without pipelines: FFCV's default decoders for every field.
    rows = list(epoch(tmp_path / "x.beton", {}, os_cache=os_cache, batch_size=4))
    assert [int(row["number"][0]) for row in rows] == (1000 + keep).tolist()
    for example_id, size, row in zip(keep, sizes, rows, strict=True):
        example = mixed(int(example_id))
        # FFCV gives no length and leaves old bytes behind a short record.
        assert row["note"][:size].tobytes() == example.note.tobytes()
        assert row["weight"][0] == example.weight
        assert JSONField.unpack(row["facts"]) == example.facts
        assert np.array_equal(row["vector"], example.vector)
        assert np.array_equal(row["image"], example.image)
        assert np.array_equal(row["tensor"], example.tensor)


# ---- a killed process

KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from tamis.bundles.convert import ConvertSettings, convert
from tamis.sources.base import SourceItem

class Slow:
    classes, largest = None, None
    def describe(self): return {"kind": "slow"}
    def __len__(self): return 400
    def __iter__(self):
        for i in range(400):
            if i == 350:  # several pages are in the file by now
                print("writing", flush=True)
                time.sleep(60)
            yield SourceItem(None, 0, lambda: np.full((200, 200, 3), 7, np.uint8))

settings = ConvertSettings(mode="raw", page_size=2 << 20)
convert(Slow(), Path(sys.argv[1]), settings, workers=2, overwrite=True)
"""


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_process_leaves_no_file_under_the_final_name(
    tmp_path: Path, digits_bundle: Path, existing: bool
) -> None:
    out = tmp_path / "x.beton"
    if existing:
        out.write_bytes(digits_bundle.read_bytes())
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, out], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        deadline = time.monotonic() + 20
        while not any(p.stat().st_size > 20_000_000 for p in tmp_path.glob(".x.beton.*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (partial,) = tmp_path.glob(".x.beton.*.partial")
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
    # What it leaves is not a bundle, and says so.
    assert sorted(tmp_path.iterdir()) == [partial, *([out] if existing else [])]
    with pytest.raises(BundleError, match=r"writer was interrupted|version 0"):
        open_bundle(partial)
    if existing:
        assert out.read_bytes() == digits_bundle.read_bytes()
    # It is not in the way of the next run.
    convert(open_source("digits"), out, overwrite=existing)
    assert open_bundle(out).n_examples == 1797

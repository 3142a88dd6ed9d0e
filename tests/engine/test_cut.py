from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffcv_bundles import N_MIXED, mixed
from ffcv_reading import epoch
from tamis.bundles import copying
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.verify import verify
from tamis.errors import BundleError, UsageError
from tamis.hashing import shuffled_order
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


@pytest.fixture
def long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits are small: take the way of long runs for them too."""
    monkeypatch.setattr(copying, "_LONG_RUN", 0)


KEEP = np.arange(0, 1347, 3)


@pytest.fixture
def third(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Every third digit, as a bundle."""
    out = tmp_path_factory.mktemp("third") / "a.beton"
    cut(open_bundle(digits_bundle), out, KEEP)
    return out.read_bytes()


@pytest.mark.parametrize("failure", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_copying_where_the_kernel_cannot(
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: int,
    long_runs: None,
    third: bytes,
) -> None:
    calls = []

    def refuse(*arguments: object) -> int:
        calls.append(arguments)
        raise OSError(failure, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    cut(open_bundle(digits_bundle), tmp_path / "b.beton", KEEP)
    assert (tmp_path / "b.beton").read_bytes() == third
    assert len(calls) == 1


def test_copying_long_runs_in_short_steps(
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    long_runs: None,
    third: bytes,
) -> None:
    whole = os.copy_file_range
    steps = []

    def short(source: int, target: int, count: int, *offsets: int) -> int:
        steps.append(min(count, 100))
        return whole(source, target, min(count, 100), *offsets)

    monkeypatch.setattr(os, "copy_file_range", short)
    cut(open_bundle(digits_bundle), tmp_path / "b.beton", KEEP)
    assert (tmp_path / "b.beton").read_bytes() == third
    assert steps == [100, 92] * len(KEEP)


@pytest.mark.parametrize("most", [7, 191, 192, 193, 5000])
def test_gathering_in_short_steps(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, third: bytes, most: int
) -> None:
    whole = os.pwritev
    steps = []

    def short(target: int, slices: list[memoryview], place: int) -> int:
        left, some = most, []
        for part in slices:
            some.append(part[:left])
            left -= len(some[-1])
        steps.append(whole(target, some, place))
        return steps[-1]

    monkeypatch.setattr(os, "pwritev", short)
    cut(open_bundle(digits_bundle), tmp_path / "b.beton", KEEP)
    assert (tmp_path / "b.beton").read_bytes() == third
    assert max(steps) <= most


@pytest.mark.parametrize("group", [1, 2, 7, 1000])
@pytest.mark.parametrize("n_bytes", [1000, 20_000, 100_000])  # records have 30,000
@pytest.mark.parametrize("gap", [0, 100_000])
def test_gathering_in_groups_of_any_size(
    ffcv_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: int,
    n_bytes: int,
    gap: int,
) -> None:
    monkeypatch.setattr(copying, "_GATHER", group)
    monkeypatch.setattr(copying, "_GATHER_BYTES", n_bytes)
    monkeypatch.setattr(copying, "_COPY_BYTES", 100_000)
    monkeypatch.setattr(copying, "_READ_GAP", gap)
    parent = open_bundle(ffcv_folder / "pages.beton")
    keep = np.random.default_rng(1).permutation(250)[:201]
    cut(parent, tmp_path / "x.beton", keep, order="ids")
    child = open_bundle(tmp_path / "x.beton")
    assert child.example_ids.tolist() == keep.tolist()
    of_parent = contents(parent)
    assert {i: of_parent[i] for i in keep.tolist()} == contents(child)


@pytest.mark.parametrize("gap", [0, 3, 50, 10_000])
def test_stretches_hold_every_run_and_little_else(
    monkeypatch: pytest.MonkeyPatch, gap: int
) -> None:
    monkeypatch.setattr(copying, "_READ_GAP", gap)
    rng = np.random.default_rng(gap)
    starts = rng.choice(5000, 60, replace=False)
    runs = np.stack([starts, np.arange(60), rng.integers(1, 90, 60)], axis=1)  # some overlap
    wanted = np.zeros(6000, bool)
    for start, _, size in runs.tolist():
        wanted[start : start + size] = True
    found = copying._stretches(runs).tolist()
    read = np.zeros(6000, bool)
    for start, end in found:
        assert wanted[start]
        assert wanted[end - 1]
        read[start:end] = True
    assert read[wanted].all()
    # What is read besides lies in gaps of at most so many bytes; longer ones are left out.
    edges = np.flatnonzero(np.diff(np.concatenate([[1], wanted[: starts.max()], [1]])))
    gaps = [(a, b) for a, b in edges.reshape(-1, 2).tolist() if a > starts.min()]
    assert all(read[a:b].all() == (b - a <= gap) for a, b in gaps)


def test_what_lies_between_kept_records_is_not_mapped(
    ffcv_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped: list[tuple[int, int]] = []

    class Recording(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
            assert length is not None
            if option == copying._POPULATE_READ:
                mapped.append((start, length))  # not every system knows the call itself
            else:
                super().madvise(option, start, length)

    parent = open_bundle(ffcv_folder / "pages.beton")
    place = np.arange(parent.n_examples) % 12
    keep = np.flatnonzero(np.isin(place, (0, 2, 4, 6)))
    monkeypatch.setattr(copying, "_LONG_RUN", 1 << 40)
    monkeypatch.setattr(copying, "_READ_GAP", 40_000)  # records have 30,000 bytes
    monkeypatch.setattr(mmap, "mmap", Recording)
    cut(parent, tmp_path / "x.beton", keep)
    read = np.zeros(len(parent.data), bool)
    for start, length in mapped:
        read[start : start + length] = True
    middle = parent.extents[:, 0].sum(axis=1) - parent.extents[:, 0, 1] // 2
    # A few stretches are cut in two where a page of the child ends; a lone record is not mapped.
    assert read[middle[keep]].mean() > 0.8
    assert not read[middle[(place >= 8) & (place <= 10)]].any()


@pytest.mark.parametrize("call", ["copy_file_range", "pwritev"])
def test_a_full_disk_leaves_nothing(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying, "_LONG_RUN", 0 if call == "copy_file_range" else 1 << 40)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        cut(open_bundle(digits_bundle), tmp_path / "x.beton", np.array([1]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "size"), [("copy_file_range", 0), ("pwritev", 1 << 40)])
@pytest.mark.parametrize("left", [100_000, 200_000, 260_000])
def test_a_parent_truncated_while_it_is_copied(
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    size: int,
    left: int,
) -> None:
    path = tmp_path / "parent.beton"
    path.write_bytes(digits_bundle.read_bytes())
    parent = open_bundle(path)
    whole = getattr(os, call)

    def truncating(*arguments: Any) -> int:
        os.truncate(path, left)
        return int(whole(*arguments))

    monkeypatch.setattr(copying, "_LONG_RUN", size)
    monkeypatch.setattr(os, call, truncating)
    with pytest.raises(BundleError, match=r"one that ends sooner|another one in its place"):
        cut(parent, tmp_path / "x.beton", KEEP)
    assert list(tmp_path.iterdir()) == [path]


# ---- order


def test_orders(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    ids = np.array([900, 3, 77, 1200, 5])
    expected = contents(parent)
    found = {}
    for order in ("parent", "ids", "shuffled"):
        cut(parent, tmp_path / f"{order}.beton", ids, order=order, seed=4)
        child = open_bundle(tmp_path / f"{order}.beton")
        assert contents(child) == {i: expected[i] for i in ids.tolist()}
        assert verify(child, deep=True).ok
        found[order] = child.example_ids.tolist()
    assert found["parent"] == sorted(ids.tolist())
    assert found["ids"] == ids.tolist()
    by_hash = shuffled_order(np.sort(ids), 4, 0)
    assert found["shuffled"] == np.sort(ids)[by_hash].tolist()


def test_shuffling_all_classes_apart(digits_bundle: Path, tmp_path: Path) -> None:
    """A class-sorted bundle: in shuffled order neighbours are of one class as often as chance."""
    parent = open_bundle(digits_bundle)
    by_class = parent.example_ids[np.argsort(parent.labels, kind="stable")]
    cut(parent, tmp_path / "sorted.beton", by_class, order="ids")
    labels = open_bundle(tmp_path / "sorted.beton").labels
    assert (labels[1:] == labels[:-1]).mean() > 0.99
    cut(
        open_bundle(tmp_path / "sorted.beton"), tmp_path / "mixed.beton", by_class, order="shuffled"
    )
    labels = open_bundle(tmp_path / "mixed.beton").labels
    assert 0.07 < (labels[1:] == labels[:-1]).mean() < 0.13


def test_an_unknown_order(digits_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--order: expected parent, shuffled or ids"):
        cut(open_bundle(digits_bundle), tmp_path / "x.beton", KEEP, order="best")  # type: ignore[arg-type]


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

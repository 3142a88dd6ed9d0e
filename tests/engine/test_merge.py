"""merge and shard: byte copies, nothing lost, nothing doubled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffcv_bundles import N_MIXED, N_SMALL
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.merge import merge
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.shard import shard
from tamis.bundles.verify import verify
from tamis.errors import BundleError, ScoreTableError, UsageError
from tamis.score_table import unscored_table
from tamis.selection.files import read_selected_ids, write_selection
from tamis.selection.selecting import select
from tamis.selection.settings import SelectionSettings
from tamis.sources.opening import open_source


def records(bundle: Bundle) -> list[tuple[bytes, ...]]:
    return [
        tuple(bundle.data[offset : offset + size].tobytes() for offset, size in row)
        for row in bundle.extents.tolist()
    ]


# ---- shard


@pytest.mark.parametrize("n_shards", [1, 2, 7, 1347])
def test_shards_merge_back_into_their_bundle(
    digits_bundle: Path, tmp_path: Path, n_shards: int
) -> None:
    parent = open_bundle(digits_bundle)
    report = shard(parent, tmp_path / "shards", n_shards)
    assert report.files == tuple(
        tmp_path / "shards" / f"digits-{i:05d}-of-{n_shards:05d}.beton" for i in range(n_shards)
    )
    assert sum(report.n_examples) == 1347
    assert max(report.n_examples) - min(report.n_examples) <= 1
    assert sorted((tmp_path / "shards").iterdir()) == sorted(report.files)
    if n_shards == 1347:
        return  # merging opens every shard
    shards = [open_bundle(file) for file in report.files]
    assert [bundle.n_examples for bundle in shards] == list(report.n_examples)
    if n_shards > 1:
        merge(shards, tmp_path / "merged.beton")
        merged = open_bundle(tmp_path / "merged.beton")
        assert merged.digest == parent.digest
        assert records(merged) == records(parent)
        assert merged.manifest is not None
        assert merged.manifest.full_examples == 1347  # not 1347 for every shard
        assert verify(merged, deep=True).ok


def test_shuffled_shards_are_random_samples(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    files = shard(parent, tmp_path, 3, order="shuffled", seed=5).files
    ids = [open_bundle(file).example_ids for file in files]
    assert sorted(np.concatenate(ids).tolist()) == sorted(parent.example_ids.tolist())
    for part in ids:
        assert 0.4 < (part > np.median(parent.example_ids)).mean() < 0.6


def test_sharding_refuses(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    for n_shards in (0, -1, 1348):
        with pytest.raises(UsageError, match=r"-n: expected 1 to 1,347 shards"):
            shard(parent, tmp_path / "x", n_shards)
    assert not (tmp_path / "x").exists()
    files = shard(parent, tmp_path, 2).files
    files[0].unlink()
    with pytest.raises(UsageError, match="--overwrite"):  # before the first one is written
        shard(parent, tmp_path, 2)
    assert not files[0].exists()
    assert len(shard(parent, tmp_path, 2, overwrite=True).files) == 2


def test_shards_of_another_split_are_not_mixed_in(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    (tmp_path / "digits-of-mine.beton").touch()
    shard(parent, tmp_path, 3)
    with pytest.raises(UsageError, match=r"split into 2, found digits-00000-of-00003\.beton"):
        shard(parent, tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 4
    shard(parent, tmp_path, 3, overwrite=True)


# ---- merge


def test_merging_in_the_order_given(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    ids = parent.example_ids
    cut(parent, tmp_path / "a.beton", ids[:50])
    cut(parent, tmp_path / "b.beton", ids[900:930])
    a, b = open_bundle(tmp_path / "a.beton"), open_bundle(tmp_path / "b.beton")
    report = merge([b, a], tmp_path / "x.beton")
    merged = open_bundle(tmp_path / "x.beton")
    assert report.n_examples == 80
    assert report.n_bundles == 2
    assert merged.example_ids.tolist() == [*ids[900:930], *ids[:50]]
    assert records(merged) == records(b) + records(a)
    assert merged.labels.tolist() == [*b.labels, *a.labels]
    assert merged.paths is not None
    assert merged.paths.to_pylist() == [*b.paths.to_pylist(), *a.paths.to_pylist()]  # type: ignore[union-attr]
    assert merged.classes == parent.classes
    # A selection from either, or from their parent, still means the same examples.
    digests = [ancestor.digest for ancestor in merged.lineage]
    assert digests == [merged.digest, b.digest, a.digest, parent.digest]


def test_a_selection_of_a_part_applies_to_the_whole_and_not_after_renumbering(
    digits_bundle: Path, tmp_path: Path
) -> None:
    parent = open_bundle(digits_bundle)
    cut(parent, tmp_path / "a.beton", parent.example_ids[100:150])
    cut(parent, tmp_path / "b.beton", parent.example_ids[900:930])
    a, b = open_bundle(tmp_path / "a.beton"), open_bundle(tmp_path / "b.beton")
    kept = select(unscored_table(a), SelectionSettings(side="random", keep=0.2))
    write_selection(kept, tmp_path / "kept.parquet")
    merge([a, b], tmp_path / "same.beton")
    merge([a, b], tmp_path / "new.beton", renumber=True)
    same, new = open_bundle(tmp_path / "same.beton"), open_bundle(tmp_path / "new.beton")
    assert read_selected_ids(tmp_path / "kept.parquet", same).tolist() == sorted(kept.example_ids)
    with pytest.raises(ScoreTableError, match="one from another bundle"):
        read_selected_ids(tmp_path / "kept.parquet", new)
    assert new.example_ids.tolist() == list(range(80))
    assert records(new) == records(same)
    assert new.manifest is not None
    assert [entry["digest"] for entry in new.manifest.settings["bundles"]] == [a.digest, b.digest]


def test_ids_that_clash(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    cut(parent, tmp_path / "a.beton", parent.example_ids[:50])
    cut(parent, tmp_path / "b.beton", parent.example_ids[48:60])
    a, b = open_bundle(tmp_path / "a.beton"), open_bundle(tmp_path / "b.beton")
    message = r"b.beton: expected no example id of .*a.beton, found 2 ids that occur twice, the"
    with pytest.raises(UsageError, match=message + rf" first is {parent.example_ids[48]};"):
        merge([a, b], tmp_path / "x.beton")
    assert not (tmp_path / "x.beton").exists()
    merge([a, b], tmp_path / "x.beton", renumber=True)
    assert open_bundle(tmp_path / "x.beton").n_examples == 62


def test_bundles_of_plain_ffcv(ffcv_folder: Path, tmp_path: Path) -> None:
    mixed = open_bundle(ffcv_folder / "mixed.beton")
    with pytest.raises(UsageError, match="--renumber"):
        merge([mixed, mixed], tmp_path / "x.beton")
    merge([mixed, mixed], tmp_path / "x.beton", renumber=True)
    merged = open_bundle(tmp_path / "x.beton")
    assert merged.n_examples == 2 * N_MIXED
    assert records(merged) == records(mixed) * 2
    for name in merged.metadata.dtype.names or ():
        column = merged.metadata[name]
        if column.dtype.kind in "fi":
            assert column.tolist() == mixed.metadata[name].tolist() * 2


def test_other_fields(ffcv_folder: Path, digits_bundle: Path, tmp_path: Path) -> None:
    bundles = [open_bundle(digits_bundle), open_bundle(ffcv_folder / "mixed.beton")]
    with pytest.raises(BundleError, match=r"expected the fields of .*image: rgb_image, label: int"):
        merge(bundles, tmp_path / "x.beton")
    assert list(tmp_path.iterdir()) == []


def test_other_classes(digits_bundle: Path, sample_bundle: Path, tmp_path: Path) -> None:
    bundles = [open_bundle(digits_bundle), open_bundle(sample_bundle)]
    with pytest.raises(BundleError, match="found another class list"):
        merge(bundles, tmp_path / "x.beton", renumber=True)


def test_pages_of_different_size(ffcv_folder: Path, tmp_path: Path) -> None:
    small = open_bundle(ffcv_folder / "small.beton")
    convert(
        open_source("digits"), tmp_path / "d.beton", ConvertSettings(mode="raw", page_size=4 << 20)
    )
    digits = open_bundle(tmp_path / "d.beton")
    assert small.page_size == 2 << 20
    merge([small, digits], tmp_path / "x.beton", renumber=True)
    merged = open_bundle(tmp_path / "x.beton")
    assert merged.page_size == 4 << 20
    assert merged.n_examples == N_SMALL + 1797
    assert merged.classes == digits.classes
    assert verify(merged, deep=True).ok


def test_merging_refuses(digits_bundle: Path, tmp_path: Path) -> None:
    parent = open_bundle(digits_bundle)
    with pytest.raises(UsageError, match="expected two or more bundles"):
        merge([parent], tmp_path / "x.beton")
    cut(parent, tmp_path / "a.beton", parent.example_ids[:5])
    cut(parent, tmp_path / "b.beton", parent.example_ids[5:9])
    bundles = [open_bundle(tmp_path / "a.beton"), open_bundle(tmp_path / "b.beton")]
    with pytest.raises(UsageError, match="found the bundle itself"):
        merge(bundles, tmp_path / "b.beton", overwrite=True)
    assert open_bundle(tmp_path / "b.beton").n_examples == 4

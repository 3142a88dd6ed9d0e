"""A bundle as a source: the same examples, stored in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.verify import verify
from tamis.errors import BundleError, SourceError
from tamis.images import decode_any
from tamis.sources.bundle_images import open_bundle_images


def test_ids_labels_and_paths_are_kept(sample_bundle: Path, tmp_path: Path) -> None:
    whole = open_bundle(sample_bundle)
    cut(whole, tmp_path / "part.beton", np.array([8, 2, 5]), order="ids")
    source = open_bundle_images(tmp_path / "part.beton")
    assert [item.example_id for item in source.items()] == [8, 2, 5]
    assert [item.example_id for item in source.items(1)] == [2, 5]
    assert source.n_bytes == sum(len(item.load()) for item in source.items())  # all are JPEGs
    convert(source, tmp_path / "x.beton", ConvertSettings(max_side=24))
    part, small = open_bundle(tmp_path / "part.beton"), open_bundle(tmp_path / "x.beton")
    assert small.example_ids.tolist() == [8, 2, 5]
    assert small.labels.tolist() == part.labels.tolist()
    assert small.classes == whole.classes
    assert small.paths is not None
    assert part.paths is not None
    assert small.paths.to_pylist() == part.paths.to_pylist()
    assert [parent.digest for parent in small.lineage[1:]] == [part.digest, whole.digest]
    assert small.manifest is not None
    assert small.manifest.full_examples == 9
    for position in range(3):
        _, width, height, _ = small.image_record(position)
        assert max(width, height) == 24
    assert verify(small, deep=True).ok


def test_passing_through_gives_the_same_records(sample_bundle: Path, tmp_path: Path) -> None:
    convert(open_bundle_images(sample_bundle), tmp_path / "x.beton")
    whole, copy = open_bundle(sample_bundle), open_bundle(tmp_path / "x.beton")
    assert copy.checksums.tolist() == whole.checksums.tolist()
    assert copy.digest == whole.digest  # the same content, whatever the manifest says


def test_pixels_from_pixels(digits_bundle: Path, tmp_path: Path) -> None:
    convert(open_bundle_images(digits_bundle), tmp_path / "x.beton", ConvertSettings(mode="raw"))
    assert open_bundle(tmp_path / "x.beton").digest == open_bundle(digits_bundle).digest


def test_jpeg_share(sample_bundle: Path, digits_bundle: Path, tmp_path: Path) -> None:
    """FFCV's proportion: about that share as JPEG, by id, the others as their decoded pixels."""
    digits = open_bundle(digits_bundle)
    for share in (0.0, 0.3, 1.0):
        settings = ConvertSettings(jpeg_share=share)
        convert(open_bundle_images(digits_bundle), tmp_path / "x.beton", settings, overwrite=True)
        is_raw = open_bundle(tmp_path / "x.beton").metadata["f0"]["mode"] == 1
        assert 1 - is_raw.mean() == pytest.approx(share, abs=0.05)
        if share == 0.3:
            # A subset is stored as the whole is: the choice belongs to the id.
            ids = digits.example_ids[500:900]
            cut(digits, tmp_path / "part.beton", ids, overwrite=True)
            part = open_bundle_images(tmp_path / "part.beton")
            convert(part, tmp_path / "y.beton", settings)
            part_raw = open_bundle(tmp_path / "y.beton").metadata["f0"]["mode"] == 1
            assert part_raw.tolist() == is_raw[500:900].tolist()
    convert(open_bundle_images(sample_bundle), tmp_path / "z.beton", ConvertSettings(jpeg_share=0))
    whole, pixels = open_bundle(sample_bundle), open_bundle(tmp_path / "z.beton")
    for position in range(whole.n_examples):
        mode, width, height, record = pixels.image_record(position)
        was, _, _, before = whole.image_record(position)
        expected = before if was == 1 else decode_any(before.tobytes()).reshape(-1)
        assert (mode, len(record)) == (1, height * width * 3)
        assert np.array_equal(record, expected)


def test_a_virtual_bundle(sample_bundle: Path, tmp_path: Path) -> None:
    cut(open_bundle(sample_bundle), tmp_path / "v.beton", np.array([1, 6]), virtual=True)
    convert(open_bundle_images(tmp_path / "v.beton"), tmp_path / "x.beton")
    assert open_bundle(tmp_path / "x.beton").digest == open_bundle(tmp_path / "v.beton").digest


def test_a_bundle_of_plain_ffcv(ffcv_folder: Path, tmp_path: Path) -> None:
    source = open_bundle_images(ffcv_folder / "small.beton", classes=tuple("abcde"))
    convert(source, tmp_path / "x.beton")
    found = open_bundle(tmp_path / "x.beton")
    assert found.classes == tuple("abcde")
    assert found.example_ids.tolist() == list(range(40))
    with pytest.raises(SourceError, match="expected labels from 0 to 1, found the label 4"):
        open_bundle_images(ffcv_folder / "small.beton", classes=("a", "b"))


def test_what_would_be_lost_is_refused(ffcv_folder: Path, digits_bundle: Path) -> None:
    with pytest.raises(SourceError, match=r"one image and one integer.*use tamis cut"):
        open_bundle_images(ffcv_folder / "mixed.beton")
    with pytest.raises(SourceError, match="found another class list"):
        open_bundle_images(digits_bundle, classes=("a", "b"))
    with pytest.raises(BundleError):
        open_bundle_images(Path("nowhere.beton"))


def test_a_damaged_record_is_named(tmp_path: Path, sample_bundle: Path) -> None:
    """A damaged record stops the conversion and is named."""
    data = bytearray(sample_bundle.read_bytes())
    whole = open_bundle(sample_bundle)
    start, size = whole.extents[3, 0].tolist()
    data[start : start + size] = bytes(size)
    (tmp_path / "bad.beton").write_bytes(data)
    with pytest.raises(SourceError, match="expected a readable image"):
        convert(open_bundle_images(tmp_path / "bad.beton"), tmp_path / "x.beton")
    assert not (tmp_path / "x.beton").exists()

"""Bundles whose JPEGs have restart tiles: the same images, by another way of storing them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image

from command_line import answer, refused
from loading import images_of
from sample_images import jpeg_bytes, picture
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.encoding import Record, encode
from tamis.bundles.layout import FieldType, image_fields, make_field
from tamis.bundles.merge import merge
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.shard import shard
from tamis.bundles.trailer import Trailer
from tamis.bundles.verify import verify
from tamis.bundles.writer import BetonWriter
from tamis.errors import BundleError, UsageError
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import Augmentation, RandomResizedCrop
from tamis.manifest import Manifest
from tamis.metrics.campaign import score
from tamis.metrics.registry import get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.sources.base import SourceItem
from tamis.sources.opening import open_source
from tamis.training.recipes import get_recipe
from tamis.training.runs import train_on_bundle

CPU = torch.device("cpu")
N = 12
SCORE: dict[str, Any] = {"mode": "score", "resolution": 20}
TRAIN: dict[str, Any] = {
    "mode": "train",
    "resolution": 64,
    "augmentation": Augmentation(crop=RandomResizedCrop((0.05, 0.4)), flip=True, seed=3),
}
PROGRESSIVE = 9  # its position: 07.jpg among those of class b


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of different sizes, kinds and classes, one of them progressive."""
    root = tmp_path_factory.mktemp("photographs") / "images"
    for i in range(N):
        file = root / "ab"[i % 2] / f"{i:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture(300 + 13 * i, 260 - 7 * i, i))
        if i == 5:
            image = image.convert("L")
        image.save(file, quality=97 if i == 5 else 92, subsampling=(i + 1) % 3, progressive=i == 7)
    Image.fromarray(picture(30, 30, 99)).save(root / "b" / "tiny.png")
    return root


@pytest.fixture(scope="module")
def parent(folder: Path) -> Bundle:
    convert(open_source(str(folder)), folder.parent / "parent.beton")
    return open_bundle(folder.parent / "parent.beton")


@pytest.fixture(scope="module")
def tiled(parent: Bundle, folder: Path) -> Bundle:
    report = cut(parent, folder.parent / "tiled.beton", parent.example_ids, tiles=True)
    assert report.n_tiled == N - 1  # the progressive one and the pixels stay as they are
    return open_bundle(folder.parent / "tiled.beton")


def n_markers(record: NDArray[np.uint8]) -> int:
    """Restart markers; FF Dx cannot stand in entropy-coded data otherwise."""
    return int(((record[:-1] == 0xFF) & (record[1:] >= 0xD0) & (record[1:] <= 0xD7)).sum())


def test_the_images_are_the_parents(parent: Bundle, tiled: Bundle) -> None:
    assert verify(tiled, deep=True).ok
    assert tiled.fields == parent.fields
    assert tiled.example_ids.tolist() == parent.example_ids.tolist()
    assert tiled.labels.tolist() == parent.labels.tolist()
    assert tiled.paths is not None
    assert parent.paths is not None
    assert tiled.paths.to_pylist() == parent.paths.to_pylist()
    assert tiled.classes == parent.classes
    for position in range(parent.n_examples):
        before, after = (bundle.image_record(position)[3] for bundle in (parent, tiled))
        assert np.array_equal(decode_image(parent, position), decode_image(tiled, position))
        changed = after[0] == 0xFF and position != PROGRESSIVE
        assert (n_markers(after) > 3) == changed
        assert np.array_equal(before, after) == (not changed)
    assert tiled.extents[..., 1].sum() <= 1.01 * parent.extents[..., 1].sum()
    assert tiled.manifest is not None
    assert tiled.manifest.settings["tiles"] is True
    assert tiled.lineage[1].digest == parent.digest


def test_loaders_show_the_same_with_and_without(parent: Bundle, tiled: Bundle) -> None:
    for backend in ("ffcv", "dali", "memory"):
        for options in SCORE, TRAIN:
            shown = []
            for bundle in (parent, tiled):
                loader = open_loader(bundle, backend=backend, batch_size=5, seed=1, **options)
                loader.set_epoch(2)
                shown.append(images_of(loader))
            assert list(shown[0]) == list(shown[1])
            for example_id, pixels in shown[0].items():
                assert np.array_equal(pixels, shown[1][example_id])


@pytest.mark.parametrize("loader", ["ffcv", "memory"])
def test_scores_and_training_are_the_same(parent: Bundle, tiled: Bundle, loader: str) -> None:
    recipe = get_recipe("small", {"epochs": 2, "width": 4, "resolution": 24, "random_crop": True})
    whole = replace(recipe, random_crop=False)
    found = []
    for bundle in (parent, tiled):
        campaign = CampaignSettings(whole, models=1, loader=loader)
        table = score(bundle, get_metrics(["el2n", "forgetting", "aum"]), campaign, CPU).table
        trained, record = train_on_bundle(bundle, bundle, recipe, loader="ffcv", device=CPU)
        weights = [value.numpy() for value in trained.model.state_dict().values()]
        losses = [np.array(record.test_loss)]
        found.append([column.values for column in table.columns.values()] + weights + losses)
    assert len(found[0]) > 20
    for before, after in zip(*found, strict=True):
        assert np.array_equal(before, after)


def test_tiles_are_made_once_and_carried_on(parent: Bundle, tiled: Bundle, tmp_path: Path) -> None:
    again = cut(tiled, tmp_path / "again.beton", tiled.example_ids, tiles=True)
    assert again.n_tiled == 0
    assert open_bundle(tmp_path / "again.beton").digest == tiled.digest
    shards = shard(tiled, tmp_path / "shards", 3).files
    merge([open_bundle(file) for file in shards], tmp_path / "merged.beton")
    assert open_bundle(tmp_path / "merged.beton").digest == tiled.digest
    # First the tiles or first the pruning, in any order of the examples, of a list or of records.
    few = parent.example_ids[[8, 2, 5]]
    cut(tiled, tmp_path / "a.beton", few, order="ids")
    cut(parent, tmp_path / "list.beton", few, order="ids", virtual=True)
    virtual = open_bundle(tmp_path / "list.beton")
    for bundle in (parent, virtual):
        report = cut(bundle, tmp_path / "b.beton", few, order="ids", tiles=True, overwrite=True)
        assert (report.n_examples, report.n_tiled) == (3, 3)
        assert open_bundle(tmp_path / "b.beton").digest == open_bundle(tmp_path / "a.beton").digest


def test_convert_makes_the_same(folder: Path, tiled: Bundle, tmp_path: Path) -> None:
    settings = ConvertSettings(tiles=True)
    report = convert(open_source(str(folder)), tmp_path / "x.beton", settings, workers=3)
    assert (report.n_passed_through, report.n_encoded, report.n_tiled) == (1, 1, N - 1)
    made = open_bundle(tmp_path / "x.beton")
    assert made.digest == tiled.digest
    assert made.manifest is not None
    assert made.manifest.settings["tiles"] is True
    # What is encoded anyway is given tiles, too.
    smaller = ConvertSettings(tiles=True, max_side=290, quality=98)
    report = convert(open_source(str(folder)), tmp_path / "small.beton", smaller)
    assert (report.n_passed_through, report.n_encoded, report.n_tiled) == (0, N + 1, 0)
    small = open_bundle(tmp_path / "small.beton")
    assert verify(small, deep=True).ok
    assert all(n_markers(small.image_record(i)[3]) > 3 for i in range(N))


def test_no_record_outgrows_its_page_for_tiles() -> None:
    image, sink = Image.fromarray(picture(320, 200, 1)), io.BytesIO()
    image.save(sink, "JPEG", quality=97, optimize=True)
    data = sink.getvalue()
    item, settings = SourceItem("x.jpg", 0, lambda: data, None), ConvertSettings(tiles=True)
    record = encode(0, item, settings, 1 << 20)
    assert isinstance(record, Record)
    assert (record.tiled, record.passed_through) == (True, False)
    assert len(record.data) > len(data)
    record = encode(0, item, settings, len(record.data) - 1)
    assert isinstance(record, Record)
    assert (record.data, record.tiled, record.passed_through) == (data, False, True)


def test_other_fields_are_kept(tmp_path: Path) -> None:
    """A bundle with text before the image, every other one empty."""
    fields = (make_field("note", FieldType.BYTES), *image_fields())
    jpegs = [jpeg_bytes(Image.fromarray(picture(200 + i, 150, i))) for i in range(6)]
    notes = [b"x" * i * (i % 2) for i in range(6)]
    sizes = np.array([[len(note), len(jpeg)] for note, jpeg in zip(notes, jpegs, strict=True)])
    with BetonWriter(tmp_path / "notes.beton", fields, 6, 2 << 20) as writer:
        room = np.maximum(sizes, 1)
        starts = writer.place(room.sum(axis=1))
        extents = np.stack([starts[:, None] + np.cumsum(room, axis=1) - room, sizes], axis=2)
        for i in range(6):
            for payload, (offset, _) in zip((notes[i], jpegs[i]), extents[i].tolist(), strict=True):
                writer.write(payload, offset)
        metadata = np.zeros(6, writer.dtype)
        metadata["f0"]["size"] = sizes[:, 0]
        metadata["f1"]["width"], metadata["f1"]["height"] = 200 + np.arange(6), 150
        metadata["f2"] = np.arange(6) % 3
        checksums = [
            xxhash.xxh3_64_intdigest(note + jpeg) for note, jpeg in zip(notes, jpegs, strict=True)
        ]
        ids = np.arange(6) * 7
        trailer = Trailer(ids, [None] * 6, np.array(checksums, np.uint64), Manifest("convert"))
        writer.finish(metadata, extents, trailer)
    parent = open_bundle(tmp_path / "notes.beton")
    assert verify(parent, deep=True).ok
    report = cut(parent, tmp_path / "x.beton", ids[::-1], order="ids", tiles=True)
    assert report.n_tiled == 6
    child = open_bundle(tmp_path / "x.beton")
    assert verify(child, deep=True).ok
    assert child.fields == parent.fields
    for position in range(6):
        offset, size = child.extents[position, 0].tolist()
        assert child.data[offset : offset + size].tobytes() == notes[5 - position]
        assert child.labels[position] == (5 - position) % 3
        assert np.array_equal(decode_image(child, position), decode_image(parent, 5 - position))


def test_bundles_of_plain_ffcv(ffcv_folder: Path, tmp_path: Path) -> None:
    for name in ("mixed", "pages"):  # all pixels, in several pages
        parent = open_bundle(ffcv_folder / f"{name}.beton")
        report = cut(parent, tmp_path / f"{name}.beton", parent.example_ids, tiles=True)
        assert report.n_tiled == 0
        assert open_bundle(tmp_path / f"{name}.beton").digest == parent.digest


def test_a_damaged_record_gets_no_new_checksum(parent: Bundle, tmp_path: Path) -> None:
    data = bytearray(parent.path.read_bytes())
    data[int(parent.extents[3, 0, 0]) + 700] ^= 1
    (tmp_path / "damaged.beton").write_bytes(data)
    damaged = open_bundle(tmp_path / "damaged.beton")
    with pytest.raises(BundleError, match=r"in example 3 \(.*found other bytes than were written"):
        cut(damaged, tmp_path / "x.beton", damaged.example_ids, tiles=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.beton"]
    cut(damaged, tmp_path / "x.beton", damaged.example_ids[4:], tiles=True)


def test_what_contradicts_itself(parent: Bundle, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tiles: expected a bundle with images of its own"):
        cut(parent, tmp_path / "x.beton", parent.example_ids, tiles=True, virtual=True)
    out = tmp_path / "x.beton"
    line = refused("convert", folder, out, "--tiles", "--mode", "raw")
    assert "expected a mode that stores JPEGs" in line
    line = refused(
        "cut", parent.path, out, "--side", "random", "--keep", 0.5, "--tiles", "--virtual"
    )
    assert "leave one of the two out" in line
    assert not out.exists()


def test_the_command_says_how_many(parent: Bundle, folder: Path, tmp_path: Path) -> None:
    done = answer(
        "cut", parent.path, tmp_path / "x.beton", "--side", "random", "--keep", 1, "--tiles"
    )
    assert (done["n_examples"], done["n_tiled"]) == (N + 1, N - 1)
    done = answer("convert", folder, tmp_path / "y.beton", "--tiles")
    assert done["n_tiled"] == N - 1

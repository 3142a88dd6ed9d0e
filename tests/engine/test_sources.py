from __future__ import annotations

import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from PIL import Image
from sklearn.datasets import load_digits

from sample_images import SAMPLES, picture
from tamis.errors import SourceError, UsageError
from tamis.sources.base import Source
from tamis.sources.digits import Digits, open_digits
from tamis.sources.image_folder import open_image_folder
from tamis.sources.labels import read_classes, read_labels
from tamis.sources.opening import open_source
from tamis.sources.parquet import open_parquet

IMAGE_ENDINGS = {"jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"}
FIRST_TEST_DIGITS = [2, 3, 6, 14, 15, 18, 22, 24, 25, 26]
TEST_DIGITS_HASH = "b6a99cd116c2a805"


def listed(source: Source) -> list[tuple[str | None, int]]:
    return [(item.path, item.label) for item in source.items()]


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def torchvision_order(root: Path) -> list[tuple[str, int]]:
    """ImageFolder.samples by its documentation: classes by name, folders, then files by name."""
    classes = sorted(child.name for child in root.iterdir() if child.is_dir())
    found = []
    for file in root.rglob("*"):
        if file.is_file() and file.name.rpartition(".")[2].lower() in IMAGE_ENDINGS:
            name = file.relative_to(root).parts[0]
            if name in classes:
                found.append((classes.index(name), str(file.parent), file.name))
    return [
        (str(Path(folder).relative_to(root) / name), label) for label, folder, name in sorted(found)
    ]


# ---- image folders


def test_the_sample_folder_in_torchvisions_order(sample_folder: Path) -> None:
    source = open_image_folder(sample_folder)
    assert list(source.paths) == list(SAMPLES.values())
    assert listed(source) == torchvision_order(sample_folder)
    assert source.classes == ("bird", "cat", "dog")
    assert len(source) == len(SAMPLES)
    assert source.largest == max((sample_folder / p).stat().st_size for p in SAMPLES.values())
    for item in source.items():
        assert item.path is not None
        assert item.load() == (sample_folder / item.path).read_bytes()


def test_order_of_awkward_names(tmp_path: Path) -> None:
    # '-' sorts before '/', and '/' before 'a': sorting whole paths would give another order, as
    # would sorting parts. Capitals sort before small letters; numbers sort as text.
    touch(
        tmp_path,
        "b/a/x.jpg",
        "b/a-b/x.jpg",
        "b/a/b/x.jpg",
        "b/ab.jpg",
        "b/a.jpg",
        "B/10.PNG",
        "B/9.png",
        "B/é.webp",
        "10/z.Jpeg",
        "9/deep/er/still/z.tiff",
        "9/notes.txt",
        "9/z.jpg.bak",
        "9/.hidden.bmp",
    )
    touch(tmp_path, "readme.txt", "stray.jpg")
    source = open_image_folder(tmp_path)
    assert source.classes == ("10", "9", "B", "b")
    assert listed(source) == torchvision_order(tmp_path)
    assert listed(source)[-5:] == [
        ("b/a.jpg", 3),
        ("b/ab.jpg", 3),
        ("b/a/x.jpg", 3),
        ("b/a-b/x.jpg", 3),
        ("b/a/b/x.jpg", 3),
    ]
    assert len(source) == 11


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "elsewhere/sub/2.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    assert listed(open_image_folder(tmp_path / "root")) == [("cat/1.jpg", 0), ("cat/sub/2.jpg", 0)]


def test_a_class_list_fixes_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "images/dog/1.jpg", "images/cat/1.jpg", "images/3/1.jpg")
    (tmp_path / "classes.txt").write_text("dog\nbird\n\n cat \nfox\n")
    source = open_source(str(tmp_path / "images"), classes_file=tmp_path / "classes.txt")
    assert source.classes == ("dog", "bird", "cat", "fox")
    assert listed(source) == [("3/1.jpg", 3), ("cat/1.jpg", 2), ("dog/1.jpg", 0)]
    with pytest.raises(SourceError, match=r"images/dog.*unknown class 'dog'"):
        open_image_folder(tmp_path / "images", classes=("cat", "bird", "fox", "owl"))


def test_folders_that_are_no_datasets(tmp_path: Path) -> None:
    touch(tmp_path, "flat/1.jpg", "gap/cat/1.jpg")
    (tmp_path / "gap" / "empty").mkdir()
    with pytest.raises(SourceError, match="no sub-folders"):
        open_image_folder(tmp_path / "flat")
    with pytest.raises(SourceError, match=r"gap/empty.*an empty class"):
        open_image_folder(tmp_path / "gap")


# ---- label files


@pytest.mark.parametrize(
    "text",
    [
        "a b.jpg,dog\nsub/c.jpg,cat\n\n1.jpg,dog\n",
        '"a b.jpg", dog\nsub/c.jpg ,cat\n1.jpg,dog',
        "a b.jpg dog\nsub/c.jpg\tcat\n1.jpg  dog\n",
    ],
)
def test_label_files(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "flat/a b.jpg", "flat/sub/c.jpg", "flat/1.jpg", "flat/unlisted.jpg")
    (tmp_path / "labels").write_text(text)
    source = open_source(str(tmp_path / "flat"), label_file=tmp_path / "labels")
    assert source.classes == ("cat", "dog")
    assert listed(source) == [("a b.jpg", 1), ("sub/c.jpg", 0), ("1.jpg", 1)]
    assert [item.load() for item in source.items()] == [
        b"flat/a b.jpg",
        b"flat/sub/c.jpg",
        b"flat/1.jpg",
    ]


def test_label_numbers_stay_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "labels.csv").write_text("2.jpg,7\n1.jpg,10\n")
    source = open_image_folder(tmp_path, label_file=tmp_path / "labels.csv")
    assert source.classes is None
    assert listed(source) == [("2.jpg", 7), ("1.jpg", 10)]
    known = open_image_folder(
        tmp_path, label_file=tmp_path / "labels.csv", classes=tuple("abcdefghijk")
    )
    assert listed(known) == [("2.jpg", 7), ("1.jpg", 10)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.jpg,cat\n1.jpg,dog\n", "line 2"),
        ("1.jpg\n", "line 1"),
        ("1.jpg,cat,2\n", "line 1"),
        ("1.jpg,\n", "line 1"),
        ("\n\n", "found none"),
        ("missing.jpg,cat\n", "'missing.jpg', which is not there"),
        ("sub,cat\n", "'sub', which is not there"),
        ("../outside.jpg,cat\n", "which is not there"),
    ],
)
def test_unusable_label_files(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "root/1.jpg", "root/sub/2.jpg", "outside.jpg")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_image_folder(tmp_path / "root", label_file=tmp_path / "labels.csv")


def test_label_files_stay_inside_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "root/1.jpg", "outside.jpg")
    (tmp_path / "labels.csv").write_text(f"{tmp_path}/outside.jpg,cat\n")
    with pytest.raises(SourceError, match="files inside"):
        open_image_folder(tmp_path / "root", label_file=tmp_path / "labels.csv")


def test_class_lists(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\ndog\ncat\n")
    with pytest.raises(SourceError, match="'cat' twice"):
        read_classes(path)
    path.write_text("\n \n")
    with pytest.raises(SourceError, match="found none"):
        read_classes(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="expected a text file, found bytes that are not UTF-8"):
        read_labels(path)
    with pytest.raises(SourceError, match="found no file"):
        read_classes(tmp_path / "missing.txt")


# ---- Parquet


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(picture(9, 7, seed)).save(sink, "PNG")
    return sink.getvalue()


def hugging_face_table(
    labels: list[int | None], *, first: int = 0, names: list[str] | None = None
) -> pa.Table:
    """The layout of datasets.Dataset.to_parquet with an Image and a ClassLabel feature."""
    rows = [{"bytes": png((first + i) % 5), "path": f"{first + i}.png"} for i in range(len(labels))]
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    # An integer column before the label: the label goes by its name.
    table = pa.table(
        {"index": list(range(len(labels))), "image": image, "label": pa.array(labels, pa.int64())}
    )
    if names is None:
        return table
    features = {
        "image": {"_type": "Image"},
        "label": {"names": names, "_type": "ClassLabel"},
    }
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def test_a_parquet_folder_in_hugging_faces_layout(tmp_path: Path) -> None:
    # More rows than one batch, in row groups that end in the middle of batches.
    labels: list[int | None] = [i % 3 for i in range(1300)]
    names = ["ant", "bee", "fly"]
    for number, part in ((1, labels[700:]), (0, labels[:700])):
        table = hugging_face_table(part, first=700 * number, names=names)
        pq.write_table(table, tmp_path / f"train-{number:05}.parquet", row_group_size=300)
    source = open_source(str(tmp_path))
    assert source.classes == ("ant", "bee", "fly")
    assert len(source) == 1300
    assert listed(source) == [(f"{i}.png", i % 3) for i in range(1300)]
    pngs = [png(seed) for seed in range(5)]
    assert all(item.load() == pngs[i % 5] for i, item in enumerate(source.items()))
    assert source.describe()["files"] == ["train-00000.parquet", "train-00001.parquet"]


def test_train_and_test_files_are_not_one_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pq.write_table(hugging_face_table([0, 1]), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(SourceError, match="expected the files of one split, found test and train"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path / "train-*.parquet"))
    assert source.describe()["files"] == ["train-00000-of-00001.parquet"]
    with pytest.raises(SourceError, match="found nothing there"):
        open_source(str(tmp_path / "valid-*.parquet"))


def test_a_class_list_does_not_rename_labels(tmp_path: Path) -> None:
    table = hugging_face_table([0, 1], names=["dog", "cat"])
    pq.write_table(table, tmp_path / "x.parquet")
    for classes in (("cat", "dog"), ("dog",)):
        with pytest.raises(SourceError, match="expected a class list with the file's own labels"):
            open_parquet(tmp_path / "x.parquet", classes=classes)
    longer = ("dog", "cat", "cow")
    assert open_parquet(tmp_path / "x.parquet", classes=longer).classes == longer


def test_parquet_without_names_and_with_other_column_names(tmp_path: Path) -> None:
    table = hugging_face_table([4, 0]).drop_columns(["index"])
    pq.write_table(table.rename_columns(["img", "fine_label"]), tmp_path / "x.parquet")
    source = open_parquet(tmp_path / "x.parquet")
    assert (source.image, source.label, source.classes) == ("img", "fine_label", None)
    assert listed(source) == [("0.png", 4), ("1.png", 0)]
    assert open_parquet(tmp_path / "x.parquet", classes=tuple("abcde")).classes == tuple("abcde")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 2], ["a", "b"], "1.png.*a label from 0 to 1, found the unknown class 2"),
        ([0, -1], None, "1.png.*unknown class -1"),
        ([None], None, "0.png.*unknown class None"),
    ],
)
def test_parquet_labels_out_of_range(
    tmp_path: Path, labels: list[int | None], names: list[str] | None, message: str
) -> None:
    pq.write_table(hugging_face_table(labels, names=names), tmp_path / "x.parquet")
    source = open_parquet(tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=message):
        list(source.items())


def test_unusable_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a column image: struct.*found label: int64"):
        open_parquet(tmp_path / "a.parquet")
    pq.write_table(hugging_face_table([1]), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet: expected the schema of a\.parquet"):
        open_parquet(tmp_path)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 or so")
    with pytest.raises(SourceError, match=r"c\.parquet: expected a Parquet file"):
        open_parquet(tmp_path / "c.parquet")
    path = pa.array([b"\xff.png"]).view(pa.string())
    image = pa.StructArray.from_arrays([pa.array([b""]), path], ["bytes", "path"])
    pq.write_table(pa.table({"image": image, "label": [0]}), tmp_path / "d.parquet")
    with pytest.raises(SourceError, match=r"d\.parquet: expected sound Parquet pages, .*UTF8"):
        list(open_parquet(tmp_path / "d.parquet").items())


@pytest.mark.real_data
def test_cifar10(real_data: Path) -> None:
    source = open_source(str(real_data / "cifar10" / "test.parquet"))
    assert source.classes is not None
    assert (len(source), len(source.classes)) == (10_000, 10)
    assert Counter(item.label for item in source.items()) == Counter(dict.fromkeys(range(10), 1000))
    data = next(source.items()).load()
    assert isinstance(data, bytes)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


# ---- digits


def test_digits_are_scikit_learns() -> None:
    bunch = load_digits()
    source = open_digits("digits")
    assert (len(source), source.classes) == (1797, tuple("0123456789"))
    assert np.array_equal(source.labels, bunch.target)
    for position in (0, 1000, 1796):
        expected = np.rint(bunch.images[position] / 16 * 255)
        for channel in range(3):
            assert np.array_equal(source.pixels[position, ..., channel], expected)
    assert (source.pixels.min(), source.pixels.max()) == (0, 255)


def test_digits_split_is_stratified_disjoint_and_fixed() -> None:
    whole, train, test = (open_digits(spec) for spec in ("digits", "digits:train", "digits:test"))
    assert np.intersect1d(train.indices, test.indices).size == 0
    assert np.array_equal(np.union1d(train.indices, test.indices), np.arange(1797))
    for part in (train, test):
        assert (np.diff(part.indices) > 0).all()
        assert np.array_equal(part.labels, whole.labels[part.indices])
        assert np.array_equal(part.pixels, whole.pixels[part.indices])
    sizes = np.bincount(whole.labels)
    assert (np.abs(np.bincount(test.labels) - sizes / 4) <= 0.5).all()
    # Written down once: accuracies of different versions are comparable only on the same split.
    assert (len(train), len(test)) == (1347, 450)
    assert test.indices[:10].tolist() == FIRST_TEST_DIGITS
    assert xxhash.xxh3_64_hexdigest(test.indices.astype("<i8").tobytes()) == TEST_DIGITS_HASH


def test_digits_hand_out_copies_that_name_their_origin() -> None:
    source = open_digits("digits:test")
    item = next(source.items())
    assert (item.path, item.label) == (f"digits/{source.indices[0]:04d}", source.labels[0])
    pixels = item.load()
    assert isinstance(pixels, np.ndarray)
    pixels[:] = 77
    assert not (source.pixels[0] == 77).all()
    assert np.array_equal(next(source.items()).load(), source.pixels[0])


# ---- what the user types


def test_opening(tmp_path: Path, sample_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(hugging_face_table([1]), tmp_path / "x.parquet")
    assert isinstance(open_source("digits:test"), Digits)
    assert len(open_source(str(tmp_path))) == len(open_source(str(tmp_path / "x.parquet"))) == 1
    monkeypatch.chdir(sample_folder.parent)
    assert len(open_source(sample_folder.name)) == len(SAMPLES)


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    for name, found in (
        ("nowhere", "nothing there"),
        ("nowhere.parquet", "nothing there"),
        ("digits:valid", "nothing there"),
        ("file.tar", "a file of another kind"),
    ):
        if name == "file.tar":
            (tmp_path / name).write_bytes(b"tar")
        with pytest.raises(SourceError) as error:
            open_source(os.fspath(tmp_path / name))
        assert error.value.found == found


def test_a_label_file_is_for_image_folders(tmp_path: Path) -> None:
    pq.write_table(hugging_face_table([1]), tmp_path / "x.parquet")
    (tmp_path / "labels").write_text("a.jpg 1\n")
    for spec in ("digits", str(tmp_path), str(tmp_path / "x.parquet")):
        with pytest.raises(UsageError, match="--labels"):
            open_source(spec, label_file=tmp_path / "labels")

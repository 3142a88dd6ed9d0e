from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from source_checks import check_bundle, check_source, listed
from tamis.errors import SourceError, UsageError
from tamis.sources.base import Source
from tamis.sources.opening import open_source

Batches = dict[str, tuple[list[int], NDArray[np.uint8]]]

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUNDRED = [f"class_{number:02}" for number in range(100)]
SIZES = {"data_batch_1": 4, "data_batch_2": 3, "data_batch_3": 1, "data_batch_4": 2}
SIZES |= {"data_batch_5": 3, "test_batch": 5}


def batches(sizes: dict[str, int], n_classes: int) -> Batches:
    """Labels and (n, 32, 32, 3) pixels of each file."""
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.integers(0, n_classes, size).tolist(),
            rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
        )
        for name, size in sizes.items()
    }


CIFAR10 = batches(SIZES, 10)
CIFAR100 = batches({"train": 7, "test": 4}, 100)


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 3072): the red plane by rows, then green, then blue."""
    return np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images])


def python_2(value: object) -> bytes:
    """Protocol 2 with the module names of the NumPy of that time, as in the published files."""
    return pickle.dumps(value, 2).replace(b"cnumpy._core.", b"cnumpy.core.")


def write_binary(folder: Path, data: Batches, names: list[str], names_file: str) -> Path:
    folder.mkdir(parents=True)
    for name, (labels, images) in data.items():
        with (folder / f"{name}.bin").open("wb") as file:
            for label, row in zip(labels, planes(images), strict=True):
                coarse = b"" if names_file == "batches.meta.txt" else bytes([label // 5])
                file.write(coarse + bytes([label]) + row.tobytes())
    (folder / names_file).write_text("\n".join(names) + "\n\n")
    (folder / "readme.html").write_text("http://www.cs.toronto.edu/~kriz/cifar.html")
    return folder


def write_python(folder: Path, data: Batches, names: list[str], fine: bool) -> Path:
    folder.mkdir(parents=True)
    prefix = b"fine_" if fine else b""
    for name, (labels, images) in data.items():
        batch: dict[bytes, object] = {
            b"batch_label": name.encode(),
            prefix + b"labels": labels,
            b"data": planes(images),
            b"filenames": [b"x_s_%06d.png" % row for row in range(len(labels))],
        }
        if fine:
            batch[b"coarse_labels"] = [label // 5 for label in labels]
        (folder / name).write_bytes(python_2(batch))
    meta = {prefix + b"label_names": [name.encode() for name in names], b"num_vis": 3072}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(python_2(meta))
    return folder


def write_form(tmp_path: Path, form: str) -> Path:
    kind, _, storage = form.partition(" ")
    writers: dict[str, Callable[[Path], Path]] = {
        "cifar-10-binary": lambda folder: write_binary(
            folder / "cifar-10-batches-bin", CIFAR10, TEN, "batches.meta.txt"
        ),
        "cifar-10-python": lambda folder: write_python(
            folder / "cifar-10-batches-py", CIFAR10, TEN, fine=False
        ),
        "cifar-100-binary": lambda folder: write_binary(
            folder / "cifar-100-binary", CIFAR100, HUNDRED, "fine_label_names.txt"
        ),
        "cifar-100-python": lambda folder: write_python(
            folder / "cifar-100-python", CIFAR100, HUNDRED, fine=True
        ),
    }
    folder = writers[kind](tmp_path)
    if storage != "archive":
        return folder
    path = tmp_path / f"{kind}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:  # in another order than that of the batches
        for file in sorted(folder.iterdir(), reverse=True):
            archive.add(file, f"{folder.name}/{file.name}")
    return path


FORMS = [
    f"cifar-{n}-{kind} {storage}"
    for n in (10, 100)
    for kind in ("binary", "python")
    for storage in ("folder", "archive")
]


def expected(form: str, part: str) -> list[tuple[str, int, NDArray[np.uint8]]]:
    """torchvision's order: data_batch_1 to 5 one after the other, or the only file."""
    data = CIFAR100 if "100" in form else CIFAR10
    files = [name for name in sorted(data) if name.startswith("test") == (part == "test")]
    return [
        (f"{name}/{row:05d}", label, image)
        for name in files
        for row, (label, image) in enumerate(zip(*data[name], strict=True))
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_every_form_gives_the_same(tmp_path: Path, form: str, part: str) -> None:
    path = write_form(tmp_path, form)
    source = open_source(f"{path}:{part}")
    check_source(source, expected(form, part))
    assert source.classes == tuple(HUNDRED if "100" in form else TEN)
    assert source.describe() == {"kind": "cifar", "name": path.name, "part": part}


@pytest.mark.parametrize("form", FORMS)
def test_they_convert(tmp_path: Path, form: str) -> None:
    path = write_form(tmp_path, form)
    check_bundle(open_source(f"{path}:train"), tmp_path / "x.beton")


@pytest.mark.parametrize("form", FORMS)
def test_a_part_must_be_named(tmp_path: Path, form: str) -> None:
    path = write_form(tmp_path, form)
    with pytest.raises(UsageError) as error:
        open_source(str(path))
    assert error.value.expected == f"a part: {path}:train or {path}:test"
    with pytest.raises(UsageError, match="found 'valid'"):
        open_source(f"{path}:valid")


def test_a_colon_in_a_path(tmp_path: Path) -> None:
    path = write_form(tmp_path / "10:30", FORMS[0])
    assert len(open_source(f"{path}:test")) == 5
    moved = path.rename(path.with_name("cifar:train"))
    with pytest.raises(UsageError, match="found none"):  # the folder, not its part
        open_source(str(moved))
    assert len(open_source(f"{moved}:test")) == 5


def test_it_has_its_own_labels_and_classes(tmp_path: Path) -> None:
    path = write_form(tmp_path, FORMS[0])
    (tmp_path / "list").write_text("a.jpg 1\n")
    with pytest.raises(UsageError, match="--labels"):
        open_source(f"{path}:train", label_file=tmp_path / "list")
    with pytest.raises(UsageError, match="--classes"):
        open_source(f"{path}:train", classes_file=tmp_path / "list")


def test_fingerprints_change_with_the_files(tmp_path: Path) -> None:
    path = write_form(tmp_path, FORMS[0])
    prints = {open_source(f"{path}:{part}").fingerprint for part in ("train", "test")}
    os.utime(path / "data_batch_3.bin", (0, 0))
    prints |= {open_source(f"{path}:{part}").fingerprint for part in ("train", "test")}
    assert len(prints) == 3


# ---- damaged files


def opened(tmp_path: Path, form: str, change: Callable[[Path], object]) -> Source:
    """The training part of a folder or archive whose files were changed."""
    path = write_form(tmp_path, form)
    change(path)
    return open_source(f"{path}:train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data_batch_3.bin", r"found no data_batch_3\.bin; download it again and leave all its"),
        ("batches.meta.txt", r"found no batches\.meta\.txt"),
    ],
)
def test_missing_files(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, "cifar-10-binary folder", lambda path: (path / name).unlink())


def test_a_missing_file_of_the_other_part_does_not_matter(tmp_path: Path) -> None:
    path = write_form(tmp_path, "cifar-10-binary folder")
    (path / "test_batch.bin").unlink()
    assert len(open_source(f"{path}:train")) == 13


@pytest.mark.parametrize("size", [0, 3072, 3073 * 2 + 1])
def test_files_of_a_wrong_size(tmp_path: Path, size: int) -> None:
    with pytest.raises(SourceError, match=f"records of 3073 bytes, found {size} bytes"):
        opened(
            tmp_path,
            "cifar-10-binary folder",
            lambda path: (path / "data_batch_5.bin").write_bytes(bytes(size)),
        )


def test_labels_out_of_range(tmp_path: Path) -> None:
    record = bytes(3073) + b"\x0a" + bytes(3072)
    with pytest.raises(
        SourceError, match=r"data_batch_2\.bin: .*labels from 0 to 9, found the label 10"
    ):
        opened(
            tmp_path,
            "cifar-10-binary folder",
            lambda path: (path / "data_batch_2.bin").write_bytes(record),
        )


def batch(**changes: object) -> bytes:
    fields: dict[bytes, object] = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 9]}
    return python_2(fields | {key.encode(): value for key, value in changes.items()})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (batch(labels=[0]), r"an array \(n, 3072\) for 1 labels, found \(2, 3072\)"),
        (batch(labels=[0, -1]), "labels from 0 to 9, found the label -1"),
        (batch(labels=[0, 10]), "labels from 0 to 9, found the label 10"),
        (batch(labels=[0, 1 << 80]), "a list of numbers under b'labels'"),
        (batch(labels=[0, b"1"]), "a list of numbers under b'labels'"),
        (batch(labels=None), "a list of numbers under b'labels'"),
        (batch(labels=[]), "for 0 labels"),
        (batch(data=np.zeros((2, 3071), np.uint8)), r"found \(2, 3071\)"),
        (batch(data=np.zeros((2, 3072), np.int64)), "an array that is not uint8"),
        (batch(data=[1]), "found none"),
        (batch()[:-20], "expected a pickle of numbers"),
        (b"", "expected a pickle of numbers"),
    ],
)
def test_damaged_pickles(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=f"data_batch_2: .*{message}"):
        opened(
            tmp_path,
            "cifar-10-python folder",
            lambda path: (path / "data_batch_2").write_bytes(data),
        )


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch was-here",)


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_malicious_pickles(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({b"data": Malicious(), b"label_names": Malicious()}, 2)
    with pytest.raises(SourceError, match=r"the name \w+\.system, which could run code"):
        opened(tmp_path, "cifar-10-python folder", lambda path: (path / name).write_bytes(data))
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("text", ["cat\n" * 10, "cat\ndog\n", ""])
def test_class_names(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"batches\.meta\.txt: expected 10 different class names"):
        opened(
            tmp_path,
            "cifar-10-binary folder",
            lambda path: (path / "batches.meta.txt").write_text(text),
        )


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    def grow(path: Path) -> None:
        os.truncate(path / "data_batch_1.bin", 200_000_001)  # sparse: takes no disk

    with pytest.raises(SourceError, match=r"expected at most 200000000 bytes, found 200000001"):
        opened(tmp_path, "cifar-10-binary folder", grow)


def test_a_member_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.size = 1 << 40
    path.write_bytes(gzip.compress(info.tobuf() + bytes(4096)))
    with pytest.raises(SourceError, match="at most 200000000 bytes, found 1099511627776"):
        open_source(f"{path}:train")


def test_damaged_archives(tmp_path: Path) -> None:
    path = write_form(tmp_path, "cifar-10-binary archive")
    whole = path.read_bytes()
    for cut in (len(whole) // 3, len(whole) - 1, len(whole) - 8, 10, 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"a whole tar|a tar archive"):
            open_source(f"{path}:train")
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])  # gzip's checksum
    with pytest.raises(SourceError, match="CRC check failed"):
        open_source(f"{path}:train")


def test_members_are_read_from_their_own_folder_and_never_through_links(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../cifar-10-batches-bin/data_batch_1.bin", "elsewhere/data_batch_1.bin"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(SourceError, match=r"found no batches\.meta\.txt"):
        open_source(f"{path}:train")
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(SourceError, match="found a member of another kind"):
        open_source(f"{path}:train")


def test_a_file_that_changes_between(tmp_path: Path) -> None:
    path = write_form(tmp_path, "cifar-10-binary folder")
    source = open_source(f"{path}:train")
    (path / "data_batch_4.bin").write_bytes(bytes(3073))
    with pytest.raises(
        SourceError, match="expected the 2 images that it held, found 1; start again"
    ):
        listed(source)


def test_folders_that_only_look_alike(tmp_path: Path) -> None:
    for name in ("train/cat/1.jpg", "test/dog/1.jpg", "meta"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert open_source(str(tmp_path)).classes == ("test", "train")
    shutil.copy(write_form(tmp_path / "x", FORMS[0]) / "test_batch.bin", tmp_path)
    assert open_source(str(tmp_path / "train")).classes == ("cat",)

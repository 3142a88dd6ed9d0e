from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from source_checks import listed
from tamis.errors import SourceError
from tamis.sources.image_folder import ImageFolder
from tamis.sources.opening import open_source


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def test_the_last_error_lists_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.doc").touch()
    for name, found in (("x.doc", "a file of another kind"), ("y", "nothing there")):
        with pytest.raises(SourceError) as error:
            open_source(str(tmp_path / name))
        assert error.value.found == found
        for kind in (
            "class folders",
            "parquet",
            "tar",
            "WebDataset",
            "CIFAR",
            "MNIST",
            "mat",
            "digits",
        ):
            assert kind in error.value.expected


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("images:train", "nothing there"),  # a folder of class folders has no parts
        ("x.doc:train", "nothing there"),
        ("digits:valid", "another part"),
        (":train", "nothing there"),
        ("x.tar.gz", "nothing there"),
        ("x.mat", "nothing there"),
        ("x-images-idx3-ubyte", "nothing there"),
    ],
)
def test_what_has_no_parts_or_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, found: str
) -> None:
    touch(tmp_path, "images/cat/1.jpg", "x.doc")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as error:
        open_source(spec)
    assert error.value.found == found


def test_colons_are_parts_only_where_the_path_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "a:train/cat/1.jpg", "a/dog/1.jpg", "12:30/x/cat/1.jpg")
    assert open_source(str(tmp_path / "a:train")).classes == ("cat",)
    assert open_source(str(tmp_path / "12:30" / "x")).classes == ("cat",)
    with tarfile.open(tmp_path / "12:30" / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("set/cat/1.jpg"), io.BytesIO())
    assert listed(open_source(f"{tmp_path}/12:30/x.tar:set")) == [("cat/1.jpg", 0)]


@pytest.mark.parametrize(
    "extra",
    ["train.tar/1.jpg", "cat/shard-000.tar", "1.tar"],
    ids=["a folder", "inside a class", "beside classes"],
)
def test_tars_among_folders_are_no_shards(tmp_path: Path, extra: str) -> None:
    touch(tmp_path, "cat/1.jpg", extra)
    assert isinstance(open_source(str(tmp_path)), ImageFolder)


def test_tars_among_images_are_no_shards(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.jpg", "images/backup.tar", "labels")
    (tmp_path / "labels").write_text("1.jpg cat\n")
    source = open_source(str(tmp_path / "images"), label_file=tmp_path / "labels")
    assert listed(source) == [("1.jpg", 0)]


def test_names_in_capitals(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "X.TAR", "w") as archive:
        archive.addfile(tarfile.TarInfo("cat/1.jpg"), io.BytesIO())
    assert listed(open_source(os.fspath(tmp_path / "X.TAR"))) == [("cat/1.jpg", 0)]

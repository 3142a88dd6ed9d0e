from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sample_images import jpeg_bytes, picture
from source_checks import check_bundle, check_source, listed
from tamis.errors import SourceError, UsageError
from tamis.sources.image_folder import open_image_folder
from tamis.sources.opening import open_source

# Classes and files out of order, as they may lie in a tar.
FILES = {
    "n01443537": ["n01443537_2.JPEG", "n01443537_10026.JPEG"],
    "n01440764": ["n01440764_9.JPEG", "n01440764_10027.JPEG", "n01440764_10026.JPEG"],
    "n02119789": ["n02119789_1.JPEG"],
}


def tar_bytes(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def image(name: str) -> bytes:
    seed = int(name.partition("_")[2].partition(".")[0])
    return jpeg_bytes(Image.fromarray(picture(24 + seed % 7, 20, seed)))


@pytest.fixture
def train_tar(tmp_path: Path) -> Path:
    inner = {
        f"{wnid}.tar": tar_bytes({name: image(name) for name in names})
        for wnid, names in FILES.items()
    }
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_bytes(inner))
    return path


def test_the_same_as_the_unpacked_folder(train_tar: Path, tmp_path: Path) -> None:
    with tarfile.open(train_tar) as outer:
        for member in outer.getmembers():
            stream = outer.extractfile(member)
            assert stream is not None
            with tarfile.open(fileobj=stream) as inner:
                inner.extractall(
                    tmp_path / "train" / member.name.removesuffix(".tar"), filter="data"
                )
    folder = open_image_folder(tmp_path / "train")
    source = open_source(str(train_tar))
    assert source.classes == folder.classes == ("n01440764", "n01443537", "n02119789")
    assert listed(source) == listed(folder)
    assert (source.largest, source.n_bytes) == (folder.largest, folder.n_bytes)
    for ours, theirs in zip(source.items(), folder.items(), strict=True):
        assert ours.load() == theirs.load()


def test_paths_and_labels(train_tar: Path) -> None:
    source = open_source(str(train_tar))
    expected = [
        ("n01440764/n01440764_10026.JPEG", 0),
        ("n01440764/n01440764_10027.JPEG", 0),
        ("n01440764/n01440764_9.JPEG", 0),
        ("n01443537/n01443537_10026.JPEG", 1),
        ("n01443537/n01443537_2.JPEG", 1),
        ("n02119789/n02119789_1.JPEG", 2),
    ]
    check_source(source, [(path, label, image(path.partition("/")[2])) for path, label in expected])
    assert source.describe() == {"kind": "class_tars", "name": "ILSVRC2012_img_train.tar"}


def test_it_converts(train_tar: Path, tmp_path: Path) -> None:
    check_bundle(open_source(str(train_tar)), tmp_path / "x.beton")


def test_a_class_list_fixes_the_labels(train_tar: Path, tmp_path: Path) -> None:
    names = ("n02119789", "n00000001", "n01440764", "n01443537")
    (tmp_path / "classes").write_text("\n".join(names))
    source = open_source(str(train_tar), classes_file=tmp_path / "classes")
    assert source.classes == names
    assert [label for _, label in listed(source)] == [2, 2, 2, 3, 3, 0]
    (tmp_path / "classes").write_text("n01440764\n")
    with pytest.raises(SourceError, match=r"n01443537\.tar: .*unknown class 'n01443537'"):
        open_source(str(train_tar), classes_file=tmp_path / "classes")


def test_it_has_its_own_labels(train_tar: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a.jpg 1\n")
    with pytest.raises(UsageError, match=r"--labels: .*the inner tars name the classes"):
        open_source(str(train_tar), label_file=tmp_path / "labels")


SOUND = tar_bytes({"a.JPEG": b"1"})


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"a.tar": SOUND, "b.tar": SOUND[:1024]}, r"x\.tar: b\.tar: expected a whole tar"),
        ({"a.tar": SOUND, "b.tar": b"no tar"}, r"b\.tar: expected a tar archive, found a file of"),
        ({"a.tar": SOUND, "b.tar": tar_bytes({"a.txt": b""})}, r"b\.tar: .*an empty class"),
        ({"a.tar": SOUND, "b.tar": tar_bytes({})}, r"b\.tar: .*an empty class"),
        ({"a.tar": SOUND, "sub/a.tar": SOUND}, r"found a\.tar twice"),
        ({"a.tar": tar_bytes({"../a.JPEG": b""})}, r"a\.tar: expected relative names"),
    ],
)
def test_unusable_class_tars(tmp_path: Path, inner: dict[str, bytes], message: str) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(inner))
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / "x.tar"))


def test_many_images_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    members = {f"{i}.JPEG": rng.bytes(int(rng.integers(0, 1500))) for i in rng.permutation(300)}
    (tmp_path / "x.tar").write_bytes(tar_bytes({"c.tar": tar_bytes(members)}))
    source = open_source(str(tmp_path / "x.tar"))
    assert {item.path: item.load() for item in source.items()} == {
        f"c/{name}": data for name, data in members.items()
    }
    assert [path for path, _ in listed(source)] == [f"c/{name}" for name in sorted(members)]

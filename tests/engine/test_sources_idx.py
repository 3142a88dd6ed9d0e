from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from source_checks import check_bundle, check_source, listed
from tamis.errors import SourceError, UsageError
from tamis.sources.idx import open_idx
from tamis.sources.opening import open_source

Pixels = NDArray[np.uint8]


def idx(values: Pixels) -> bytes:
    """The format as its author describes it."""
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def write(path: Path, values: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(idx(values)) if path.suffix == ".gz" else idx(values))
    return path


def drawn(n: int, height: int = 28, width: int = 28) -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (n, height, width), np.uint8), rng.integers(0, 10, n, np.uint8)


def expected(name: str, images: Pixels, labels: Pixels) -> list[tuple[str, int, Pixels]]:
    return [
        (f"{name}/{i:05d}", int(label), np.stack([image] * 3, axis=-1))
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def write_mnist(folder: Path, *, ending: str = "", mark: str = "-idx") -> None:
    for stem, n in (("train", 7), ("t10k", 4)):
        images, labels = drawn(n)
        write(folder / f"{stem}-images{mark}3-ubyte{ending}", images)
        write(folder / f"{stem}-labels{mark}1-ubyte{ending}", labels)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-idx", ".idx"])
def test_mnist(tmp_path: Path, ending: str, mark: str) -> None:
    write_mnist(tmp_path, ending=ending, mark=mark)
    for part, n in (("train", 7), ("test", 4)):
        source = open_source(f"{tmp_path}:{part}")
        check_source(source, expected(part, *drawn(n)))
        assert source.classes is None
    assert source.describe() == {"kind": "idx", "name": f"t10k-images{mark}3-ubyte{ending}"}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("train-images-idx3-ubyte", "train"),
        ("t10k-images-idx3-ubyte.gz", "test"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train"),
        ("x.images.idx3", "x"),
    ],
)
def test_an_images_file_itself(tmp_path: Path, name: str, prefix: str) -> None:
    images, labels = drawn(5, 3, 8)
    path = write(tmp_path / name, images)
    write(
        tmp_path / name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"),
        labels,
    )
    check_source(open_source(str(path)), expected(prefix, images, labels))


def test_only_the_labels_may_be_gzipped(tmp_path: Path) -> None:
    images, labels = drawn(3)
    for first, second in (("", ".gz"), (".gz", "")):
        folder = tmp_path / f"x{first}"
        write(folder / f"train-images-idx3-ubyte{first}", images)
        write(folder / f"train-labels-idx1-ubyte{second}", labels)
        check_source(open_source(f"{folder}:train"), expected("train", images, labels))


def test_it_converts(tmp_path: Path) -> None:
    write_mnist(tmp_path, ending=".gz")
    check_bundle(open_source(f"{tmp_path}:train"), tmp_path / "x.beton")


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 45),
    st.sampled_from(["", ".gz"]),
)
def test_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    height: int,
    width: int,
    start: int,
    ending: str,
) -> None:
    images, labels = drawn(n, height, width)
    path = write(tmp_path_factory.getbasetemp() / f"x-images-idx3{ending}", images)
    write(path.with_name(f"x-labels-idx1{ending}"), labels)
    items = list(open_source(str(path)).items(start))
    assert [(item.path, item.label) for item in items] == [
        row[:2] for row in expected("x", images, labels)[start:]
    ]
    for item, image in zip(items, images[start:], strict=True):
        assert np.array_equal(item.load(), np.repeat(image[..., None], 3, axis=2))


def test_blocks_end_in_the_middle(tmp_path: Path) -> None:
    images, labels = drawn(2900)  # 1,337 images of MNIST are read at once
    path = write(tmp_path / "x-images-idx3.gz", images)
    write(tmp_path / "x-labels-idx1", labels)
    for start in (0, 1336, 2674, 2899):
        items = open_source(str(path)).items(start)
        assert all(
            np.array_equal(np.asarray(item.load())[..., 1], image)
            for item, image in zip(items, images[start:], strict=True)
        )


def test_class_names(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "classes").write_text("\n".join("abcdefghij"))
    source = open_source(f"{tmp_path}:train", classes_file=tmp_path / "classes")
    assert source.classes == tuple("abcdefghij")
    labels = drawn(7)[1]
    known = int(labels.max())
    (tmp_path / "classes").write_text("\n".join("abcdefghij"[:known]))
    first = int(np.argmax(labels == known))
    with pytest.raises(
        SourceError, match=f"train/{first:05d}: expected a label from 0 to {known - 1}, .* {known};"
    ):
        open_source(f"{tmp_path}:train", classes_file=tmp_path / "classes")


def test_a_part_must_be_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(UsageError, match=f"expected a part: {tmp_path}:train or {tmp_path}:test, "):
        open_source(str(tmp_path))
    with pytest.raises(UsageError, match="found 'valid'"):
        open_source(f"{tmp_path}:valid")
    (tmp_path / "labels").write_text("a 1\n")
    with pytest.raises(UsageError, match="--labels"):
        open_source(f"{tmp_path}:test", label_file=tmp_path / "labels")


def test_missing_files(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(
        SourceError, match="its labels in train-labels-idx1-ubyte beside it, found no"
    ):
        open_source(f"{tmp_path}:train")
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(
        SourceError, match=r"train-images-idx3-ubyte or the same with \.gz, found none"
    ):
        open_source(f"{tmp_path}:train")


def test_fingerprints_change_with_both_files(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    prints = {open_source(f"{tmp_path}:train").fingerprint}
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        os.utime(tmp_path / name, (0, 0))
        prints.add(open_source(f"{tmp_path}:train").fingerprint)
    assert len(prints) == 3


# ---- damage

IMAGES, LABELS = drawn(3, 4, 5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(IMAGES)[:-1], idx(LABELS), "expected 76 bytes for 3 images, found 75 bytes"),
        (idx(IMAGES) + b"1", idx(LABELS), "expected 76 bytes for 3 images, found 77 bytes"),
        (idx(IMAGES), idx(LABELS)[:-1], "labels-idx1: expected 3 labels, found 2"),
        (idx(IMAGES), idx(LABELS) + b"1", "labels-idx1: expected 3 labels, found more data"),
        (idx(IMAGES), idx(LABELS[:2]), "labels-idx1: expected labels of 3 images, found 2"),
        (idx(IMAGES), idx(IMAGES), "labels-idx1: expected an IDX file of uint8 with 1 sides"),
        (idx(LABELS), idx(LABELS), "images-idx3: expected an IDX file of uint8 with 3 sides"),
        (idx(IMAGES)[:15], idx(LABELS), "images-idx3: expected an IDX file"),
        (b"", idx(LABELS), "images-idx3: expected an IDX file"),
        (b"\0\0\x0d\3" + idx(IMAGES)[4:], idx(LABELS), "images-idx3: expected an IDX file"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "found 0 4 × 5"),
        (idx(IMAGES[:, :0]), idx(LABELS), "found 3 0 × 5"),
        (
            struct.pack(">4B3I", 0, 0, 8, 3, 1, 4097, 1) + bytes(4097),
            idx(LABELS[:1]),
            "images of sides up to 4096, found 1 4097 × 1",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    (tmp_path / "x-images-idx3").write_bytes(images)
    (tmp_path / "x-labels-idx1").write_bytes(labels)
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / "x-images-idx3"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (gzip.compress(idx(IMAGES)[:-1]), "expected 3 images, found 2: it is cut off"),
        (gzip.compress(idx(IMAGES) + b"1"), "expected 3 images, found more data after them"),
        (gzip.compress(idx(IMAGES))[:-9], "expected a readable file, found Compressed file ended"),
        (gzip.compress(idx(IMAGES))[:-8] + bytes(8), "a readable file, found CRC check failed"),
    ],
    ids=["cut", "longer", "gzip cut", "gzip damaged"],
)
@pytest.mark.parametrize("start", [0, 2])
def test_damaged_gzip_is_noticed_from_any_start(
    tmp_path: Path, images: bytes, message: str, start: int
) -> None:
    path = tmp_path / "x-images-idx3.gz"
    path.write_bytes(images)
    write(tmp_path / "x-labels-idx1", LABELS)
    source = open_source(str(path))
    with pytest.raises(SourceError, match=message):
        list(source.items(start))


def test_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "x-images-idx3.gz").write_bytes(idx(IMAGES))
    write(tmp_path / "x-labels-idx1", LABELS)
    with pytest.raises(SourceError, match="expected a readable file, found Not a gzipped file"):
        open_source(str(tmp_path / "x-images-idx3.gz"))


def test_headers_do_not_decide_on_memory(tmp_path: Path) -> None:
    path = tmp_path / "x-images-idx3.gz"
    header = struct.pack(">4B3I", 0, 0, 8, 3, 40_000_000, 4096, 4096)
    path.write_bytes(gzip.compress(header))
    (tmp_path / "x-labels-idx1").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 40_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="expected 40000000 labels, found 0"):
            open_source(str(path))
        (tmp_path / "x-labels-idx1").write_bytes(idx(LABELS))
        path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 3, 4096, 4096)))
        with pytest.raises(SourceError, match="expected 3 images, found 0: it is cut off"):
            listed(open_idx(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 1 << 31, 1, 1)))
    with pytest.raises(SourceError, match="found 2147483648 1 × 1"):
        open_idx(path)

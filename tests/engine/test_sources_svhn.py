from __future__ import annotations

import struct
import tracemalloc
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

from source_checks import check_bundle, check_source
from tamis.errors import SourceError, UsageError
from tamis.sources.mat5 import read_mat
from tamis.sources.opening import open_source


def digits(n: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (32, 32, 3, n), np.uint8), rng.integers(1, 11, (n, 1), np.uint8)


def write(path: Path, images: NDArray[Any], labels: NDArray[Any], compressed: bool = True) -> Path:
    savemat(path, {"X": images, "y": labels}, do_compression=compressed)
    return path


# 256 images are streamed at once; labels of up to 4 bytes stand in their tag.
@pytest.mark.parametrize("n", [2, 3, 4, 5, 260, 600])
@pytest.mark.parametrize("compressed", [True, False])
def test_the_same_as_scipy(tmp_path: Path, n: int, compressed: bool) -> None:
    path = write(tmp_path / "train_32x32.mat", *digits(n), compressed)
    theirs = loadmat(path)
    expected = [
        (
            f"train_32x32/{i:08d}",
            int(theirs["y"][i, 0]) % 10,
            np.ascontiguousarray(theirs["X"][..., i]),
        )
        for i in range(n)
    ]
    source = open_source(str(path))
    if n < 300:
        check_source(source, expected)
    for start in (0, n - 1, n // 2):
        items = list(source.items(start))
        assert [(item.path, item.label) for item in items] == [row[:2] for row in expected[start:]]
        for item, (_, _, image) in zip(items, expected[start:], strict=True):
            assert np.array_equal(item.load(), image)
    assert source.classes == tuple("0123456789")
    assert source.describe() == {"kind": "svhn", "name": "train_32x32.mat"}


def test_one_image_has_no_last_side(tmp_path: Path) -> None:
    images, _ = digits(1)
    path = write(tmp_path / "x.mat", images[..., 0], np.array([[10]], np.uint8))
    check_source(open_source(str(path)), [("x/00000000", 0, np.ascontiguousarray(images[..., 0]))])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, ">f8", np.uint64])
def test_labels_of_any_number_type(tmp_path: Path, dtype: Any) -> None:
    images, labels = digits(7)
    source = open_source(str(write(tmp_path / "x.mat", images, labels.astype(dtype))))
    assert [item.label for item in source.items()] == (labels[:, 0] % 10).tolist()


def test_other_variables_do_not_matter(tmp_path: Path) -> None:
    images, labels = digits(3)
    more = {"a": "text", "s": {"b": [1, 2]}, "c": np.array([1, "x"], object), "z": 1j}
    savemat(tmp_path / "x.mat", {**more, "y": labels, "X": images, "more": np.eye(3)})
    assert len(open_source(str(tmp_path / "x.mat"))) == 3


def test_it_converts(tmp_path: Path) -> None:
    path = write(tmp_path / "test_32x32.mat", *digits(5))
    check_bundle(open_source(str(path)), tmp_path / "x.beton")


def test_it_has_its_own_labels_and_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mat", *digits(2))
    (tmp_path / "list").write_text("a.jpg 1\n")
    with pytest.raises(UsageError, match="--labels"):
        open_source(str(path), label_file=tmp_path / "list")
    with pytest.raises(UsageError, match="--classes"):
        open_source(str(path), classes_file=tmp_path / "list")


# ---- files that are no SVHN

IMAGES, LABELS = digits(6)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"y": LABELS}, r"variable X, uint8 \(32, 32, 3, n\), found none of that name"),
        ({"X": IMAGES}, r"variable y, \(6, 1\), found none of that name"),
        ({"X": IMAGES, "y": LABELS.T}, r"y, \(6, 1\), found y, uint8 \(1, 6\)"),
        ({"X": IMAGES, "y": LABELS[:5]}, r"y, \(6, 1\), found y, uint8 \(5, 1\)"),
        ({"X": IMAGES.astype(float), "y": LABELS}, r"found X, double \(32, 32, 3, 6\)"),
        ({"X": IMAGES.astype(np.int8), "y": LABELS}, r"found X, int8"),
        ({"X": IMAGES.transpose(3, 0, 1, 2), "y": LABELS}, r"found X, uint8 \(6, 32, 32, 3\)"),
        (
            {"X": IMAGES.reshape(32, 32, 3, 3, 2), "y": LABELS},
            r"found X, uint8 \(32, 32, 3, 3, 2\)",
        ),
        ({"X": IMAGES, "y": LABELS * 0}, "y: expected labels from 1 to 10, .* found the label 0"),
        ({"X": IMAGES, "y": LABELS * 0 + 11}, "found the label 11"),
        ({"X": IMAGES, "y": LABELS * 0 + 1.5}, "found the label 1.5"),
        ({"X": IMAGES, "y": LABELS * np.nan}, "found the label nan"),
        ({"X": IMAGES, "y": LABELS * 1j}, r"y: expected an array of real .*\(6, 1\), complex"),
        ({"X": "text", "y": LABELS}, r"X: expected an array of real numbers, found char \(1,\)"),
        ({"X": {"a": 1}, "y": LABELS}, "X: expected an array of real numbers, found struct"),
        ({}, "variable X"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_other_variables(
    tmp_path: Path, variables: dict[str, Any], message: str, compressed: bool
) -> None:
    savemat(tmp_path / "x.mat", variables, do_compression=compressed, oned_as="row")
    with pytest.raises(SourceError, match=message.replace(r"char \(1,\)", "char")):
        open_source(str(tmp_path / "x.mat"))


def test_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    hdf5 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM"
    path.write_bytes(hdf5 + bytes(384) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(SourceError, match=r"found MATLAB 7\.3, which is HDF5; save it with -v7"):
        open_source(str(path))
    savemat(path, {"X": LABELS}, format="4")
    with pytest.raises(SourceError, match="expected a MATLAB 5 file, found a file of another kind"):
        open_source(str(path))
    for data in (b"", b"MATLAB 5.0 MAT-file"):
        path.write_bytes(data)
        with pytest.raises(SourceError, match="found a file of another kind"):
            open_source(str(path))


# ---- damage


@pytest.mark.parametrize("compressed", [True, False])
def test_every_cut_is_noticed(tmp_path: Path, compressed: bool) -> None:
    path = write(tmp_path / "x.mat", IMAGES, LABELS, compressed)
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), len(whole) // 50), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError):
            open_source(str(path))


def test_damage_in_compressed_pixels_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mat", IMAGES, LABELS)
    whole = path.read_bytes()
    end = 136 + struct.unpack_from("<I", whole, 132)[0]  # X is the first element
    for place in (end - 1, end - 2000):  # zlib's checksum; a byte of a pixel
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        source = open_source(str(path))
        with pytest.raises(SourceError, match="expected a sound MATLAB 5 file"):
            list(source.items())


# ---- elements by hand

ENDS = {"<": b"IM", ">": b"MI"}


def element(order: str, kind: int, data: bytes) -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(
    order: str, name: bytes, flag: int, dims: tuple[int, ...], kind: int, data: bytes
) -> bytes:
    parts = (
        element(order, 6, struct.pack(f"{order}II", flag, 0)),
        element(order, 5, struct.pack(f"{order}{len(dims)}i", *dims)),
        element(order, 1, name),
        element(order, kind, data),
    )
    return element(order, 14, b"".join(parts))


def mat_file(path: Path, *elements: bytes, order: str = "<") -> Path:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100)
    path.write_bytes(header + ENDS[order] + b"".join(elements))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(tmp_path: Path, order: str) -> None:
    images, labels = digits(3)
    path = mat_file(
        tmp_path / "x.mat",
        array(order, b"X", 9, images.shape, 2, images.tobytes("F")),
        array(order, b"y", 6, labels.shape, 9, labels.astype(f"{order}f8").tobytes()),
        order=order,
    )
    source = open_source(str(path))
    assert [item.label for item in source.items()] == (labels[:, 0] % 10).tolist()
    assert all(np.array_equal(item.load(), images[..., i]) for i, item in enumerate(source.items()))


X = array("<", b"X", 9, (32, 32, 3, 2), 2, bytes(6144))
HOSTILE = {
    "more bytes than dimensions": array("<", b"X", 9, (32, 32, 3, 1), 2, bytes(6144)),
    "more dimensions than bytes": array("<", b"X", 9, (32, 32, 3, 1 << 30), 2, bytes(6144)),
    "overflowing dimensions": array("<", b"X", 9, (1 << 30,) * 9, 2, bytes(6144)),
    "negative dimensions": array("<", b"X", 9, (32, 32, 3, -2), 2, bytes(6144)),
    "no dimensions": array("<", b"X", 9, (), 2, b""),
    "an unknown type": array("<", b"X", 9, (32, 32, 3, 2), 77, bytes(6144)),
    "a long name": array("<", b"X" * 300, 9, (1, 1), 2, b"1"),
    "a long tag": element("<", 14, element("<", 6, bytes(8)) + b"\5\0\xff\xff" + bytes(64)),
    "an element beyond the end": struct.pack("<II", 14, 1 << 31) + X[8:],
    "data beyond its element": element("<", 14, X[8:56] + struct.pack("<II", 2, 6144) + bytes(99)),
    "another element": element("<", 2, bytes(64)),
    "an empty element": element("<", 14, b""),
    "no zlib stream": element("<", 15, b"not compressed at all"),
    "no array inside": element("<", 15, zlib.compress(element("<", 2, bytes(9)))),
    "a cut stream": element("<", 15, zlib.compress(X)[:-40]),
    "an empty stream": element("<", 15, b""),
}


@pytest.mark.parametrize("first", HOSTILE.values(), ids=HOSTILE)
def test_hostile_elements(tmp_path: Path, first: bytes) -> None:
    y = array("<", b"y", 9, (2, 1), 2, b"\1\2")
    path = mat_file(tmp_path / "x.mat", first, y)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError):
            list(open_source(str(path)).items())
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_labels_that_inflate_to_more_than_their_images(tmp_path: Path) -> None:
    bomb = zlib.compress(array("<", b"y", 9, (1 << 27, 1), 2, bytes(1 << 27)))
    y = struct.pack("<II", 15, len(bomb)) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"expected SVHN's variable y, \(2, 1\)"):
            open_source(str(mat_file(tmp_path / "x.mat", X, y)))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """60,000 images of zeros, 184 MB in memory and 0.2 MB in the file."""
    n = 60_000
    parts = array("<", b"X", 9, (32, 32, 3, n), 2, b"")[:-8]
    start = struct.pack("<II", 14, len(parts) - 8 + 8 + 3072 * n) + parts[8:]
    squeeze = zlib.compressobj()
    data = squeeze.compress(start + struct.pack("<II", 2, 3072 * n))
    data += b"".join(squeeze.compress(bytes(3072 * 1000)) for _ in range(n // 1000))
    data += squeeze.flush()
    path = mat_file(
        tmp_path / "extra_32x32.mat",
        struct.pack("<II", 15, len(data)) + data,
        array("<", b"y", 9, (n, 1), 2, b"\x0a" * n),
    )
    tracemalloc.start()
    try:
        source = open_source(str(path))
        assert (len(source), sum(item.label for item in islice(source.items(), 100))) == (n, 0)
        last = list(source.items(n - 2))
        assert [item.path for item in last] == [
            f"extra_32x32/{n - 2:08d}",
            f"extra_32x32/{n - 1:08d}",
        ]
        assert not np.asarray(last[-1].load()).any()
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_values_follow_the_stored_type(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float64).reshape(2, 3)
    savemat(tmp_path / "x.mat", {"a": values, "b": values.astype(np.int32)})
    arrays = read_mat(tmp_path / "x.mat", ("a", "b"))
    for name, kind in (("a", "double"), ("b", "int32")):
        assert (arrays[name].kind, arrays[name].dims) == (kind, (2, 3))
        assert np.array_equal(arrays[name].values(), values.ravel("F"))

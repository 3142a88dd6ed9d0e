from __future__ import annotations

import io
import json
import re
import tarfile
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sample_images import jpeg_bytes, picture
from source_checks import check_bundle, check_source, listed
from tamis.errors import SourceError, UsageError
from tamis.sources.opening import open_source
from tamis.sources.webdataset import expand_braces, holds_samples, open_shards

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def image(seed: int) -> bytes:
    return jpeg_bytes(Image.fromarray(picture(20 + seed % 3, 16, seed)))


def shards(folder: Path, sizes: tuple[int, ...] = (3, 2, 4)) -> list[tuple[str, int, bytes]]:
    """Shards as WebDataset's ShardWriter writes them; what a source must give for them."""
    expected, at = [], 0
    for number, size in enumerate(sizes):
        members: Members = []
        for i in range(at, at + size):
            members += [(f"{i:06}.cls", f"{i % 4}".encode()), (f"{i:06}.jpg", image(i))]
            expected.append((f"shard-{number:03}.tar/{i:06}.jpg", i % 4, image(i)))
        write_tar(folder / f"shard-{number:03}.tar", members)
        at += size
    return expected


# ---- shards


@pytest.mark.parametrize("spec", ["{}", "{}/", "{}/shard-{{000..002}}.tar", "{}/*.tar"])
def test_shards(tmp_path: Path, spec: str) -> None:
    expected = shards(tmp_path / "set")
    (tmp_path / "set" / "index.json").write_text("{}")
    source = open_source(spec.format(tmp_path / "set"))
    check_source(source, expected)
    assert source.classes is None
    files = [f"shard-{number:03}.tar" for number in range(3)]
    assert source.describe() == {"kind": "webdataset", "files": files}


def test_one_shard(tmp_path: Path) -> None:
    expected = shards(tmp_path, (5,))
    source = open_source(str(tmp_path / "shard-000.tar"))
    check_source(source, expected)
    check_bundle(source, tmp_path / "x.beton")


def test_they_convert(tmp_path: Path) -> None:
    shards(tmp_path / "set")
    check_bundle(open_source(str(tmp_path / "set")), tmp_path / "x.beton")


def test_every_kind_of_member(tmp_path: Path) -> None:
    members: Members = [
        ("__meta__", b"ignored"),
        (".hidden.jpg", b"ignored"),
        ("readme.md", b"ignored"),
        ("./sub.d/a.JPG", b"1"),
        ("sub.d/a.Cls", b" 7\n"),
        ("sub.d/a.seg.png", b"ignored"),
        ("sub.d/b.json", json.dumps({"caption": "x", "label": 2}).encode()),
        ("sub.d/b.txt", b"ignored"),
        ("sub.d/b.webp", b"2"),
        ("c.cls.txt", b"3"),
        ("c.json", b"not read, as there is a .cls.txt"),
        ("c.png", b"3"),
        ("d.jpeg", b"4"),
        ("d.json", json.dumps({"cls": 0, "label": "dog"}).encode()),
    ]
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    check_source(
        source,
        [
            ("x.tar/sub.d/a.JPG", 7, b"1"),
            ("x.tar/sub.d/b.webp", 2, b"2"),
            ("x.tar/c.png", 3, b"3"),
            ("x.tar/d.jpeg", 0, b"4"),
        ],
    )


def test_class_names_as_labels(tmp_path: Path) -> None:
    members = [("1.jpg", b"1"), ("1.cls", b"cat\n"), ("2.jpg", b"2"), ("2.cls", b"0")]
    path = write_tar(tmp_path / "x.tar", members)
    (tmp_path / "classes").write_text("dog\ncat\n")
    source = open_source(str(path), classes_file=tmp_path / "classes")
    assert source.classes == ("dog", "cat")
    assert listed(source) == [("x.tar/1.jpg", 1), ("x.tar/2.jpg", 0)]
    with pytest.raises(SourceError, match=r"x\.tar: 1: .*found 'cat'; .*--classes"):
        open_source(str(path))
    (tmp_path / "classes").write_text("dog\ncow\n")
    with pytest.raises(SourceError, match=r"x\.tar: 1: .*unknown class 'cat'"):
        open_source(str(path), classes_file=tmp_path / "classes")


UNSOUND: dict[str, tuple[Members, str]] = {
    "no label": ([("a.jpg", b"")], "x.tar: a: .*found no label"),
    "no image": ([("a.cls", b"1")], "x.tar: a: .*found no image"),
    "two images": ([("a.jpg", b""), ("a.png", b""), ("a.cls", b"1")], "a: .*found 2 images"),
    "by case": ([("a.jpg", b""), ("a.JPG", b""), ("a.cls", b"1")], "a: .*found 2 images"),
    "two labels": ([("a.cls", b"1"), ("a.CLS", b"1"), ("a.jpg", b"")], r"found two members \.cls"),
    "apart": (
        [("a.jpg", b""), ("a.cls", b"1"), ("ok.txt", b""), ("a.jpeg", b""), ("a.cls.txt", b"1")],
        "x.tar: a: .*found the key a second time",
    ),
    "torn": ([("a.jpg", b""), ("b.txt", b""), ("a.cls", b"1")], "x.tar: a: .*found no label"),
    "negative": ([("a.jpg", b""), ("a.cls", b"-1")], "x.tar: a: .*found '-1'"),
    "empty": ([("a.jpg", b""), ("a.cls", b"")], "x.tar: a: .*found ''"),
    "over int32": ([("a.jpg", b""), ("a.cls", b"4000000000")], "found '4000000000'"),
    "endless": ([("a.jpg", b""), ("a.cls", b"1" * 10_000)], "a label from 0 to 2147483647"),
    "large": ([("a.jpg", b""), ("a.cls", b"1" * (1 << 21))], r"a\.cls: .*found 2097152 bytes"),
    "no text": ([("a.jpg", b""), ("a.cls", b"\xff\x00")], r"a\.cls: expected a label as text"),
    "no json": ([("a.jpg", b""), ("a.json", b"{")], r"a\.json: expected a whole number under"),
    "no number": ([("a.jpg", b""), ("a.json", b'{"label": "1"}')], r"a\.json: .*found none"),
    "a truth": ([("a.jpg", b""), ("a.json", b'{"label": true}')], r"a\.json: .*found none"),
    "a list": ([("a.jpg", b""), ("a.json", b"[1]")], r"a\.json: .*found none"),
    "deep": ([("a.jpg", b""), ("a.json", b"[" * 100_000)], r"a\.json: expected a whole number"),
    "endless json": (
        [("a.jpg", b""), ("a.json", b'{"label": ' + b"1" * 5000 + b"}")],
        r"a\.json: expected a whole number",
    ),
}


@pytest.mark.parametrize(("members", "message"), UNSOUND.values(), ids=UNSOUND)
def test_unsound_samples(tmp_path: Path, members: Members, message: str) -> None:
    sound = [("ok.jpg", b""), ("ok.cls", b"0")]
    path = write_tar(tmp_path / "x.tar", [*sound, *members])
    with pytest.raises(SourceError, match=message):
        open_shards([path])
    with pytest.raises(SourceError, match=message):
        open_source(str(path))


def test_keys_count_within_their_shard(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [("a.jpg", b"%d" % number), ("a.cls", b"0")])
    assert listed(open_source(str(tmp_path))) == [("0.tar/a.jpg", 0), ("1.tar/a.jpg", 0)]


def test_tars_without_samples(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.txt", b"")])
    with pytest.raises(SourceError, match=r"0\.tar: expected samples: .*found none"):
        open_source(str(tmp_path))
    (tmp_path / "1.tar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"1\.tar: expected a tar archive"):
        open_source(str(tmp_path))


def test_shards_of_two_splits(tmp_path: Path) -> None:
    for part in ("train", "validation"):
        write_tar(tmp_path / f"imagenet1k-{part}-0000.tar", [("a.jpg", b""), ("a.cls", b"0")])
    with pytest.raises(SourceError, match="expected the shards of one split, found train and val;"):
        open_source(str(tmp_path))
    assert len(open_source(f"{tmp_path}/imagenet1k-train-{{0000..0000}}.tar")) == 1


def test_shards_have_their_own_labels(tmp_path: Path) -> None:
    shards(tmp_path / "set")
    (tmp_path / "labels").write_text("a.jpg 1\n")
    for spec in ("set", "set/shard-{000..001}.tar"):
        with pytest.raises(UsageError, match="--labels"):
            open_source(str(tmp_path / spec), label_file=tmp_path / "labels")


def test_class_folders_win_over_samples_where_the_user_says_so(tmp_path: Path) -> None:
    members = [("cat/1.jpg", b"1"), ("cat/1.json", b'{"boxes": []}'), ("dog/1.jpg", b"2")]
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(SourceError, match=r"1\.json: expected a whole number"):
        open_source(str(path))
    assert listed(open_source(f"{path}:.")) == [("cat/1.jpg", 0), ("dog/1.jpg", 1)]


# ---- which members belong together

NAMES = st.lists(
    st.sampled_from(["a.jpg", "a.cls", "a.b.cls", "b.jpg", "d.e/a.jpg", "d.e/a.cls", ".x", "d/.a"])
)


@given(NAMES)
def test_samples_are_webdatasets(names: list[str]) -> None:
    """webdataset.tariterators.base_plus_ext and group_by_keys, by their documentation."""

    def split(name: str) -> tuple[str | None, str]:
        match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
        return (match[1], match[2]) if match else (None, "")

    groups = groupby((pair for pair in map(split, names) if pair[0]), key=lambda pair: pair[0])
    expected = [{extension for _, extension in group} for _, group in groups]
    assert holds_samples(names) == any({"jpg", "cls"} <= group for group in expected)


# ---- ranges of numbers


def touch(tmp_path: Path, *names: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x-{008..011}.tar", ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]),
        ("x-{8..11}.tar", ["x-8.tar", "x-9.tar", "x-10.tar", "x-11.tar"]),
        ("{0..1}/{09..10}.tar", ["0/09.tar", "0/10.tar", "1/09.tar", "1/10.tar"]),
        ("x{5..5}.tar", ["x5.tar"]),
        ("{x}{0..0}{a,b}.tar", ["{x}0{a,b}.tar"]),
    ],
)
def test_ranges(tmp_path: Path, pattern: str, names: list[str]) -> None:
    touch(tmp_path, *names)
    assert expand_braces(f"{tmp_path}/{pattern}") == tuple(tmp_path / name for name in names)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "shard-001.tar").unlink()
    with pytest.raises(SourceError, match=r"expected 3 shards, found .*shard-001\.tar missing;"):
        open_source(f"{tmp_path}/shard-{{000..002}}.tar")
    with pytest.raises(SourceError, match=r"shard-001\.tar missing and 2 more;"):
        open_source(f"{tmp_path}/shard-{{000..004}}.tar")


@pytest.mark.parametrize("pattern", ["{3..1}.tar", "{0..999999999}.tar", "{0..9999}{0..9999}.tar"])
def test_ranges_that_are_refused(pattern: str) -> None:
    with pytest.raises(SourceError, match="expected ranges that count up, of at most 100000 files"):
        open_source(pattern)


def test_a_path_with_braces_that_exists_is_itself(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x{0..1}.tar", [("c/1.jpg", b"1")])
    assert listed(open_source(str(path))) == [("c/1.jpg", 0)]


def test_shards_of_several_folders(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}" / "s.tar", [("a.jpg", b""), ("a.cls", b"0")])
    source = open_source(f"{tmp_path}/{{0..1}}/s.tar")
    assert listed(source) == [("0/s.tar/a.jpg", 0), ("1/s.tar/a.jpg", 0)]

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sample_images import SAMPLES, jpeg_bytes, picture
from source_checks import check_bundle, check_source, listed
from tamis.errors import SourceError
from tamis.sources.image_folder import open_image_folder
from tamis.sources.opening import open_source
from tamis.sources.shared_file import SharedFile
from tamis.sources.tar import TarIndex, index_tar, open_tar_file

Members = dict[str, bytes]


def tar_bytes(members: Members, *, format: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def write_tar(path: Path, members: Members, *, format: int = tarfile.PAX_FORMAT) -> Path:
    path.write_bytes(tar_bytes(members, format=format))
    return path


def index_of(path: Path) -> TarIndex:
    return index_tar(open_tar_file(path))


def contents(path: Path) -> Members:
    """What the index leads to, in its order."""
    file, index = SharedFile(path), index_of(path)
    places = zip(index.names, index.offsets.tolist(), index.sizes.tolist(), strict=True)
    return {name: file.read(offset, size) for name, offset, size in places}


def unpacked(root: Path, members: Members) -> Path:
    for name, data in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


# ---- the index

FORMATS = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_contents_of_every_format(tmp_path: Path, format: int) -> None:
    members = {
        "b/second.jpg": b"2" * 513,
        "a/first.jpg": b"",
        "whole blocks.bin": b"3" * 1024,
        "d" * 90 + "/" + "n" * 95 + ".jpg": b"long",  # ustar splits it at the slash
    }
    if format != tarfile.USTAR_FORMAT:
        members["long/" * 60 + "x" * 200 + ".jpg"] = b"longer"
        members["ünïcode/日本.jpg"] = b"names"
    path = write_tar(tmp_path / "x.tar", members, format=format)
    assert contents(path) == members
    assert list(contents(path)) == list(members)


def test_names_are_made_relative(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar", {"./": b"", "./a/": b"", "./a//b/./c.jpg": b"1", "d.": b"2"}
    )
    assert contents(path) == {"a/b/c.jpg": b"1", "d.": b"2"}
    assert index_of(path).folders == {"", "a"}


def test_names_that_are_no_utf8_are_those_of_the_unpacked_folder(tmp_path: Path) -> None:
    name = os.fsdecode(b"c\xe9/\xff.jpg")
    sink = io.BytesIO()
    with tarfile.open(
        fileobj=sink, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"jpg"))
    (tmp_path / "x.tar").write_bytes(sink.getvalue())
    folder = unpacked(tmp_path / "x", {name: b"jpg"})
    assert contents(tmp_path / "x.tar") == {name: b"jpg"}
    assert listed(open_source(str(tmp_path / "x.tar"))) == listed(open_image_folder(folder))


@given(
    st.dictionaries(
        st.lists(st.text("aA.-é☃ \n", min_size=1, max_size=70), min_size=1, max_size=4)
        .filter(lambda parts: all(part not in (".", "..") for part in parts))
        .map("/".join),
        st.binary(max_size=1100),
        max_size=8,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_any_names_and_sizes(
    tmp_path_factory: pytest.TempPathFactory, members: Members, format: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar"
    assert contents(write_tar(path, members, format=format)) == members


def test_a_tar_inside_a_tar(tmp_path: Path) -> None:
    inner = {"x.jpg": b"x" * 700, "y.jpg": b"y"}
    path = write_tar(
        tmp_path / "x.tar", {"before": b"1", "in.tar": tar_bytes(inner), "after": b"2"}
    )
    file, outer = SharedFile(path), index_of(path)
    start, size = int(outer.offsets[1]), int(outer.sizes[1])
    index = index_tar(file, start=start, size=size)
    assert [file.read(int(o), int(s)) for o, s in zip(index.offsets, index.sizes, strict=True)] == [
        b"x" * 700,
        b"y",
    ]
    # The outer tar goes on, but the inner one must end within its own bytes.
    with pytest.raises(SourceError, match="expected a whole tar, found no end mark"):
        index_tar(file, start=start, size=2 * 1024 + 512)


def test_an_empty_tar_has_no_members(tmp_path: Path) -> None:
    assert contents(write_tar(tmp_path / "x.tar", {})) == {}
    with pytest.raises(SourceError, match=r"expected images .*, found none"):
        open_source(str(tmp_path / "x.tar"))


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = tar_bytes({"a.jpg": b"a" * 600, "b.jpg": b"b" * 100, "c.jpg": b""})
    end = whole.rindex(b"ustar") // 512 * 512 + 512  # after the header of c, the last member
    for cut in [*range(0, end, 64), end, end + 1, end + 511]:
        (tmp_path / "x.tar").write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"a whole tar|a tar archive"):
            index_of(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(whole[: end + 512])  # one zero block: an end, if a bare one
    assert len(contents(tmp_path / "x.tar")) == 3


def test_a_member_beyond_the_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.jpg": b"a" * 5000})[:3000])
    with pytest.raises(SourceError, match=r"found a\.jpg, which reaches beyond the end"):
        index_of(tmp_path / "x.tar")


def test_damage_in_the_middle_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes({f"{i}.jpg": b"x" * 10 for i in range(5)}))
    whole[2 * 1024 + 3] ^= 1  # the third header: tarfile alone would end there
    (tmp_path / "x.tar").write_bytes(whole)
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert len(archive.getmembers()) == 2
    with pytest.raises(SourceError, match="found a damaged header at byte 2048; download it again"):
        index_of(tmp_path / "x.tar")


def test_joined_tars_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.jpg": b"a"}) + tar_bytes({"b.jpg": b"b"}))
    with pytest.raises(
        SourceError, match=r"more data, as in tars that were joined; .*ignore-zeros"
    ):
        index_of(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg", "./a.jpg"], "found 'a.jpg' twice"),
        (["../a.jpg"], r"found '\.\./a\.jpg'; do not trust"),
        (["a/../../b.jpg"], "names that stay inside"),
        (["/etc/a.jpg"], "names that stay inside"),
        (["a/.."], "names that stay inside"),
    ],
)
def test_unusable_names(tmp_path: Path, names: list[str], message: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(SourceError, match=message):
        index_of(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("cat/1.jpg")
    info.type, info.linkname = kind, "elsewhere.jpg"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(SourceError, match=r"cat/1\.jpg: expected plain files.*--hard-dereference"):
        index_of(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("compress", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_compressed_tars_are_to_be_decompressed(
    tmp_path: Path, compress: object, name: str, ending: str
) -> None:
    assert callable(compress)
    (tmp_path / f"x{ending}").write_bytes(compress(tar_bytes({"a/b.jpg": b"1"})))
    with pytest.raises(SourceError, match=f"found one compressed with {name}; decompress it"):
        open_source(str(tmp_path / f"x{ending}"))


def test_zstd_is_known(tmp_path: Path) -> None:
    (tmp_path / "x.tar.zst").write_bytes(bytes.fromhex("28b52ffd") + b"rest")
    with pytest.raises(SourceError, match="compressed with zstd"):
        open_source(str(tmp_path / "x.tar.zst"))


def header(size: bytes, kind: bytes = b"0", name: bytes = b"a.jpg") -> bytes:
    """A ustar header with any size field and a right checksum."""
    raw = bytearray(512)
    raw[: len(name)] = name
    raw[100:108] = b"0000644\0"
    raw[124:136] = size.ljust(12, b"\0")
    raw[148:156] = b" " * 8
    raw[156:157] = kind
    raw[257:265] = b"ustar\x0000"
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


HUGE = b"\x80" + (1 << 60).to_bytes(11, "big")
NEGATIVE = b"\xff" * 10 + (65536 - 512).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (header(NEGATIVE), "a size below zero"),
        (header(NEGATIVE, b"5"), "a size below zero"),
        (header(NEGATIVE, b"x"), "a header of -512 bytes"),
        (header(HUGE), "reaches beyond the end"),
        (header(HUGE, b"x"), f"a header of {1 << 60} bytes"),
        (header(HUGE, b"L"), f"a header of {1 << 60} bytes"),
        (header(b"00000200001\0", b"L"), "a header of 66048 bytes"),
        (header(b"\x80" + b"\xff" * 11), "a whole tar"),
    ],
)
def test_hostile_headers_neither_hang_nor_allocate(
    tmp_path: Path, first: bytes, message: str
) -> None:
    # Behind a sound member, and as the first one.
    sound = header(b"00000000000\0", name=b"ok.jpg")
    path = tmp_path / "x.tar"
    tracemalloc.start()
    try:
        path.write_bytes(sound + first + bytes(2048))
        with pytest.raises(SourceError, match=message):
            index_of(path)
        path.write_bytes(first + bytes(2048))
        with pytest.raises(SourceError):
            index_of(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_pax_headers_do_not_lead_outside(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"path": "../../outside.jpg"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(SourceError, match="names that stay inside"):
        index_of(tmp_path / "x.tar")


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1"}
    info.pax_headers |= {"GNU.sparse.size": "9", "GNU.sparse.name": "a.jpg"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(SourceError, match="a sparse file"):
        index_of(tmp_path / "x.tar")


def test_reads_from_many_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    members = {f"c/{i:03}.jpg": rng.bytes(int(rng.integers(1, 4000))) for i in range(200)}
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    items = list(source.items()) * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda item: item.load(), items)) == list(members.values()) * 5


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_are_closed_with_their_last_image(tmp_path: Path) -> None:
    source = open_source(str(write_tar(tmp_path / "x.tar", {"c/1.jpg": b"1", "c/2.jpg": b"2"})))
    gc.collect()
    before = open_files()
    items = list(source.items())
    assert open_files() == before + 1
    assert items.pop(0).load() == b"1"
    del items
    gc.collect()
    assert open_files() == before


def test_a_file_that_shrinks_or_goes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"c/1.jpg": b"1" * 5000})
    source = open_source(str(path))
    item = next(source.items())
    os.truncate(path, 2000)
    with pytest.raises(OSError, match=r"x\.tar ends before byte 5512"):
        item.load()
    path.unlink()
    with pytest.raises(SourceError, match="found no file"):
        next(source.items())


def test_memory_is_that_of_names(tmp_path: Path) -> None:
    n = 5_000
    blank = bytes(512)
    with (tmp_path / "x.tar").open("wb") as file:
        for i in range(n):
            file.write(header(b"00000000001\0", name=b"c/%08d.jpg" % i) + blank)
        file.write(2 * blank)
    tracemalloc.start()
    try:
        index = index_of(tmp_path / "x.tar")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index.names) == n
    assert held < 100 * n
    assert peak < 150 * n + 2**17


# ---- class folders

CLASSES: Members = {  # '-' sorts before '/', '/' before letters: paths as text would sort wrongly
    "b/a/x.jpg": b"1",
    "b/a-b/x.jpg": b"2",
    "b/a/b/x.jpg": b"3",
    "b/ab.jpg": b"4",
    "b/a.JPG": b"5",
    "b-c/10.png": b"66",
    "b-c/9.png": b"7",
    "B/é.webp": b"8",
    "B/notes.txt": b"9",
    "10/z.jpeg": b"",
    "10/.hidden.bmp": b"11",
}


@pytest.mark.parametrize("lead", ["", "./", "imagenette2/train/", "./imagenette2/train/"])
def test_class_folders_are_those_of_the_unpacked_folder(tmp_path: Path, lead: str) -> None:
    folder = open_image_folder(unpacked(tmp_path / "x", CLASSES))
    members = {lead + name: data for name, data in CLASSES.items()}
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert source.classes == folder.classes == ("10", "B", "b", "b-c")
    expected = [(str(path), label, CLASSES[str(path)]) for path, label in listed(folder)]
    check_source(source, expected)
    assert listed(source) == listed(folder)
    assert source.describe() == {
        "kind": "tar",
        "name": "x.tar",
        "folder": lead.removeprefix("./").rstrip("/"),
    }


def test_the_sample_folder_packed(sample_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(sample_folder, "samples")
    source = open_source(str(tmp_path / "x.tar"))
    assert [path for path, _ in listed(source)] == list(SAMPLES.values())
    check_bundle(source, tmp_path / "x.beton")


def test_a_folder_inside_is_chosen_after_a_colon(tmp_path: Path) -> None:
    members = {
        f"set/{part}/{name}/{i}.jpg": f"{part}{name}{i}".encode()
        for part in ("train", "val")
        for name in ("dog", "cat")
        for i in range(2)
    } | {"set/stray.jpg": b"", "set/val/stray.jpg": b""}
    path = write_tar(tmp_path / "x.tar", members)
    for folder in ("set/val", "set/val/", "./set//val"):
        assert listed(open_source(f"{path}:{folder}")) == [
            ("cat/0.jpg", 0),
            ("cat/1.jpg", 0),
            ("dog/0.jpg", 1),
            ("dog/1.jpg", 1),
        ]
    # As an image folder: sub-folders belong to their class, and stray files to none.
    assert open_source(f"{path}:.").classes == ("set",)
    whole = open_source(f"{path}:set")
    assert whole.classes == ("train", "val")
    assert [path for path, label in listed(whole) if label == 1] == [
        "val/stray.jpg",
        "val/cat/0.jpg",
        "val/cat/1.jpg",
        "val/dog/0.jpg",
        "val/dog/1.jpg",
    ]
    with pytest.raises(SourceError, match="no folders below nowhere/"):
        open_source(f"{path}:nowhere")


def test_one_class(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"set/cat/1.jpg": b"1", "set/cat/2.jpg": b"2"})
    assert listed(open_source(str(path))) == [("cat/1.jpg", 0), ("cat/2.jpg", 0)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["1.jpg", "2.jpg"],
            "found images directly in the top folder; name their classes with --l",
        ),
        (["1.jpg", "cat/2.jpg"], "found images directly in the top folder"),
        (["a/1.jpg", "a/cat/2.jpg"], "found images directly in a; .*FOLDER, where"),
        (
            ["set/train/cat/1.jpg", "set/val/cat/1.jpg"],
            "the parts train and val; .*x.tar:set/train",
        ),
        (["train/1.jpg", "train/2.jpg"], "found the parts train"),
        (["cat/1.txt"], r"expected images .*, found none"),
        (["cat/1.jpg", "dog/1.jpg", "fox/1.txt"], "x.tar: fox: .*found an empty class"),
        (["s/cat/1.jpg", "s/dog/1.jpg", "s/fox/"], "x.tar: s/fox: .*found an empty class"),
    ],
)
def test_tars_that_are_no_class_folders(tmp_path: Path, names: list[str], message: str) -> None:
    path = write_tar(tmp_path / "x.tar", dict.fromkeys(names, b""))
    with pytest.raises(SourceError, match=message):
        open_source(str(path))


def test_a_class_list_fixes_the_labels(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"dog/1.jpg": b"1", "cat/1.jpg": b"2", "3/1.jpg": b"3"})
    (tmp_path / "classes.txt").write_text("dog\nbird\ncat\nfox\n")
    source = open_source(str(path), classes_file=tmp_path / "classes.txt")
    assert source.classes == ("dog", "bird", "cat", "fox")
    assert listed(source) == [("3/1.jpg", 3), ("cat/1.jpg", 2), ("dog/1.jpg", 0)]
    (tmp_path / "classes.txt").write_text("cat\nbird\nfox\nowl\n")
    with pytest.raises(SourceError, match=r"x\.tar: dog.*unknown class 'dog'"):
        open_source(str(path), classes_file=tmp_path / "classes.txt")


# ---- a label file


def test_a_flat_tar_with_a_label_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    members = {f"{i}.jpg": jpeg_bytes(Image.fromarray(picture(20, 16, i))) for i in range(4)}
    members |= {"unlisted.jpg": rng.bytes(10), "sub/5.jpg": members["0.jpg"]}
    path = write_tar(tmp_path / "x.tar", members)
    (tmp_path / "labels").write_text("3.jpg,dog\n./1.jpg,cat\nsub/5.jpg,dog\n0.jpg,ant\n")
    source = open_source(str(path), label_file=tmp_path / "labels")
    folder = open_image_folder(unpacked(tmp_path / "x", members), label_file=tmp_path / "labels")
    assert source.classes == folder.classes == ("ant", "cat", "dog")
    assert listed(source) == listed(folder)
    expected = [("3.jpg", 2), ("./1.jpg", 1), ("sub/5.jpg", 2), ("0.jpg", 0)]
    check_source(
        source, [(name, label, members[name.removeprefix("./")]) for name, label in expected]
    )
    check_bundle(source, tmp_path / "x.beton")


def test_label_numbers_stay_numbers(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.jpg": b"1", "2.jpg": b"2"})
    (tmp_path / "labels").write_text("2.jpg,7\n1.jpg,10\n")
    source = open_source(str(path), label_file=tmp_path / "labels")
    assert (source.classes, listed(source)) == (None, [("2.jpg", 7), ("1.jpg", 10)])


def test_listed_files_lie_in_the_chosen_folder(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"val/1.jpg": b"1", "outside.jpg": b"2"})
    (tmp_path / "labels").write_text("1.jpg,cat\n")
    assert listed(open_source(f"{path}:val", label_file=tmp_path / "labels")) == [("1.jpg", 0)]
    with pytest.raises(SourceError, match=r"found '1\.jpg', which is not there; .*x\.tar:FOLDER"):
        open_source(str(path), label_file=tmp_path / "labels")
    (tmp_path / "labels").write_text("../outside.jpg,cat\n")
    with pytest.raises(SourceError, match=r"expected files inside .*x\.tar, folder val, found"):
        open_source(f"{path}:val", label_file=tmp_path / "labels")


@pytest.mark.parametrize(
    "text", ["1.jpg,4000000000\n", "1.jpg," + "9" * 5000 + "\n"], ids=["over int32", "huge"]
)
def test_labels_that_are_too_large(tmp_path: Path, text: str) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.jpg": b"1"})
    (tmp_path / "labels").write_text(text)
    with pytest.raises(SourceError, match=r"1\.jpg: expected a label from 0 to 2147483647"):
        open_source(str(path), label_file=tmp_path / "labels")


def test_the_fingerprint_knows_labels_and_order(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.jpg": b"1", "2.jpg": b"2"})
    prints = set()
    for text in ("1.jpg 0\n2.jpg 1\n", "1.jpg 0\n2.jpg 0\n", "2.jpg 1\n1.jpg 0\n"):
        (tmp_path / "labels").write_text(text)
        prints.add(open_source(str(path), label_file=tmp_path / "labels").fingerprint)
    assert len(prints) == 3


@given(
    st.lists(st.tuples(st.integers(0, 4095), st.sampled_from(b"\0\x01/059xLg\x80\xff")), max_size=6)
)
def test_damage_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """Headers with right checksums and any other damage: never another exception, never a hang."""
    data = bytearray(tar_bytes({"a/" + "long" * 40 + ".jpg": b"1" * 600, "b/é.jpg": b"2"}))
    for place, value in changes:
        data[place] = value
    for start in range(0, len(data), 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data)
    try:
        found = contents(path)
    except SourceError:
        return
    assert all(".." not in name.split("/") and not name.startswith("/") for name in found)

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xxhash

from sample_images import SAMPLES
from tamis.bundles import digest
from tamis.bundles import spans as reading
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.layout import (
    DESCRIPTOR,
    HEADER,
    JPEG_MODE,
    RAW_MODE,
    FieldType,
    image_fields,
    make_field,
)
from tamis.bundles.opening import open_bundle
from tamis.bundles.trailer import Trailer
from tamis.bundles.verify import verify
from tamis.bundles.writer import BetonWriter
from tamis.errors import BundleError, UsageError
from tamis.images import encode_jpeg
from tamis.manifest import Manifest
from tamis.progress import Advance

METADATA_AT = HEADER.itemsize + 2 * DESCRIPTOR.itemsize


def changed(source: Path, target: Path, at: int, data: bytes) -> Bundle:
    """A copy of a bundle with bytes replaced, opened."""
    target.write_bytes(source.read_bytes())
    with target.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return open_bundle(target)


def flipped(source: Path, target: Path, at: int) -> Bundle:
    return changed(source, target, at, bytes([source.read_bytes()[at] ^ 0x10]))


def test_sound_bundles(
    digits_bundle: Path, sample_bundle: Path, ffcv_folder: Path, tmp_path: Path
) -> None:
    for path, n_examples, checksums in (
        (digits_bundle, 1347, True),
        (sample_bundle, 9, True),
        (ffcv_folder / "mixed.beton", 60, False),
    ):
        for deep in (False, True):
            report = verify(open_bundle(path), deep=deep)
            assert (report.ok, report.damaged) == (True, ())
            assert (report.path, report.n_examples) == (path, n_examples)
            assert report.checksums == checksums


def test_every_flipped_byte_names_its_example(sample_bundle: Path, tmp_path: Path) -> None:
    sound = open_bundle(sample_bundle)
    for position in range(sound.n_examples):
        offset, size = sound.extents[position, 0].tolist()
        for at in (offset, offset + size // 2, offset + size - 1):
            bundle = flipped(sample_bundle, tmp_path / "x.beton", at)
            report = verify(bundle)
            assert not report.ok
            assert [(d.position, d.example_id, d.path) for d in report.damaged] == [
                (position, position, list(SAMPLES.values())[position])
            ]
            assert "do not match its checksum" in report.damaged[0].reason
            assert verify(bundle, deep=True).damaged == report.damaged


def test_damaged_examples_go_by_their_ids(digits_bundle: Path, tmp_path: Path) -> None:
    cut(open_bundle(digits_bundle), tmp_path / "cut.beton", np.array([40, 700, 1200, 1340]))
    sound = open_bundle(tmp_path / "cut.beton")
    first = int(sound.extents[1, 0, 0])
    changed(tmp_path / "cut.beton", tmp_path / "x.beton", first + 190, bytes([0xAA] * 4))
    # Four bytes over the border of two records that lie together.
    report = verify(open_bundle(tmp_path / "x.beton"))
    assert [(d.position, d.example_id) for d in report.damaged] == [(1, 700), (2, 1200)]
    assert sound.paths is not None
    assert [d.path for d in report.damaged] == sound.paths.to_pylist()[1:3]


def test_bytes_between_records_do_not_count(ffcv_folder: Path, tmp_path: Path) -> None:
    # FFCV never looks at the gap before the first page.
    bundle = changed(ffcv_folder / "small.beton", tmp_path / "x.beton", 1_000_000, b"provenance")
    assert verify(bundle, deep=True).ok


# A bundle by FFCV has no checksums; what FFCV itself would load as wrong pixels is found anyway.


@pytest.fixture(scope="session")
def unsigned(sample_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample bundle without its trailer, as another program might have written it."""
    data = bytearray(sample_bundle.read_bytes())
    alloc_ptr = int.from_bytes(data[16:24], "little")
    end = open_bundle(sample_bundle).payload_end
    del data[end:alloc_ptr]
    data[16:24] = end.to_bytes(8, "little")
    path = tmp_path_factory.mktemp("unsigned") / "unsigned.beton"
    path.write_bytes(data)
    return path


def test_the_unsigned_bundle_is_sound(unsigned: Path) -> None:
    bundle = open_bundle(unsigned)
    assert bundle.trailer is None
    assert verify(bundle, deep=True).ok


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"\x01\x00"),  # width 1
        (2, b"\xff\xff"),  # height 65535
    ],
)
def test_sizes_that_are_not_the_jpegs(unsigned: Path, tmp_path: Path, at: int, data: bytes) -> None:
    row = METADATA_AT + 24 * 4  # cat/large.jpg
    report = verify(changed(unsigned, tmp_path / "x.beton", row + 1 + at, data))
    assert [(d.position, d.path) for d in report.damaged] == [(4, None)]
    assert report.damaged[0].reason.startswith("the JPEG is 300 × 220, the table says")
    assert not report.checksums


def test_pixels_that_became_a_jpeg(unsigned: Path, tmp_path: Path) -> None:
    position = list(SAMPLES).index("rgba")
    report = verify(changed(unsigned, tmp_path / "x.beton", METADATA_AT + 24 * position, b"\0"))
    assert [(d.position, d.reason) for d in report.damaged] == [(position, "not a JPEG")]


def test_jpegs_cut_off_or_blanked(unsigned: Path, tmp_path: Path) -> None:
    offset, size = open_bundle(unsigned).extents[4, 0].tolist()
    half = changed(unsigned, tmp_path / "half.beton", offset + size // 2, bytes(size - size // 2))
    assert [(d.position, d.reason) for d in verify(half).damaged] == [
        (4, "a JPEG cut off before its end")
    ]
    blank = changed(unsigned, tmp_path / "blank.beton", offset, bytes(size))
    assert [(d.position, d.reason) for d in verify(blank).damaged] == [(4, "not a JPEG")]


def test_deep_decodes(unsigned: Path, tmp_path: Path) -> None:
    # The frame header is whole, so that only decoding shows that the tables are not.
    record = open_bundle(unsigned).image_record(4)[3].tobytes()
    table = record.index(b"\xff\xc4")
    offset = int(open_bundle(unsigned).extents[4, 0, 0])
    bundle = changed(unsigned, tmp_path / "x.beton", offset + table + 5, b"\xff" * 16)
    assert verify(bundle).ok
    report = verify(bundle, deep=True)
    assert [(d.position, d.reason) for d in report.damaged] == [(4, "a JPEG that does not decode")]


# ---- many spans, many threads


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 examples of two fields, written in random order; some empty, four of over 4 MiB."""
    path = tmp_path_factory.mktemp("scattered") / "scattered.beton"
    rng = np.random.default_rng(0)
    fields = (make_field("note", FieldType.BYTES), *image_fields())
    n = 3000
    sides = rng.integers(1, 60, n)
    sides[[5, 900, 901, 2999]] = 1300
    records = [
        [rng.bytes(0 if i % 5 == 0 else i % 90), rng.bytes(3 * side * side)]
        for i, side in enumerate(sides.tolist())
    ]
    for i in range(3, n, 7):  # JPEGs among the pixels
        pixels = rng.integers(0, 256, (17, 23, 3), np.uint8)
        records[i][1] = encode_jpeg(pixels, 80)
    sizes = np.array([[len(record) for record in example] for example in records], np.int64)
    with BetonWriter(path, fields, n, 16 << 20) as writer:
        rows = np.zeros(n, writer.dtype)
        rows["f0"]["size"] = sizes[:, 0]
        rows["f1"]["mode"], rows["f1"]["width"], rows["f1"]["height"] = RAW_MODE, sides, sides
        rows["f1"][3::7] = (JPEG_MODE, 23, 17, 0)
        extents = np.zeros((n, 2, 2), np.int64)
        extents[..., 1] = sizes
        room = np.maximum(sizes, 1)
        order = rng.permutation(n)
        starts = writer.place(room[order].sum(axis=1))
        extents[order, 0, 0], extents[order, 1, 0] = starts, starts + room[order, 0]
        for example, payloads in zip(records, extents, strict=True):
            for record, (offset, _) in zip(example, payloads.tolist(), strict=True):
                writer.write(record, offset)
        checksums = [xxhash.xxh3_64_intdigest(b"".join(example)) for example in records]
        ids = np.arange(n) * 3
        trailer = Trailer(ids, [None] * n, np.array(checksums, np.uint64), Manifest("test"))
        writer.finish(rows, extents, trailer)
    return path


def damage(source: Path, target: Path, positions: list[int]) -> Bundle:
    """A copy with one byte changed in each of the examples at ``positions``."""
    bundle, data = open_bundle(source), bytearray(source.read_bytes())
    for position in positions:
        offset, size = bundle.extents[position, 1].tolist()
        data[offset + size // 2] ^= 1
    target.write_bytes(data)
    return open_bundle(target)


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_damage_is_in_order_whatever_the_threads(
    scattered: Path, tmp_path: Path, workers: int | None
) -> None:
    assert verify(open_bundle(scattered), workers=workers).ok
    positions = [0, 5, 10, 901, 902, 1500, 2998, 2999]
    report = verify(damage(scattered, tmp_path / "x.beton", positions), workers=workers)
    assert [d.position for d in report.damaged] == positions
    assert [d.example_id for d in report.damaged] == [3 * position for position in positions]


def test_spans_hold_every_example_once(scattered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(scattered)
    for size, most in ((reading._SPAN_BYTES, reading._SPAN_EXAMPLES), (50_000, 100), (1, 1)):
        monkeypatch.setattr(reading, "_SPAN_BYTES", size)
        monkeypatch.setattr(reading, "_SPAN_EXAMPLES", most)
        seen = np.concatenate(list(bundle.map_spans(lambda span: span.positions, 3)))
        assert np.array_equal(np.sort(seen), np.arange(bundle.n_examples))
        ends = bundle.extents[seen, 1].sum(axis=1)
        assert (np.diff(ends) > 0).all()  # in file order
        assert verify(bundle).ok


def test_checksums_are_of_the_payload_in_field_order(scattered: Path, ffcv_folder: Path) -> None:
    for path in (scattered, ffcv_folder / "mixed.beton", ffcv_folder / "pages.beton"):
        bundle, data = open_bundle(path), path.read_bytes()
        found = np.zeros(bundle.n_examples, np.uint64)
        for positions, values in bundle.map_spans(
            lambda s: (s.positions, digest.span_checksums(s))
        ):
            found[positions] = values
        expected = [
            xxhash.xxh3_64_intdigest(b"".join(data[o : o + size] for o, size in payloads))
            for payloads in bundle.extents.tolist()
        ]
        assert found.tolist() == bundle.checksums.tolist() == expected


def test_examples_without_bytes(tmp_path: Path) -> None:
    nothing = np.full(3, xxhash.xxh3_64_intdigest(b""), np.uint64)
    for fields, n_payloads in (
        ((make_field("label", FieldType.INT),), 0),
        ((make_field("note", FieldType.BYTES), make_field("label", FieldType.INT)), 1),
    ):
        path = tmp_path / f"{n_payloads}.beton"
        with BetonWriter(path, fields, 3, 2 << 20) as writer:
            extents = np.zeros((3, n_payloads, 2), np.int64)
            extents[..., 0] = writer.place(np.zeros(3, np.int64))[:, None]
            trailer = Trailer(np.arange(3), [None] * 3, nothing, Manifest("test"))
            writer.finish(np.zeros(3, writer.dtype), extents, trailer)
        assert verify(open_bundle(path)).ok


def test_wrong_numbers_of_workers(digits_bundle: Path) -> None:
    with pytest.raises(UsageError, match="--workers: expected 1 or more, found 0"):
        verify(open_bundle(digits_bundle), workers=0)


def test_a_file_replaced_or_cut_short_meanwhile(scattered: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    path.write_bytes(scattered.read_bytes())
    bundle = open_bundle(path)
    path.write_bytes(scattered.read_bytes())
    with pytest.raises(BundleError, match="opened before, found another one in its place"):
        verify(bundle)
    path.unlink()
    with pytest.raises(BundleError, match="opened before, found no file"):
        verify(bundle)
    path.write_bytes(scattered.read_bytes())
    bundle = open_bundle(path)
    with path.open("rb") as file:
        spans = reading.map_spans(
            path, file.fileno(), bundle.data, bundle.extents, lambda span: None, 2
        )
        next(spans)
        with path.open("r+b") as other:
            other.truncate(9_000_000)
        with pytest.raises(BundleError, match="found the file's end; it was truncated"):
            list(spans)


def test_a_disk_that_fails(scattered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(scattered)

    def preadv(*arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(BundleError, match="Input/output error; check the disk"):
        verify(bundle)


class Interrupted:
    """A progress in which the user presses Ctrl-C at once."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        def advance(units: int = 1, /) -> None:
            raise KeyboardInterrupt

        yield advance


def test_an_interrupt_ends_the_threads(scattered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SPAN_EXAMPLES", 2)  # a thousand spans and more
    read = reading._read
    n_read = 0

    def counted(*arguments: object) -> None:
        nonlocal n_read
        n_read += 1
        read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "_read", counted)
    with pytest.raises(KeyboardInterrupt):
        verify(open_bundle(scattered), workers=3, progress=Interrupted())
    assert n_read < 40
    assert [t.name for t in threading.enumerate() if t.name.startswith("tamis-read")] == []


def test_images_over_the_limit_of_pixels(sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    assert verify(bundle, deep=True, max_pixels=66_000).ok
    report = verify(bundle, deep=True, max_pixels=65_999)
    assert [d.reason for d in report.damaged] == [
        "an image of 300 × 220 pixels, more than the limit of 65,999"
    ]
    assert verify(bundle, max_pixels=1).ok  # without being decoded, none takes memory

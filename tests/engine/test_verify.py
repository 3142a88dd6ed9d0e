from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sample_images import SAMPLES
from tamis.bundles.beton import Bundle, open_bundle
from tamis.bundles.cut import cut
from tamis.bundles.layout import DESCRIPTOR, HEADER
from tamis.bundles.verify import verify

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

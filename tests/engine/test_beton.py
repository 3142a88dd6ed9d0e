from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffcv_bundles import N_MIXED, N_PAGES, N_SMALL, mixed, pages, small
from tamis.bundles import plain_parquet, trailer
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.layout import ALLOCATION, DESCRIPTOR, HEADER, FieldType, metadata_dtype
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.trailer import FOOTER_SIZE, Trailer, decode_trailer, encode_trailer
from tamis.errors import BundleError, DamagedBundleError
from tamis.manifest import Manifest, Parent
from tamis.sources.image_folder import open_image_folder

U64 = 8
PAGE_SIZE_AT, N_AT, ALLOC_PTR_AT = 4, 8, 16
METADATA_AT = HEADER.itemsize + 2 * DESCRIPTOR.itemsize  # with two fields


@pytest.fixture(scope="session")
def files(
    digits_bundle: Path,
    sample_bundle: Path,
    ffcv_folder: Path,
    sample_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
    """Sound bundles as bytes."""
    folder = tmp_path_factory.mktemp("files")
    cut(open_bundle(digits_bundle), folder / "cut.beton", np.arange(5, 1300, 7))
    convert(open_image_folder(sample_folder), folder / "raw.beton", ConvertSettings(mode="raw"))
    return {
        "digits": digits_bundle.read_bytes(),
        "samples": sample_bundle.read_bytes(),  # JPEGs
        "cut": (folder / "cut.beton").read_bytes(),  # ids that are not 0…n-1
        "raw": (folder / "raw.beton").read_bytes(),  # images of several sizes
        "small": (ffcv_folder / "small.beton").read_bytes(),
        "pages": (ffcv_folder / "pages.beton").read_bytes(),
        "mixed": (ffcv_folder / "mixed.beton").read_bytes(),
    }


def number(data: bytes | bytearray, at: int, size: int = U64) -> int:
    return int.from_bytes(data[at : at + size], "little")


def put(data: bytes, at: int, value: int, size: int = U64) -> bytes:
    """``data`` with one little-endian number replaced; negative values wrap around."""
    return data[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


def opened(tmp_path: Path, data: bytes) -> Bundle:
    # A new file each time: bundles opened before keep theirs mapped.
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.beton"
    path.write_bytes(data)
    return open_bundle(path)


def refused(tmp_path: Path, data: bytes) -> str:
    """The message with which ``data`` is refused."""
    with pytest.raises(BundleError) as error:
        opened(tmp_path, data)
    return str(error.value)


def test_every_file_is_sound(tmp_path: Path, files: dict[str, bytes]) -> None:
    sizes = {name: opened(tmp_path, data).n_examples for name, data in files.items()}
    assert sizes == {
        "digits": 1347,
        "samples": 9,
        "cut": 185,
        "raw": 9,
        "small": N_SMALL,
        "pages": N_PAGES,
        "mixed": N_MIXED,
    }


# ---- what plain FFCV wrote


def test_ffcv_bundles_open(ffcv_folder: Path) -> None:
    bundle = open_bundle(ffcv_folder / "small.beton")
    assert bundle.example_ids.tolist() == list(range(N_SMALL))
    assert (bundle.trailer, bundle.manifest, bundle.classes, bundle.paths) == (None,) * 4
    assert [(f.name, f.type) for f in bundle.fields] == [
        ("image", FieldType.RGB_IMAGE),
        ("label", FieldType.INT),
    ]
    assert (bundle.page_size, bundle.n_classes) == (2 << 20, 5)
    for position in range(N_SMALL):
        pixels, label = small(position)
        mode, width, height, data = bundle.image_record(position)
        assert (mode, width, height, data.tobytes()) == (1, 16, 16, pixels.tobytes())
        assert bundle.labels[position] == label


def test_ffcv_bundle_of_two_workers(ffcv_folder: Path) -> None:
    bundle = open_bundle(ffcv_folder / "pages.beton")
    offsets = bundle.extents[:, 0, 0]
    assert len(np.unique(offsets // bundle.page_size)) >= 4
    assert (np.diff(offsets) < 0).any()  # the workers' pages interleave
    for position in range(N_PAGES):
        label, pixels = pages(position)
        assert bundle.labels[position] == label
        assert bundle.image_record(position)[3].tobytes() == pixels.tobytes()


def test_ffcv_bundle_of_all_field_types(ffcv_folder: Path) -> None:
    bundle = open_bundle(ffcv_folder / "mixed.beton")
    assert bundle.image_field == 4
    for position in range(N_MIXED):
        example = mixed(position)
        assert bundle.labels[position] == example.number  # no Int field "label": the first one
        assert bundle.metadata["f1"][position] == example.weight
        payloads = [
            bundle.data[offset : offset + size].tobytes()
            for offset, size in bundle.extents[position]
        ]
        assert payloads == [
            example.note.tobytes(),
            json.dumps(example.facts).encode() + b"\0",
            example.vector.tobytes(),
            example.image.tobytes(),
            example.tensor.tobytes(),
        ]


# ---- damage, of which FFCV notices only the version


@pytest.mark.parametrize("name", ["digits", "small"])
@pytest.mark.parametrize("version", [0, 1, 3, 0x0200])
def test_wrong_version(tmp_path: Path, files: dict[str, bytes], name: str, version: int) -> None:
    message = refused(tmp_path, put(files[name], 0, version, 2))
    assert f"expected .beton version 2, found version {version}" in message


@pytest.mark.parametrize("name", ["digits", "small"])
def test_interrupted_writer(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    assert "writer was interrupted" in refused(tmp_path, put(files[name], ALLOC_PTR_AT, 0))


@pytest.mark.parametrize("name", ["samples", "cut", "small", "mixed"])
def test_truncation_anywhere(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    data = files[name]
    alloc_ptr, end = number(data, ALLOC_PTR_AT), len(data)
    lengths = {0, 1, 10, 23, 24, 25, 1064, 1065, METADATA_AT, METADATA_AT + 24, alloc_ptr}
    # Whole rows of the table missing: the rest of the file is consistent in itself.
    lengths |= {alloc_ptr + 24, end - 48, end - 24, end - 23, end - 1}
    lengths |= {alloc_ptr + (end - alloc_ptr) // 48 * 24}
    lengths |= set(np.random.default_rng(0).integers(0, end, 60).tolist())
    path = tmp_path / "x.beton"
    path.write_bytes(data)
    accepted = []
    for length in sorted(lengths, reverse=True):
        with path.open("r+b") as file:
            file.truncate(length)
        try:
            open_bundle(path)
        except BundleError:
            continue
        accepted.append(length)
    assert accepted == []


@pytest.mark.parametrize("name", ["samples", "small", "mixed"])
@pytest.mark.parametrize(
    "junk",
    [b"\0", b"x" * 23, bytes(24), b"x" * 24, bytes(4800), b"x" * 4800],
    ids=["1", "23", "24 zeros", "24", "4800 zeros", "4800"],
)
def test_bytes_appended(tmp_path: Path, files: dict[str, bytes], name: str, junk: bytes) -> None:
    refused(tmp_path, files[name] + junk)


@pytest.mark.parametrize("name", ["samples", "cut", "small", "pages", "mixed"])
@pytest.mark.parametrize(
    "change",
    [
        lambda n: n + 1,
        lambda n: n - 1,
        lambda n: n // 2,
        lambda n: 1,
        lambda n: 0,
        lambda n: 2 * n,
        lambda n: 2**32,
        lambda n: 2**60,  # times the row size, it wraps around
        lambda n: 2**64 - 1,
    ],
    ids=["+1", "-1", "halved", "1", "0", "doubled", "2**32", "2**60", "2**64-1"],
)
def test_wrong_number_of_examples(
    tmp_path: Path, files: dict[str, bytes], name: str, change: Callable[[int], int]
) -> None:
    refused(tmp_path, put(files[name], N_AT, change(number(files[name], N_AT))))


@pytest.mark.parametrize("name", ["digits", "small"])
@pytest.mark.parametrize("page_size", [0, 1, 2048, 3 << 20, (2 << 20) + 1, 2**32 - 1])
def test_page_size_that_is_none(
    tmp_path: Path, files: dict[str, bytes], name: str, page_size: int
) -> None:
    message = refused(tmp_path, put(files[name], PAGE_SIZE_AT, page_size, 4))
    assert f"expected a page size that is a power of two, found {page_size}" in message


@pytest.mark.parametrize("page_size", [4096, 1 << 20])
def test_page_size_that_records_cross(
    tmp_path: Path, files: dict[str, bytes], page_size: int
) -> None:
    message = refused(tmp_path, put(files["pages"], PAGE_SIZE_AT, page_size, 4))
    assert "no record across a page boundary" in message


@pytest.mark.parametrize("name", ["digits", "samples", "small", "pages", "mixed"])
@pytest.mark.parametrize("fields", [0, -1, 1, 3, 65535])
def test_wrong_number_of_fields(
    tmp_path: Path, files: dict[str, bytes], name: str, fields: int
) -> None:
    right = number(files[name], 2, 2)
    wrong = right - 1 if fields == -1 else fields
    refused(tmp_path, put(files[name], 2, wrong, 2))


@pytest.mark.parametrize("name", ["samples", "cut", "small", "mixed"])
@pytest.mark.parametrize("shift", [-25, -24, -1, 1, 24, 25, 48, 10**6, 2**62])
def test_wrong_allocation_pointer(
    tmp_path: Path, files: dict[str, bytes], name: str, shift: int
) -> None:
    alloc_ptr = number(files[name], ALLOC_PTR_AT)
    refused(tmp_path, put(files[name], ALLOC_PTR_AT, alloc_ptr + shift))


@pytest.mark.parametrize("name", ["digits", "samples", "small"])
@pytest.mark.parametrize("type_id", [7, 100, 255])
def test_unknown_field_type(
    tmp_path: Path, files: dict[str, bytes], name: str, type_id: int
) -> None:
    message = refused(tmp_path, put(files[name], HEADER.itemsize, type_id, 1))
    assert f"found type {type_id} in field 'image'" in message


def test_field_type_of_another_size(tmp_path: Path, files: dict[str, bytes]) -> None:
    for type_id in (FieldType.FLOAT, FieldType.BYTES, FieldType.ND_ARRAY, FieldType.JSON):
        refused(tmp_path, put(files["samples"], HEADER.itemsize, type_id, 1))


def image_row(data: bytes, position: int) -> int:
    """Offset of the image's part of a metadata row, with fields (image, label)."""
    return METADATA_AT + 24 * position


# Offsets inside the image's part: mode u8 at 0, width u16 at 1, height u16 at 3, pointer u64 at 5.
@pytest.mark.parametrize("name", ["digits", "samples", "small"])
@pytest.mark.parametrize(
    ("at", "size", "value"),
    [
        (0, 1, 7),
        (0, 1, 255),
        (1, 2, 0),
        (3, 2, 0),
        (5, 8, 0),
        (5, 8, 1),
        (5, 8, 2**40),
        (5, 8, 2**63),
        (5, 8, 2**64 - 1),
    ],
    ids=lambda value: str(value),
)
def test_damaged_image_rows(
    tmp_path: Path, files: dict[str, bytes], name: str, at: int, size: int, value: int
) -> None:
    for position in (0, 7):
        refused(tmp_path, put(files[name], image_row(files[name], position) + at, value, size))


@pytest.mark.parametrize("name", ["digits", "samples", "small", "cut"])
@pytest.mark.parametrize("shift", [-1, 1, 192])
def test_shifted_image_pointers(
    tmp_path: Path, files: dict[str, bytes], name: str, shift: int
) -> None:
    at = image_row(files[name], 5) + 5
    refused(tmp_path, put(files[name], at, number(files[name], at) + shift))


def test_swapped_image_pointers(tmp_path: Path, files: dict[str, bytes]) -> None:
    # Images of one size: only the allocation table knows whose record is whose.
    for name in ("digits", "small"):
        data = files[name]
        a, b = (image_row(data, position) + 5 for position in (3, 4))
        swapped = put(put(data, a, number(data, b)), b, number(data, a))
        refused(tmp_path, swapped)


@pytest.mark.parametrize(("name", "side"), [("digits", 8), ("small", 16), ("raw", 37)])
def test_raw_size_and_table_must_agree(
    tmp_path: Path, files: dict[str, bytes], name: str, side: int
) -> None:
    at = image_row(files[name], 0) + 1
    assert number(files[name], at, 2) == side
    for width in (side - 1, side + 1, 65535):
        message = refused(tmp_path, put(files[name], at, width, 2))
        assert "field 'image' of every example in the allocation table" in message


def test_jpeg_that_became_raw(tmp_path: Path, files: dict[str, bytes]) -> None:
    # FFCV's loading thread dies of this and the main thread waits for ever.
    refused(tmp_path, put(files["samples"], image_row(files["samples"], 0), 1, 1))


@pytest.mark.parametrize("name", ["samples", "cut", "small", "mixed"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size", 2**64 - 1),
        ("size", 2**62),
        ("size", 0),
        ("ptr", 0),
        ("ptr", 2**64 - 1),
        # FFCV fetches the pages of an example by these ids when os_cache is False.
        ("sample_id", 8),
        ("sample_id", 2**63),
    ],
)
def test_damaged_allocation_rows(
    tmp_path: Path, files: dict[str, bytes], name: str, column: str, value: int
) -> None:
    fields = ALLOCATION.fields
    assert fields is not None
    at = number(files[name], ALLOC_PTR_AT)
    rows = np.frombuffer(files[name][at:], ALLOCATION)
    row = int(np.flatnonzero(rows["size"])[2])  # not an empty note
    assert rows[column][row] != value
    refused(tmp_path, put(files[name], at + 24 * row + fields[column][1], value))


def moved(data: bytes, position: int, pointer: int) -> bytes:
    """The image's record moved, in the metadata and in the allocation table."""
    at = image_row(data, position) + 5
    entry = data.index(data[at : at + 8], number(data, ALLOC_PTR_AT))
    return put(put(data, at, pointer), entry, pointer)


def test_records_outside_the_payload(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = files["small"]
    end = number(data, ALLOC_PTR_AT)
    for pointer in (0, 500, end - 767, end, len(data), 2**62, 2**63 - 1):
        assert "expected every record between bytes" in refused(tmp_path, moved(data, 7, pointer))
    for pointer in (2**63, 2**64 - 1):
        assert "pointers beyond 2**63" in refused(tmp_path, moved(data, 7, pointer))
    assert opened(tmp_path, moved(data, 7, end - 768)).n_examples == N_SMALL  # unused, but inside


def test_records_that_overlap(tmp_path: Path, files: dict[str, bytes]) -> None:
    # Each of n records could hold the whole payload, and reading them would take n times as long.
    data = files["small"]
    for other, shift in ((6, 0), (6, 1), (8, -1), (3, 767), (39, -767)):
        pointer = number(data, image_row(data, other) + 5) + shift
        assert "expected records that do not overlap" in refused(tmp_path, moved(data, 7, pointer))


def test_allocations_may_come_in_any_order(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name in ("small", "pages", "mixed"):
        data, sound = files[name], opened(tmp_path, files[name])
        at = number(data, ALLOC_PTR_AT)
        rows = np.frombuffer(data[at:], ALLOCATION)
        shuffled = np.random.default_rng(0).permutation(rows)
        for order in (rows[::-1], shuffled, rows[np.argsort(rows["ptr"], kind="stable")]):
            found = opened(tmp_path, data[:at] + order.tobytes())
            assert np.array_equal(found.extents, sound.extents)


def test_no_ffcv_bundle_without_its_table(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name in ("small", "mixed"):
        refused(tmp_path, files[name][: number(files[name], ALLOC_PTR_AT)])


def test_sizes_in_the_metadata_must_be_the_tables(tmp_path: Path, files: dict[str, bytes]) -> None:
    bundle = opened(tmp_path, files["mixed"])
    start = HEADER.itemsize + 7 * DESCRIPTOR.itemsize
    dtype = metadata_dtype(bundle.fields)
    assert dtype.fields is not None
    for field in ("f0", "f2"):  # bytes, JSON: pointer, then size
        at = start + 4 * dtype.itemsize + dtype.fields[field][1] + 8
        right = number(files["mixed"], at)
        for wrong in (0, right + 1, 2**63):
            refused(tmp_path, put(files["mixed"], at, wrong))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 bytes"),
        (b"ten bytes!", "10 bytes"),
        (b"a text file of some length\n" * 100, "version"),
        (bytes(5000), "version 0"),
    ],
)
def test_no_bundle_at_all(tmp_path: Path, data: bytes, found: str) -> None:
    assert f"found {found}" in refused(tmp_path, data)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="found no file"):
        open_bundle(tmp_path / "x.beton")
    with pytest.raises(BundleError, match="found a folder"):
        open_bundle(tmp_path)


# ---- the trailer


@pytest.mark.parametrize("name", ["samples", "cut"])
def test_a_flipped_bit_in_the_trailer_is_seen_or_harmless(
    tmp_path: Path, files: dict[str, bytes], name: str
) -> None:
    data, sound = files[name], opened(tmp_path, files[name])
    assert sound.paths is not None
    alloc_ptr = number(data, ALLOC_PTR_AT)
    blob = number(data, alloc_ptr - FOOTER_SIZE)
    path = tmp_path / "flipped.beton"
    path.write_bytes(data)
    unseen = []
    with path.open("r+b") as file:
        for at in range(alloc_ptr - FOOTER_SIZE - blob, alloc_ptr, 2):
            file.seek(at)
            file.write(bytes([data[at] ^ (1 << at % 8)]))
            file.flush()
            try:
                found = open_bundle(path)
            except BundleError:
                pass
            else:
                same = (
                    np.array_equal(found.example_ids, sound.example_ids)
                    and found.paths is not None
                    and found.paths.equals(sound.paths)
                    and np.array_equal(found.checksums, sound.checksums)
                    and found.manifest == sound.manifest
                )
                if not same:
                    unseen.append(at)
            file.seek(at)
            file.write(data[at : at + 1])
    assert unseen == [], f"{len(unseen)} of {(blob + FOOTER_SIZE) // 2} flips"


def test_tables_longer_than_the_examples_are_not_read(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    path = tmp_path / "sparse.beton"
    path.write_bytes(files["samples"])
    with path.open("r+b") as file:  # holes cost its maker nothing
        file.truncate(len(files["samples"]) + ALLOCATION.itemsize * 50_000_000)
    tracemalloc.start()
    with pytest.raises(DamagedBundleError, match="expected 9 allocations, found 50000009 of them"):
        open_bundle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_trailer_of_another_version(
    tmp_path: Path, files: dict[str, bytes], version: int
) -> None:
    at = number(files["samples"], ALLOC_PTR_AT) - 1
    message = refused(tmp_path, put(files["samples"], at, version, 1))
    assert f"expected a trailer of version 2, found version {version}, which another" in message


@pytest.mark.parametrize("length", [0, 1, 12, 2**20, 2**63, 2**64 - 1])
def test_wrong_trailer_length(tmp_path: Path, files: dict[str, bytes], length: int) -> None:
    at = number(files["samples"], ALLOC_PTR_AT) - FOOTER_SIZE
    refused(tmp_path, put(files["samples"], at, length))


def a_trailer(ids: list[int], manifest: Manifest | None = None) -> Trailer:
    return Trailer(
        np.array(ids, np.int64),
        [f"p{i}" if i % 2 else None for i in ids],
        np.array([2**64 - 1 - i for i in ids], np.uint64),
        manifest or Manifest("convert"),
    )


def test_trailers_survive_a_round_trip() -> None:
    parent = Parent("xxh3:00", 10, "parent.beton", root=False)
    manifest = Manifest(
        operation="cut",
        settings={"keep": 0.5, "metric": "el2n", "nested": {"a": [1, None]}},
        classes=("é", "b"),
        parents=(parent, replace(parent, n_examples=99, root=True)),
        skipped=({"path": "x", "reason": "y"},),
    )
    encoded = encode_trailer(a_trailer([5, 2, 2**62], manifest))
    assert encoded == encode_trailer(a_trailer([5, 2, 2**62], manifest))
    found = decode_trailer(encoded[:-FOOTER_SIZE], 3, "x")
    assert found.example_ids.tolist() == [5, 2, 2**62]
    assert list(found.checksums) == [2**64 - 6, 2**64 - 3, 2**64 - 1 - 2**62]
    assert found.paths.to_pylist() == ["p5", None, None]  # type: ignore[union-attr]
    assert found.manifest == manifest
    assert found.manifest.full_examples == 99


@pytest.mark.parametrize(
    ("ids", "n_examples", "found"),
    [([1, 2], 3, "2 rows for 3 examples"), ([4, 4], 2, "repeated example ids")],
)
def test_trailers_that_do_not_fit(ids: list[int], n_examples: int, found: str) -> None:
    blob = encode_trailer(a_trailer(ids))[:-FOOTER_SIZE]
    with pytest.raises(BundleError, match=found):
        decode_trailer(blob, n_examples, "x")


# Checksums are no proof of honesty: what is refused of a trailer that has the right ones.


def parquet(table: pa.Table, **options: object) -> bytes:
    """A blob like tamis's own, but for the given options of the writer."""
    plain = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, **{"compression": "zstd", **plain, **options}
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"tamis": Manifest("convert").to_json(), "digest": ""})
    return bytes(sink.getvalue())


def columns(paths: pa.Array | None = None, n: int = 3) -> pa.Table:
    ids, checksums = np.arange(n), np.arange(n).astype(np.uint64)
    paths = pa.array(["a", None, "é"] * (n // 3)) if paths is None else paths
    return pa.table({"example_id": ids, "path": paths, "checksum": checksums})


def test_the_plainest_parquet_is_read() -> None:
    assert decode_trailer(parquet(columns()), 3, "x").paths.to_pylist() == ["a", None, "é"]  # type: ignore[union-attr]
    required = pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in (("example_id", pa.int64()),)]
        + [pa.field("path", pa.string()), pa.field("checksum", pa.uint64(), nullable=False)]
    )
    assert decode_trailer(parquet(columns().cast(required)), 3, "x").example_ids.tolist() == [
        0,
        1,
        2,
    ]
    many = columns(n=60_000)  # several pages a column
    assert decode_trailer(parquet(many, data_page_size=4096), 60_000, "x").example_ids[-1] == 59_999


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"use_dictionary": True}, "a column that is not plain"),
        ({"compression": "gzip"}, "a column that is not plain"),
        ({"write_statistics": True}, "a column that is not plain"),
        ({"column_encoding": {"path": "DELTA_BYTE_ARRAY"}}, "a page that is not plain data"),
        ({"data_page_version": "2.0"}, "a page that is not plain data"),
        ({"store_schema": True}, "not alone"),
    ],
)
def test_parquet_that_is_not_the_plainest_is_refused(
    options: dict[str, object], found: str
) -> None:
    with pytest.raises(BundleError, match=found):
        decode_trailer(parquet(columns(), **options), 3, "x")


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (columns().drop_columns(["path"]), "columns of other names"),
        (columns().rename_columns(["example_id", "paths", "checksum"]), "columns of other names"),
        (columns(pa.array([["a"], [], ["b", "c"]])), "a damaged Parquet footer"),
        (columns(pa.array([1, 2, 3])), "columns of other names"),
        (columns(pa.array([b"\xff", b"\xc3", b""]).view(pa.string())), "[Ii]nvalid UTF8"),
        (columns(n=6), "6 rows for 3 examples"),
    ],
)
def test_trailers_of_another_shape(table: pa.Table, found: str) -> None:
    with pytest.raises(BundleError, match=found):
        decode_trailer(parquet(table), 3, "x")


def test_bombs_in_the_trailer_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = parquet(columns(pa.array(["a" * 2_000_000, "", ""])))
    assert len(blob) < 2000

    def decoded(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(pq, "ParquetFile", decoded)
    with pytest.raises(BundleError, match="columns of more than 1,051,648 bytes"):
        decode_trailer(blob, 3, "x")


def test_a_contradiction_that_would_end_the_process_in_arrow() -> None:
    # The fuzzer found it: a column declared without nulls, whose counts are of one with nulls.
    blob, nullable = parquet(columns()), b"\x25\x02\x18\x0aexample_id"
    assert blob.count(nullable) == 1
    with pytest.raises(BundleError, match="counts do not fit"):
        decode_trailer(blob.replace(nullable, b"\x25\x00" + nullable[2:]), 3, "x")


def test_what_would_be_refused_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(a_trailer([1, 2]), paths=["a" * 2_000_000, None])
    with pytest.raises(BundleError, match="expected example ids, paths and checksums of at most"):
        encode_trailer(long)
    blob = encode_trailer(a_trailer([1, 2]))[:-FOOTER_SIZE]
    for module in (trailer, plain_parquet):
        monkeypatch.setattr(module, "MANIFEST_BYTES", 100)
    with pytest.raises(BundleError, match="a manifest of at most 100 bytes"):
        encode_trailer(a_trailer([1, 2]))
    with pytest.raises(BundleError, match="a manifest that is too long"):
        decode_trailer(blob, 2, "x")


def test_repeated_ids_that_are_not_neighbours() -> None:
    for ids in ([4, 1, 4], [1, 4, 4], [4, 4, 1]):
        with pytest.raises(BundleError, match="repeated example ids"):
            decode_trailer(encode_trailer(a_trailer(ids))[:-FOOTER_SIZE], 3, "x")


@pytest.mark.parametrize("name", ["samples", "cut"])
def test_a_trailer_that_lost_its_magic_is_missed(
    tmp_path: Path, files: dict[str, bytes], name: str
) -> None:
    # Without it, ids would silently become 0…n-1.
    data = files[name]
    end = number(data, ALLOC_PTR_AT)
    start = opened(tmp_path, data).payload_end
    for first in (end - 8, end - 24, end - 28, start):
        message = refused(tmp_path, data[:first] + bytes(end - first) + data[end:])
        assert "expected a trailer or none, found a damaged one" in message


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"format": "tamis-manifest/2", "operation": "cut"}', "{}"]
)
def test_manifests_of_another_format(text: str) -> None:
    with pytest.raises(BundleError, match="tamis-manifest/1"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "change", [{"operation": None}, {"parents": [{"digest": "x"}]}, {"unknown": 1}]
)
def test_manifests_that_lack_something(change: dict[str, object]) -> None:
    raw = Manifest("cut").to_dict() | change
    if change == {"unknown": 1}:  # what a later version adds under the same format is ignored
        assert Manifest.from_json(json.dumps(raw)) == Manifest("cut")
        return
    with pytest.raises(BundleError, match="something else"):
        Manifest.from_json(json.dumps(raw))


# ---- what an opened bundle answers


def test_positions_of_ids(tmp_path: Path, files: dict[str, bytes]) -> None:
    bundle = opened(tmp_path, files["cut"])
    assert bundle.positions(np.array([1293, 5, 12])).tolist() == [184, 0, 1]
    assert bundle.positions(np.array([], np.int64)).tolist() == []
    for unknown in (-1, 6, 10**12):
        with pytest.raises(BundleError, match=f"1 that it does not hold, the first is {unknown};"):
            bundle.positions(np.array([5, unknown, 12]))


def test_the_digest_is_of_the_content(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = files["small"]
    bundle = opened(tmp_path, data)
    # Laid out anew, with a trailer: the same content.
    cut(bundle, tmp_path / "whole.beton", bundle.example_ids)
    whole = open_bundle(tmp_path / "whole.beton")
    assert whole.digest == bundle.digest
    assert not np.array_equal(whole.extents, bundle.extents)
    # Any change of label, pixels, field names, ids or number is another content.
    digests = {bundle.digest}
    label = METADATA_AT + 16
    digests.add(opened(tmp_path, put(data, label, 3)).digest)
    offset = int(bundle.extents[3, 0, 0])
    digests.add(opened(tmp_path, put(data, offset + 100, data[offset + 100] ^ 1, 1)).digest)
    digests.add(opened(tmp_path, data.replace(b"image", b"photo", 1)).digest)
    cut(bundle, tmp_path / "fewer.beton", bundle.example_ids[1:])
    digests.add(open_bundle(tmp_path / "fewer.beton").digest)
    assert len(digests) == 5


def test_a_flipped_label_is_seen(tmp_path: Path, digits_bundle: Path) -> None:
    data = bytearray(digits_bundle.read_bytes())
    # Position 3's label: header, two descriptors, rows of 24 bytes with the label at 16.
    data[24 + 2 * 1041 + 3 * 24 + 16] ^= 1
    (tmp_path / "mislabelled.beton").write_bytes(data)
    with pytest.raises(BundleError, match="expected the content that its digest names"):
        open_bundle(tmp_path / "mislabelled.beton")


def test_labels_and_images_that_are_not_there(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = files["small"]
    label_type = HEADER.itemsize + DESCRIPTOR.itemsize
    floats = opened(tmp_path, put(data, label_type, FieldType.FLOAT, 1))
    with pytest.raises(BundleError, match="image: rgb_image, label: float"):
        _ = floats.labels
    negative = opened(tmp_path, put(data, METADATA_AT + 16, -3))
    with pytest.raises(BundleError, match="the label -3"):
        _ = negative.n_classes


def test_classes_that_a_subset_lacks_still_count(tmp_path: Path, digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    few = bundle.example_ids[bundle.labels < 4]
    cut(bundle, tmp_path / "few.beton", few)
    assert open_bundle(tmp_path / "few.beton").n_classes == 10

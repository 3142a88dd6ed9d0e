from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.bundles.layout import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    Field,
    FieldType,
    image_fields,
    make_field,
    metadata_dtype,
    pack,
    parse_fields,
)
from tamis.errors import BundleError

FLOAT, INT, RGB, BYTES = FieldType.FLOAT, FieldType.INT, FieldType.RGB_IMAGE, FieldType.BYTES
PAGE = 64  # small, so that examples meet many boundaries; pack itself asks for no minimum


def fields_of(*kinds: FieldType) -> tuple[Field, ...]:
    return tuple(make_field(f"field{i}", kind) for i, kind in enumerate(kinds))


def packed_by_loop(sizes: list[int], start: int, page_size: int) -> list[int]:
    """The definition: one record after the other, the next page where it would cross."""
    offsets, position = [], start
    for size in sizes:
        room = max(size, 1)
        left = page_size - position % page_size
        if room > left:
            position += left
        offsets.append(position)
        position += room
    return offsets


def array(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


record_sizes = st.lists(st.one_of(st.integers(0, PAGE), st.sampled_from([0, 1, PAGE])), max_size=60)


@given(record_sizes, st.integers(0, 5 * PAGE))
def test_pack_is_the_loop(sizes: list[int], start: int) -> None:
    offsets = pack(array(sizes), start, PAGE)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == packed_by_loop(sizes, start, PAGE)


@given(record_sizes, record_sizes, st.integers(0, 5 * PAGE))
def test_packing_in_two_calls_is_packing_in_one(
    first: list[int], second: list[int], start: int
) -> None:
    once = pack(array(first + second), start, PAGE).tolist()
    head = pack(array(first), start, PAGE).tolist()
    end = head[-1] + max(first[-1], 1) if first else start
    assert head + pack(array(second), end, PAGE).tolist() == once


@pytest.mark.parametrize(
    ("sizes", "start", "expected"),
    [
        ([], 7, []),
        ([64, 64], 0, [0, 64]),  # whole pages, back to back
        ([64], 1, [64]),  # a whole page never fits beside anything
        ([63, 1, 1], 0, [0, 63, 64]),  # exactly full, then the next page
        ([0, 0, 5], 62, [62, 63, 64]),  # empty records take a byte each: no shared pointers
        ([0], 63, [63]),
        ([33, 33, 31], 0, [0, 64, 97]),  # room left behind is not gone back to
    ],
)
def test_pack_by_hand(sizes: list[int], start: int, expected: list[int]) -> None:
    assert pack(array(sizes), start, PAGE).tolist() == expected


def test_pack_at_the_size_of_imagenet() -> None:
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(11.4, 0.6, 300_000).astype(np.int64), 8 << 20)
    offsets = pack(sizes, 50_000_000, 8 << 20)
    assert (offsets[1:] >= offsets[:-1] + sizes[:-1]).all()
    assert (offsets // (8 << 20) == (offsets + sizes - 1) // (8 << 20)).all()
    # A page is left only when the next record does not fit into its rest.
    gaps = offsets[1:] - offsets[:-1] - sizes[:-1]
    assert (gaps < sizes[1:]).all()
    assert offsets[:2000].tolist() == packed_by_loop(sizes[:2000].tolist(), 50_000_000, 8 << 20)


def test_pack_refuses_a_record_larger_than_a_page() -> None:
    with pytest.raises(ValueError, match="65 bytes does not fit a page of 64"):
        pack(array([3, 65]), 0, PAGE)


# Offsets and row sizes of the format's description, measured on files that FFCV wrote.
@pytest.mark.parametrize(
    ("kinds", "offsets", "row"),
    [
        ((RGB, INT), [0, 16], 24),
        ((INT, RGB), [0, 8], 24),
        ((RGB, RGB), [0, 13], 26),
        ((RGB,), [0], 13),
        ((FLOAT, BYTES, RGB, INT), [0, 8, 24, 40], 48),
    ],
)
def test_metadata_rows(kinds: tuple[FieldType, ...], offsets: list[int], row: int) -> None:
    dtype = metadata_dtype(fields_of(*kinds))
    assert dtype.fields is not None
    assert [dtype.fields[f"f{i}"][1] for i in range(len(kinds))] == offsets
    assert dtype.itemsize == row


def test_rgb_row_is_packed() -> None:
    part = metadata_dtype(fields_of(RGB))["f0"]
    assert part.fields is not None
    assert {name: (str(kind), at) for name, (kind, at, *_) in part.fields.items()} == {
        "mode": ("uint8", 0),
        "width": ("uint16", 1),
        "height": ("uint16", 3),
        "ptr": ("uint64", 5),
    }


def test_every_table_is_ffcvs() -> None:
    from ffcv import types

    assert types.HeaderType == HEADER
    assert DESCRIPTOR.itemsize == types.FieldDescType.itemsize == 1041
    assert types.ALLOC_TABLE_TYPE == ALLOCATION
    handlers = {kind: types.TYPE_ID_HANDLER[int(kind)] for kind in FieldType}
    for length in (1, 2, 3):
        for kinds in permutations(FieldType, length):
            ours = metadata_dtype(fields_of(*kinds))
            # The array fields' constructors want a dtype; their row is a pointer all the same.
            theirs = types.get_metadata_type(
                [handlers[kind].__new__(handlers[kind]) for kind in kinds]
            )
            assert ours.itemsize == theirs.itemsize, kinds
            assert ours.fields is not None
            assert [ours.fields[f"f{i}"][1] for i in range(length)] == [
                theirs.fields[f"f{i}"][1] for i in range(length)
            ]


def test_descriptors_survive_a_round_trip() -> None:
    fields = (*image_fields(), make_field("sixteen-letters!", FieldType.JSON))
    raw = b"".join(field.descriptor for field in fields)
    assert len(raw) == 3 * 1041
    assert raw[:7] == b"\x02image\x00"
    assert parse_fields(np.frombuffer(raw, DESCRIPTOR), "f.beton") == fields


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ({"type_id": 255}, "type 255 in field 'image'"),  # a user's own class
        ({"type_id": 7}, "type 7 in field 'image'"),
        ({"name": np.frombuffer(b"label".ljust(16, b"\0"), np.uint8)}, "['label', 'label']"),
    ],
)
def test_unusable_descriptors_are_refused(damage: dict[str, object], found: str) -> None:
    rows = np.frombuffer(b"".join(f.descriptor for f in image_fields()), DESCRIPTOR).copy()
    for name, value in damage.items():
        rows[name][0] = value
    with pytest.raises(BundleError) as error:
        parse_fields(rows, "f.beton")
    assert error.value.found == found


def array_field(shape: list[int], descr: str) -> Field:
    row = np.zeros(1, DESCRIPTOR)
    row["type_id"] = FieldType.ND_ARRAY
    row["name"][0, :1] = ord("x")
    arguments = np.array([*shape, *[0] * (32 - len(shape)), len(descr)], "<u8").tobytes()
    arguments += descr.encode()
    row["arguments"][0, : len(arguments)] = np.frombuffer(arguments, np.uint8)
    return Field("x", FieldType.ND_ARRAY, row.tobytes())


@pytest.mark.parametrize(
    ("shape", "descr", "size"),
    [([3, 2], "<f4", 24), ([5], "<i2", 10), ([1], "|u1", 1), ([7, 1, 9, 2], "<f8", 1008)],
)
def test_size_of_array_fields(shape: list[int], descr: str, size: int) -> None:
    assert array_field(shape, json.dumps([["", descr]])).fixed_size() == size


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ([3], "no JSON"),
        ([3], '[["", "<f999"]]'),
        ([3], '{"f": 4}'),
        ([2**40, 2**40], '[["", "<f4"]]'),  # would overflow 64 bits
    ],
)
def test_damaged_array_fields_are_refused(shape: list[int], descr: str) -> None:
    with pytest.raises(BundleError, match="array shape and dtype"):
        array_field(shape, descr).fixed_size()

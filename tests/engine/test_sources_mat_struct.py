from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from tamis.errors import SourceError
from tamis.sources.mat_struct import read_struct

FIELDS = ("number", "text", "other")


def saved(rows: list[tuple[Any, ...]], *, compressed: bool = True, **more: Any) -> bytes:
    table = np.zeros((1, len(rows)), dtype=[(name, object) for name in FIELDS])
    for column, row in enumerate(rows):
        table[0, column] = row
    sink = io.BytesIO()
    savemat(sink, {**more, "table": table}, do_compression=compressed)
    return sink.getvalue()


ROWS: list[tuple[Any, ...]] = [
    (1.0, "n02119789", np.eye(3)),
    (np.int16(-7), "kit fox, Vulpes macrotis", "skipped"),
    (np.uint8(200), "é日本", {"a": 1}),
    (1.5, "x", 3.0),
]


@pytest.mark.parametrize("compressed", [True, False])
def test_the_same_as_scipy(compressed: bool) -> None:
    data = saved(ROWS, compressed=compressed, before=[1, 2], text="x")
    theirs = loadmat(io.BytesIO(data), squeeze_me=True)["table"]
    expected = [(float(row["number"]), str(row["text"])) for row in theirs]
    assert expected == [(float(row[0]), row[1]) for row in ROWS]
    assert read_struct(data, "table", ("number", "text"), "x") == expected
    assert read_struct(data, "table", ("text",), "x") == [row[1:] for row in expected]


def test_what_is_neither_a_number_nor_text_is_none() -> None:
    data = saved([(np.eye(2), {"a": 1}, np.zeros(0)), (1j, np.array([1, "a"], object), "")])
    rows = read_struct(data, "table", FIELDS, "x")
    assert rows == [(None, None, None), (None, None, "")]


def test_a_struct_on_its_own() -> None:
    sink = io.BytesIO()
    savemat(sink, {"table": {"number": 3, "text": "a"}})
    assert read_struct(sink.getvalue(), "table", ("text", "number"), "x") == [("a", 3.0)]


def test_what_is_not_there() -> None:
    data = saved(ROWS, plain=1)
    with pytest.raises(
        SourceError, match="x: expected a variable synsets, found none of that name"
    ):
        read_struct(data, "synsets", ("number",), "x")
    with pytest.raises(SourceError, match="expected a field WNID, found number, text, other"):
        read_struct(data, "table", ("number", "WNID"), "x")
    with pytest.raises(SourceError, match="expected plain, a struct array"):
        read_struct(data, "plain", ("number",), "x")
    with pytest.raises(SourceError, match="expected a MATLAB 5 file"):
        read_struct(b"", "table", ("number",), "x")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 8, 14, 64, 128, 255])), min_size=1),
    st.floats(0.1, 1),
    st.booleans(),
)
def test_damage_is_an_error_or_harmless(
    changes: list[tuple[float, int]], kept: float, compressed: bool
) -> None:
    """scipy's reader ends the whole process on some of these."""
    data = bytearray(saved(ROWS, compressed=compressed))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        rows = read_struct(bytes(data[: int(kept * len(data))]), "table", ("number", "text"), "x")
    except SourceError:
        return
    assert all(type(number) in (float, type(None)) for number, _ in rows)

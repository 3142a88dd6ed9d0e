from __future__ import annotations

import os
import pickle
import pickletools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import SourceError
from tamis.sources.safe_pickle import load_pickle

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
VALUE = {b"data": PIXELS, b"labels": [1, 2, 3], b"names": [b"a", b"\xff"], b"deep": {b"n": None}}


class Reduced:
    """Whatever its reduction names is called when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_arrays_of_every_protocol(protocol: int, module: bytes) -> None:
    data = pickle.dumps(VALUE, protocol)
    if protocol < 4:  # names are lines; later protocols would need another length too
        data = data.replace(b"cnumpy._core.multiarray\n", b"c" + module + b"\n")
    loaded = load_pickle(data, "x")
    assert loaded.keys() == VALUE.keys()
    assert np.array_equal(loaded[b"data"], PIXELS)
    assert (loaded[b"data"].dtype, loaded[b"data"].shape) == (np.uint8, (3, 4))
    for key in (b"labels", b"names", b"deep"):
        assert loaded[key] == VALUE[key]


def test_a_pickle_of_python_2() -> None:
    """Byte for byte what cPickle of Python 2 writes: texts are str, arrays NumPy 1's."""
    data = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
        b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06"
        b"U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x06\x00\x01\x02\x03\x04\x05tbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    loaded = load_pickle(data, "x")
    assert loaded[b"data"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded[b"labels"] == [6, 9]
    theirs = pickle.loads(data.replace(b"numpy.core.", b"numpy._core."), encoding="bytes")
    assert np.array_equal(loaded[b"data"], theirs[b"data"])


def test_fortran_order() -> None:
    loaded = load_pickle(pickle.dumps({b"data": np.asfortranarray(PIXELS)}, 2), "x")
    assert np.array_equal(loaded[b"data"], PIXELS)


def test_no_code_is_run(tmp_path: Path) -> None:
    target = tmp_path / "was here"
    for call in (
        (os.system, (f"touch '{target}'",)),
        (eval, (f"open({str(target)!r}, 'w')",)),
        (getattr, ("", "join")),
        (np.save, (str(target), 1)),
    ):
        for value in (Reduced(*call), [Reduced(*call)], {b"data": Reduced(*call)}):
            with pytest.raises(SourceError, match=r"x: .*found the name \S+, which could run code"):
                load_pickle(pickle.dumps(value, 2), "x")
    assert not target.exists()


HOSTILE = {
    "another array type": pickle.dumps({b"a": np.arange(3)}, 2),
    "objects": pickle.dumps({b"a": np.array([None, []], object)}, 2),
    "text keys": pickle.dumps({"data": 1}, 2),
    "no dict": pickle.dumps([1, 2], 2),
    "cut": pickle.dumps(VALUE, 2)[:-40],
    "empty": b"",
    "no pickle": b"\x89PNG\r\n",
    "a persistent id": b"\x80\x02U\x01aQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "a huge shape": pickle.dumps({b"a": PIXELS}, 2).replace(b"K\x03K\x04", b"M\xff\xffM\xff\xff"),
    "a huge memo": b"\x80\x02}r\xff\xff\xff\xffK\x01" + b".",
    "a huge string": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x10\x00\x00abc.",
    "a huge byte array": b"\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00abc.",
    "a huge frame": b"\x80\x04\x95\x00\x00\x00\x00\x00\x10\x00\x00.",
    "a class changed": b"\x80\x02cnumpy\nndarray\n}U\x0c__setstate__K\x01sb.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_else_a_pickle_may_hold(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="x: expected a pickle"):
            load_pickle(data, "x")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_array_that_is_asked_for_and_not_filled_takes_no_memory() -> None:
    data = b"\x80\x02}U\x01acnumpy\nndarray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85Rs."
    assert load_pickle(data, "x") == {b"a": None}


def test_arrays_still_load_after_hostile_pickles() -> None:
    for data in HOSTILE.values():
        with pytest.raises(SourceError):
            load_pickle(data, "x")
    assert np.array_equal(load_pickle(pickle.dumps(VALUE, 2), "x")[b"data"], PIXELS)


def test_the_python_2_names_stand_in_real_pickles() -> None:
    """What the replacement in these tests relies on."""
    names = {arg for _, arg, _ in pickletools.genops(pickle.dumps(VALUE, 2)) if arg}
    assert "numpy._core.multiarray _reconstruct" in {name for name in names if type(name) is str}


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_an_error_or_harmless(changes: list[tuple[float, int]]) -> None:
    data = bytearray(pickle.dumps(VALUE, 2))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        loaded = load_pickle(bytes(data), "x")
    except SourceError:
        return
    assert all(type(key) is bytes for key in loaded)

"""Decoding only what a box needs of a JPEG, against the crop of the whole image."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from loading import jpeg_records
from sample_images import picture
from tamis.loaders.decode_rows import _fraction
from tamis.loaders.decoding import Decoder
from tamis.loaders.excerpts import excerpt

ROOT = Path(__file__).resolve().parents[2]
# Mode, subsampling, width, height, units between markers; 4:4:4, 4:2:2, 4:4:0, 4:2:0, grey.
TILED = {
    "444": ("RGB", 0, 160, 100, 4),
    "444, odd": ("RGB", 0, 157, 99, 5),
    "422, odd": ("RGB", 1, 187, 93, 3),
    "440, odd": ("RGB", 1, 77, 205, 2),
    "420": ("RGB", 2, 192, 128, 3),
    "420, odd": ("RGB", 2, 189, 117, 4),
    "420, whole rows": ("RGB", 2, 189, 117, 12),
    "420, single units": ("RGB", 2, 97, 55, 1),
    "420, narrow end": ("RGB", 2, 99, 70, 1),
    "422, narrow end": ("RGB", 1, 163, 50, 1),
    "grey": ("L", 0, 157, 99, 5),
}
UNTILED = {
    "444, no markers": ("RGB", 0, 157, 99, 0),
    "422, no markers": ("RGB", 1, 187, 93, 0),
    "440, no markers": ("RGB", 1, 77, 205, 0),
    "420, no markers": ("RGB", 2, 189, 117, 0),
    "420, markers in rows": ("RGB", 2, 192, 128, 5),  # which do not divide a row's 12
    "420, two rows a marker": ("RGB", 2, 192, 128, 24),
    "grey, no markers": ("L", 0, 157, 99, 0),
}
KINDS = {**TILED, **UNTILED}


def jpeg_of(kind: str, quality: int = 90) -> tuple[bytes, int, int]:
    """A JPEG by Pillow, its width and height."""
    mode, subsampling, width, height, units = KINDS[kind]
    halved_down = kind.startswith("440")  # which Pillow does not write
    sink = io.BytesIO()
    shape = (-(-width // 8) * 16, -(-height // 16) * 8) if halved_down else (width, height)
    Image.fromarray(picture(*shape, 3)).convert(mode).save(
        sink, "JPEG", quality=quality, subsampling=subsampling, restart_marker_blocks=units
    )
    data = bytearray(sink.getvalue())
    if halved_down:  # the same blocks of coefficients, otherwise arranged
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        assert data[frame + 11] == 0x21
        data[frame + 11] = 0x12
    return bytes(data), width, height


def shown(
    data: bytes,
    size: tuple[int, int],
    box: list[int],
    *,
    exact: bool = True,
    proven: bool = True,
    out_size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """A box of a JPEG, at its own size or another."""
    records = jpeg_records([data], [size], proven=proven)
    out = np.empty((1, *(out_size or box[2:]), 3), np.uint8)
    failures = Decoder(exact=exact).decode(records, np.array([box]), np.zeros(1, np.bool_), out)
    assert failures == []
    pixels: NDArray[np.uint8] = out[0]
    return pixels


def excerpted(
    data: bytes, size: tuple[int, int], box: list[int], denominator: int = 1
) -> tuple[bytes, list[int]]:
    """The small JPEG, and which part of the image it shows."""
    region = np.array([0, 0, size[1], size[0]])
    source = np.frombuffer(bytearray(b"before" + data + b"behind"), np.int8)
    out = np.full(len(data) + 50, 77, np.int8)
    n = excerpt(source, 6, len(data), np.array(box), denominator, out[: len(data)], region)
    assert (out[len(data) :] == 77).all()
    if not n:
        assert region.tolist() == [0, 0, size[1], size[0]]
    return out[:n].tobytes(), region.tolist()


@given(st.sampled_from(list(KINDS)), st.data())
def test_every_box_is_the_crop_of_the_whole(kind: str, data: st.DataObject) -> None:
    jpeg, width, height = jpeg_of(kind)
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    with Image.open(io.BytesIO(jpeg)) as image:
        whole = np.asarray(image.convert("RGB"))
    found = shown(jpeg, (width, height), [top, left, h, w])
    assert np.array_equal(found, whole[top : top + h, left : left + w])
    small, region = excerpted(jpeg, (width, height), [top, left, h, w])
    if small:
        assert region != [0, 0, height, width]
        with Image.open(io.BytesIO(small)) as image:
            assert image.size == (region[3], region[2])
            image.load()  # tiles are a JPEG without a flaw, an upper part one with bytes too many
        assert region[0] <= top <= top + h <= region[0] + region[2]
        assert region[1] <= left <= left + w <= region[1] + region[3]


@pytest.mark.parametrize("kind", ["420, narrow end", "422, narrow end"])
def test_the_last_columns_of_a_narrow_tile(kind: str) -> None:
    """libjpeg-turbo interpolates no chroma of an image that is as narrow as the last tile."""
    jpeg, width, height = jpeg_of(kind)
    with Image.open(io.BytesIO(jpeg)) as image:
        whole = np.asarray(image.convert("RGB"))
    for columns in range(1, 6):
        left = width - columns
        found = shown(jpeg, (width, height), [20, left, 9, columns])
        assert np.array_equal(found, whole[20:29, left:])
        assert len(excerpted(jpeg, (width, height), [20, left, 9, columns])[0]) > 0


@settings(max_examples=300)
@given(st.sampled_from(list(KINDS)), st.integers(1, 9), st.integers(1, 9), st.data())
def test_shrunk_decoding_is_the_same_of_a_part_and_of_the_whole(
    kind: str, down: int, across: int, data: st.DataObject
) -> None:
    jpeg, width, height = jpeg_of(kind)
    h, w = data.draw(st.integers(16, height)), data.draw(st.integers(16, width))
    box = [data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w)), h, w]
    options: dict[str, Any] = {"exact": False, "out_size": (down, across)}
    of_a_part = shown(jpeg, (width, height), box, **options)
    assert np.array_equal(of_a_part, shown(jpeg, (width, height), box, proven=False, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_whose_edges_lie_beside_those_of_units(kind: str) -> None:
    """Where a pixel too few would show."""
    jpeg, width, height = jpeg_of(kind)
    n_excerpts = 0
    for fraction, beside in itertools.product((1, 2, 4, 8), range(-4, 5)):
        for top, left in ((16, 48), (32, 32), (0, 16)):
            top, left = max(top + beside, 0), max(left + beside, 0)
            # The last columns and rows, too: of tiles that begin where the first do.
            h, w = (32, 32 - beside) if left == 32 else (32 - beside, 32)
            box = [top, left, min(h, height - top), min(w, width - left)]
            size = (box[2] * 4 // (5 * fraction), box[3] * 4 // (5 * fraction))
            options: dict[str, Any] = {"exact": False, "out_size": size}
            of_a_part = shown(jpeg, (width, height), box, **options)
            whole = shown(jpeg, (width, height), box, proven=False, **options)
            assert np.array_equal(of_a_part, whole), (fraction, box)
            n_excerpts += bool(excerpted(jpeg, (width, height), box, fraction)[0])
    assert n_excerpts > 60


def test_a_small_box_takes_few_bytes() -> None:
    jpeg, width, height = jpeg_of("420")
    header = jpeg.index(b"\xff\xda")
    small, region = excerpted(jpeg, (width, height), [60, 60, 4, 4])
    assert region == [48, 48, 32, 48]  # of two rows one tile of 3 × 16 pixels each
    assert len(small) - header < (len(jpeg) - header) / 8
    assert excerpted(jpeg, (width, height), [0, 0, height, width])[0] == b""
    # What chroma is interpolated from belongs to the box.
    assert excerpted(jpeg, (width, height), [65, 60, 4, 4])[1] == [64, 48, 16, 48]
    assert excerpted(jpeg, (width, height), [64, 60, 4, 4])[1] == [48, 48, 32, 48]
    # At half of its size it is not interpolated; nor where each pixel has its own.
    assert excerpted(jpeg, (width, height), [64, 60, 16, 16], 2)[1] == [64, 48, 16, 48]
    jpeg, width, height = jpeg_of("444")
    assert excerpted(jpeg, (width, height), [64, 64, 8, 32])[1] == [64, 64, 8, 32]


@pytest.mark.parametrize("kind", UNTILED)
def test_what_lies_below_a_box_is_not_decoded(kind: str) -> None:
    jpeg, width, height = jpeg_of(kind)
    unit = 16 if kind.startswith(("420", "440")) else 8
    margin = unit // 8 - 1
    small, region = excerpted(jpeg, (width, height), [40, 30, 7, 9])
    assert (len(small), region) == (len(jpeg), [0, 0, 48, width])
    # A row further colours are interpolated from the next unit's, and all the image is needed
    # where that is the last.
    small, region = excerpted(jpeg, (width, height), [40, 30, 8, 9])
    assert region == [0, 0, 48 + unit * margin, width]
    last = (height - 1) // unit * unit
    assert excerpted(jpeg, (width, height), [0, 0, last - margin, 9])[1] == [0, 0, last, width]
    assert excerpted(jpeg, (width, height), [0, 0, last + 1 - margin, 9])[0] == b""


def test_what_is_decoded_whole() -> None:
    jpeg, width, height = jpeg_of("420")
    box = [60, 60, 4, 4]
    sink = io.BytesIO()
    Image.fromarray(picture(width, height, 3)).save(
        sink, "JPEG", progressive=True, restart_marker_blocks=3
    )
    swapped = jpeg.replace(b"\xff\xd1", b"\xff\xd3", 1)
    without = jpeg.replace(b"\xff\xd2", b"\x12\x34")
    for data in (sink.getvalue(), swapped, without, jpeg[: len(jpeg) // 4], b""):
        assert excerpted(data, (width, height), box)[0] == b""
    # Not of the size that the bundle says: the whole is looked at, and refused.
    assert excerpted(jpeg, (width + 1, height), box)[0] == b""


@pytest.mark.parametrize("kind", ["420", *UNTILED])
def test_flawed_records_show_what_the_whole_shows(kind: str) -> None:
    """What libjpeg-turbo only warns of belongs to an image whose bytes are proven."""
    jpeg, width, height = jpeg_of(kind)
    swapped = jpeg.replace(b"\xff\xd1", b"\xff\xd3", 1)
    middle = (jpeg.index(b"\xff\xda") + len(jpeg)) // 2
    stray = jpeg[:middle] + b"\xff\xd5" + jpeg[middle:]
    for data in (swapped, stray, jpeg[: len(jpeg) // 2], jpeg[:-40]):
        whole = shown(data, (width, height), [0, 0, height, width])
        for top, left, h, w in ([2, 2, 20, 20], [60, 60, 4, 4], [70, 40, 23, 30]):
            box = [top, left, h, w]
            found = shown(data, (width, height), box)
            assert np.array_equal(found, whole[top : top + h, left : left + w])


def test_what_is_not_proven_is_decoded_whole() -> None:
    jpeg, width, height = jpeg_of("420")
    damaged = bytearray(jpeg)
    at = len(jpeg) - 150  # in the last tiles
    damaged[at : at + 60] = bytes(60)
    records = jpeg_records([bytes(damaged)], [(width, height)], proven=False)
    out = np.empty((1, 4, 4, 3), np.uint8)
    box, flips = np.array([[20, 20, 4, 4]]), np.zeros(1, np.bool_)
    assert len(Decoder().decode(records, box, flips, out)) == 1


@pytest.mark.parametrize("kind", ["420", "444"])
def test_shrunk_decoding_is_close_and_in_its_place(kind: str) -> None:
    _, subsampling, width, height, units = KINDS[kind]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([x, y, (x + y) / 2], axis=-1)
    sink = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(
        sink, "JPEG", quality=100, subsampling=subsampling, restart_marker_blocks=units
    )
    size = (width, height)
    for box in ([3, 5, 90, 90], [0, 0, 100, 160], [7, 40, 61, 77]):
        out_size = (box[2] // 12, box[3] // 12)
        exact = shown(sink.getvalue(), size, box, out_size=out_size)
        fast = shown(sink.getvalue(), size, box, out_size=out_size, exact=False)
        difference = fast.astype(int) - exact
        assert np.abs(difference).max() <= 2
        # A level is a pixel of the image, of which the result has twelve in one.
        assert np.abs(difference.mean((0, 1))).max() < 0.5


@pytest.mark.parametrize(
    ("side", "denominator"),
    [(20, 1), (67, 1), (68, 2), (140, 2), (141, 4), (281, 4), (282, 8), (4000, 8)],
)
def test_how_large_a_box_is_when_decoded_at_a_fraction(side: int, denominator: int) -> None:
    """Shown at 32 pixels: 1.05 times that at a half, 1.1 times at a quarter and an eighth."""
    choose: Any = _fraction
    for box in ([0, 0, side, side], [3, 5, side, 9 * side], [3, 5, 9 * side, side]):
        assert choose.py_func(np.array(box), 32, 32, False) == denominator
        assert choose.py_func(np.array(box), 32, 32, True) == 1


SCRIPT = """
import numpy as np
from tamis.loaders.excerpts import excerpt
from test_excerpts import KINDS, UNTILED, jpeg_of

rng, n_excerpts = np.random.default_rng(5), [0, 0]
for kind in KINDS:
    jpeg, width, height = jpeg_of(kind)
    for trial in range(150):
        mutant = bytearray(jpeg)
        for at in rng.integers(0, len(mutant) if trial % 2 else 700, rng.integers(0, 6)):
            mutant[at] = rng.choice([0, 255, 0xC0, 0xD0, 0xD9, 0xDA, 0xDD, rng.integers(256)])
        if trial % 5 == 4:
            del mutant[rng.integers(len(mutant)) :]
        data = np.frombuffer(mutant, np.int8)
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        box = np.array([rng.integers(height - h + 1), rng.integers(width - w + 1), h, w])
        region, out = np.array([0, 0, height, width]), np.full(len(data) + 99, 77, np.int8)
        fraction = 1 << trial % 4
        n = excerpt(data, 0, len(data), box, fraction, out[: len(data)], region)
        assert 0 <= n <= len(data)
        assert (out[len(data) :] == 77).all()
        n_excerpts[kind in UNTILED] += n > 0
print(*n_excerpts)
"""


def test_hostile_records_stay_within_their_arrays(tmp_path: Path) -> None:
    paths = os.pathsep.join(
        str(ROOT / name) for name in ("engine", "kernels", "tests", "tests/engine")
    )
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_OPT": "0",  # compiles faster
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    of_tiles, of_others = map(int, done.stdout.split())
    assert min(of_tiles, of_others) > 100

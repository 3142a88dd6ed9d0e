"""What must hold of every damaged JPEG that is to be tiled, and the process that tries mutants.

From the folder ``tests``: ``python -m fuzz.tiling_fuzzer FIRST LAST``.
"""

from __future__ import annotations

import io
import random
import sys
import warnings
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sample_images import picture
from tamis.tiles.transcoding import MAX_GROWTH, Tiler

__all__ = ["check", "main", "make_mutant"]

_MIN_BYTES = 12  # that seeds as small as these are cut at all


@cache
def _seeds() -> tuple[bytes, ...]:
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("L", {"quality": 50}),
        ("RGB", {"quality": 30, "subsampling": 0}),
        ("RGB", {"quality": 50, "subsampling": 2, "optimize": True}),
        ("RGB", {"quality": 20, "subsampling": 1, "restart_marker_blocks": 1}),
    )
    seeds = []
    for k, (mode, options) in enumerate(kinds):
        sink = io.BytesIO()
        Image.fromarray(picture(37, 19, k)).convert(mode).save(sink, "JPEG", **options)
        seeds.append(sink.getvalue())
    return tuple(seeds)


def _flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 255, rng.randrange(256)))


def _flip_bit(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _in_segment(rng: random.Random, data: bytearray, marker: bytes, lengths: range) -> None:
    at = data.find(marker)
    if at >= 0:
        at += rng.choice(lengths)
        data[min(at, len(data) - 1)] = rng.choice((0, 1, 17, 255, rng.randrange(256)))


def _tables(rng: random.Random, data: bytearray) -> None:
    _in_segment(rng, data, b"\xff\xc4", range(2, 40))


def _frame(rng: random.Random, data: bytearray) -> None:
    _in_segment(rng, data, b"\xff\xc0", range(1, 19))


def _scan(rng: random.Random, data: bytearray) -> None:
    _in_segment(rng, data, b"\xff\xda", range(1, 40))


def _huge(_: random.Random, data: bytearray) -> None:
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff" * 4


def _interval(rng: random.Random, data: bytearray) -> None:
    segment = b"\xff\xdd\x00\x04" + rng.choice((0, 1, 2, 3, 65535)).to_bytes(2, "big")
    data[2:2] = segment


def _marker(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at:at] = bytes((255, rng.choice((0, 255, 0xC4, 0xD8, 0xD9, rng.randrange(0xD0, 0xD8)))))


def _cut(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 30, len(data)))]
    if rng.random() < 0.5:
        data += b"\xff\xd9"


def _splice(rng: random.Random, data: bytearray) -> None:
    other = rng.choice(_seeds())
    at = rng.randrange(len(data))
    data[at:] = other[min(at, len(other) - 1) :]


_KINDS = {
    _flip: 3, _flip_bit: 3, _tables: 4, _frame: 2, _scan: 2, _huge: 1, _interval: 1, _marker: 1,
    _cut: 2, _splice: 1,
}  # fmt: skip


def make_mutant(index: int) -> bytes:
    """Mutant number ``index``: one to three changes to one of the seeds in turn."""
    rng = random.Random(index)
    data = bytearray(_seeds()[index % len(_seeds())])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if len(data) > 100:
            rng.choices(list(_KINDS), list(_KINDS.values()))[0](rng, data)
    return bytes(data)


def check(tiler: Tiler, data: bytes) -> str:
    """Tile one mutant.

    Returns:
        ``stays`` or ``tiled``.

    Raises:
        AssertionError: The result is not the same image.
    """
    tiled = tiler.tile(np.frombuffer(data, np.uint8))
    if tiled is None:
        return "stays"
    assert len(tiled) <= MAX_GROWTH * len(data)
    assert np.array_equal(_pixels(tiled), _pixels(data))
    assert tiler.tile(np.frombuffer(tiled, np.uint8)) is None
    return "tiled"


def _pixels(data: bytes) -> NDArray[np.uint8]:
    """The pixels, or none where Pillow has an objection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of thumbnails that are none
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image)
        except (OSError, SyntaxError, ValueError):
            return np.empty(0, np.uint8)


def main(first: int, last: int) -> None:
    """Try mutants; prints how many became what."""
    tiler = Tiler(_MIN_BYTES)
    became = Counter(check(tiler, make_mutant(index)) for index in range(first, last))
    print(dict(sorted(became.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

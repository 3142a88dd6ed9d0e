"""Tiled JPEGs: the same pixels, restart markers where they belong, and what is refused."""

from __future__ import annotations

import heapq
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fuzz.tiling_fuzzer import check, make_mutant
from sample_images import picture
from tamis.images import decode_jpeg
from tamis.tiles.huffman import code_words, optimal_table
from tamis.tiles.transcoding import MAX_GROWTH, MIN_BYTES, Tiler

TESTS = Path(__file__).resolve().parents[1]
DHT, DRI, SOS = 0xC4, 0xDD, 0xDA


def encoded(image: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).convert(mode).save(sink, "JPEG", **options)
    return sink.getvalue()


def by_opencv(image: NDArray[np.uint8], *options: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, list(options))
    assert done
    return bytes(data)


def tile(data: bytes, min_bytes: int = MIN_BYTES, growth: float = 5) -> bytes | None:
    return Tiler(min_bytes, growth).tile(np.frombuffer(data, np.uint8))


def pixels(data: bytes) -> NDArray[np.uint8]:
    """As Pillow decodes them, after tamis's decoder had nothing to complain about."""
    decode_jpeg(np.frombuffer(data, np.uint8))
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """(marker, content) of a header, and the scan with the end marker."""
    found: list[tuple[int, bytes]] = []
    at = 2
    while not found or found[-1][0] != SOS:
        assert data[at] == 0xFF
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, data[at:]


def units(data: bytes) -> tuple[int, int]:
    """MCUs of a row, and rows."""
    (frame,) = (content for marker, content in segments(data)[0] if marker == 0xC0)
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    across, down = 8 * (frame[7] >> 4), 8 * (frame[7] & 15)
    return -(-width // across), -(-height // down)


def interval_of(data: bytes) -> int:
    return next((int.from_bytes(body, "big") for kind, body in segments(data)[0] if kind == DRI), 0)


def kept(data: bytes) -> list[tuple[int, bytes]]:
    """What a header says besides Huffman tables and restarts."""
    header, _ = segments(data)
    return [segment for segment in header if segment[0] not in (DHT, DRI, SOS)]


def check_tiled(data: bytes, tiled: bytes) -> int:
    """Everything that must hold of a result; its interval."""
    assert np.array_equal(pixels(tiled), pixels(data))
    assert kept(tiled) == kept(data)
    header, scan = segments(tiled)
    assert [marker for marker, _ in header[-3:]] == [DRI, DHT, SOS]
    components = header[-1][1][0]
    assert header[-1][1][2 : 2 * components + 1 : 2] == b"\0\x11\x11"[:components]
    interval, (across, down) = interval_of(tiled), units(data)
    assert across % interval == 0
    markers = [pair[1] for pair in re.findall(rb"\xff[^\x00]", scan, re.DOTALL)]
    n = across * down // interval
    assert markers == [*(0xD0 + k % 8 for k in range(n - 1)), 0xD9]
    assert scan.endswith(b"\xff\xd9")
    return interval


KINDS: list[dict[str, Any]] = [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"subsampling": 2, "optimize": True},
    {"subsampling": 2, "restart_marker_blocks": 1},
    {"subsampling": 0, "restart_marker_blocks": 5},
    {"subsampling": 1, "restart_marker_rows": 1},
    {"mode": "L"},
    {"mode": "L", "optimize": True, "restart_marker_blocks": 3},
    {"keep_rgb": True, "subsampling": 0},
    {"quality": 100, "subsampling": 0},
    {"quality": 20},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
@pytest.mark.parametrize("size", [(160, 96), (161, 33), (203, 7), (7, 203), (97, 98)])
def test_tiled_jpegs_are_the_same_image(kind: dict[str, Any], size: tuple[int, int]) -> None:
    data = encoded(picture(*size, 5), **kind)
    tiled = tile(data, 40)
    expected = expected_interval(picture(*size, 5), 40, **kind)
    if tiled is None:
        assert expected in (0, interval_of(data))
    else:
        assert check_tiled(data, tiled) == expected
        assert tile(tiled, 40) is None


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(KINDS), st.integers(1, 200))
def test_sizes_of_all_kinds(width: int, height: int, kind: dict[str, Any], min_bytes: int) -> None:
    data = encoded(picture(width, height, 5), **kind)
    tiled = tile(data, min_bytes)
    if tiled is not None:
        check_tiled(data, tiled)
        assert tile(tiled, min_bytes) is None


@pytest.mark.parametrize("interval", [0, 3])
@pytest.mark.parametrize("sampling", ["420", "422", "440", "444"])
def test_opencvs_samplings(sampling: str, interval: int) -> None:
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    options = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_RST_INTERVAL, interval)
    data = by_opencv(picture(250, 141, 3), *options)
    tiled = tile(data, 100)
    assert tiled is not None
    check_tiled(data, tiled)


def test_segments_are_copied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(320, 200, 1), exif=exif, icc_profile=bytes(300), comment=b"\xff\xd8")
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01"
    data = data[:2] + adobe + data[2:]
    tiled = tile(data, 100)
    assert tiled is not None
    check_tiled(data, tiled)
    assert [marker for marker, _ in kept(tiled)] == [0xEE, 0xE0, 0xE1, 0xE2, 0xFE, 0xDB, 0xDB, 0xC0]
    with Image.open(io.BytesIO(tiled)) as image:
        assert image.getexif()[0x0112] == 6


def test_chroma_with_tables_of_its_own_each() -> None:
    """Cr uses copies of chroma's tables under other names, in segments of their own."""
    data = encoded(picture(320, 200, 1))
    header, scan = segments(data)
    out = bytearray(b"\xff\xd8")
    for marker, content in header:
        if marker == SOS:
            content = content[:6] + b"\x23" + content[7:]
        bodies = [content]
        if marker == DHT and content[0] & 15 == 1:
            other = 0x02 if content[0] < 16 else 0x13
            bodies.append(bytes([other]) + content[1:])
        for body in bodies:
            out += bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
    tiled = tile(bytes(out) + scan, 100)
    assert tiled is not None
    assert tiled == tile(data, 100)


# ---- where it is cut


def expected_interval(image: NDArray[np.uint8], min_bytes: int, **options: Any) -> int:
    """By the scan that libjpeg writes without restart markers and with tables for the image."""
    options = {name: value for name, value in options.items() if "restart" not in name}
    data = encoded(image, **(options | {"optimize": True}))
    (across, down), scan = units(data), segments(data)[1][:-2].replace(b"\xff\0", b"\xff")
    for n in range(1, across):
        if across % n == 0 and n * len(scan) / (across * down) >= min_bytes:
            return n
    return across if down > 1 and len(scan) / down >= min_bytes else 0


@pytest.mark.parametrize("min_bytes", [1, 60, 130, 450, 900, 2000, 10**6])
@pytest.mark.parametrize("size", [(640, 320), (592, 320), (640, 16), (16, 640)])
def test_the_least_divisor_that_gives_enough_bytes(size: tuple[int, int], min_bytes: int) -> None:
    image = picture(*size, 2)
    data = encoded(image, quality=95)
    tiled = tile(data, min_bytes)
    expected = expected_interval(image, min_bytes, quality=95)
    assert expected == (0 if tiled is None else check_tiled(data, tiled))


def test_it_does_not_matter_how_it_was_cut_before() -> None:
    image = picture(480, 320, 2)
    results = {
        tile(encoded(image, quality=95, **options), 600)
        for options in ({}, {"optimize": True}, {"restart_marker_blocks": 7})
    }
    assert len(results) == 1
    (tiled,) = results
    assert tiled is not None
    finer = tile(tiled, 200)
    assert finer is not None
    assert interval_of(finer) < interval_of(tiled)
    assert tile(finer, 600) == tiled


def test_huffman_tables_are_as_small_as_libjpegs() -> None:
    image = picture(480, 320, 2)
    tiled = tile(encoded(image, quality=95), 2000)
    whole = encoded(image, quality=95, optimize=True)
    assert tiled is not None
    n = 480 * 320 // 256 // interval_of(tiled)
    # A marker and half a byte of padding each, and the DC coefficients that begin anew.
    assert len(tiled) < len(whole) + 6 + 6 * n


# ---- Huffman tables


def huffman_cost(counts: list[int]) -> int:
    """Bits of the best code in which one more symbol, which never comes, has a code."""
    heap, total = sorted([1, *(count for count in counts if count)]), 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    return total


def made_table(counts: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    occurrences = np.zeros(256, np.int64)
    occurrences[: len(counts)] = counts
    lengths, symbols = np.empty(17, np.int64), np.empty(256, np.int64)
    optimal_table(occurrences, lengths, symbols)
    n = int(lengths.sum())
    assert sorted(symbols[:n].tolist()) == np.flatnonzero(occurrences).tolist()
    assert (lengths * 2.0 ** -np.arange(17)).sum() < 1  # with the code of ones to spare
    words = np.empty(256, np.uint32)
    code_words(True, lengths, symbols, words)
    return occurrences, (words & 31).astype(np.int64) - np.arange(256) % 16 * (words > 0)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=256).filter(any))
def test_tables_are_optimal(counts: list[int]) -> None:
    occurrences, lengths = made_table(counts)
    # The symbol that never comes lies deepest, where two leaves are as deep.
    assert lengths.max() <= 16
    cost = int((occurrences * lengths).sum()) + int(lengths.max())
    assert cost == huffman_cost(counts)


def test_codes_have_at_most_16_bits() -> None:
    for n in (17, 18, 30, 60):
        _, lengths = made_table([1 << k for k in range(n)])
        assert lengths[:n].min() == 1
        assert lengths.max() == 16
        assert (np.diff(lengths[:n]) <= 0).all()


# ---- what stays as it is


def test_what_stays_as_it_is() -> None:
    image = picture(320, 240, 4)
    data = encoded(image)
    assert tile(data, 100) is not None
    others = {
        "progressive": encoded(image, progressive=True),
        "cmyk": encoded(image, "CMYK"),
        "tiny": encoded(picture(8, 8, 1)),
        "one unit": encoded(picture(16, 16, 1)),
        "4:1:1": by_opencv(
            image, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411
        ),
        "arithmetic": data.replace(b"\xff\xc0", b"\xff\xc9"),
        "extended": data.replace(b"\xff\xc0", b"\xff\xc1"),
        "no tables": data.replace(b"\xff\xc4", b"\xff\xfe"),
        "no end": data[:-2],
        "half": data[: len(data) // 2],
        "half, ended": data[: len(data) // 2] + b"\xff\xd9",
        "a byte less": data[:-3] + b"\xff\xd9",
        "a byte more": data[:-2] + b"\0\xff\xd9",
        "more behind": data + b"\0",
        "twice": data + data,
        "two ends": data + b"\xff\xd9",
        "no scan": data[: data.find(b"\xff\xda")] + b"\xff\xd9",
        "empty": b"",
        "start": b"\xff\xd8",
        "other": b"\x89PNG" + data,
    }
    for name, other in others.items():
        assert tile(other, 100) is None, name


def test_what_would_grow_stays() -> None:
    data = encoded(picture(320, 240, 4), optimize=True)
    tiled = tile(data, 30)
    assert tiled is not None
    assert len(tiled) > MAX_GROWTH * len(data)
    assert tile(data, 30, MAX_GROWTH) is None
    growth = len(tiled) / len(data)
    assert tile(data, 30, growth + 1e-9) == tiled
    assert tile(data, 30, growth - 1e-9) is None
    for limit in range(len(tiled)):
        assert tile(data, 30, limit / len(data)) is None


def test_restart_markers_must_be_in_order() -> None:
    data = encoded(picture(320, 240, 4), restart_marker_blocks=8)
    _, scan = segments(data)
    tiled = tile(data, 200)
    assert tiled is not None
    start = len(data) - len(scan)
    swapped = scan.replace(b"\xff\xd1", b"\xff\xd3")
    missing = scan.replace(b"\xff\xd1", b"", 1)
    twice = scan.replace(b"\xff\xd1", b"\xff\xd1\xff\xd1", 1)
    filled = scan.replace(b"\xff\xd1", b"\xff\xff\xd1", 1)
    for changed in (swapped, missing, twice, filled):
        assert changed != scan
        assert tile(data[:start] + changed, 200) is None
    # Any padding is fine.
    at = scan.find(b"\xff\xd0") - 1
    assert scan[at] & 1
    padded = scan[:at] + bytes([scan[at] & 0xFE]) + scan[at + 1 :]
    assert tile(data[:start] + padded, 200) == tiled


def test_scratch_is_used_again() -> None:
    tiler = Tiler(100)
    records = [encoded(picture(64 * k, 48, k)) for k in (1, 7, 2, 5, 9, 1)]
    for record in records:
        assert tiler.tile(np.frombuffer(record, np.uint8)) == tile(record, 100)
    spread = np.frombuffer(records[1], np.uint8).repeat(2)[::2]
    assert tiler.tile(spread) == tile(records[1], 100)


# ---- hostile bytes


def test_mutants_are_the_same_image_or_stay() -> None:
    tiler = Tiler(12)
    became = [check(tiler, make_mutant(index)) for index in range(2000)]
    assert 200 < became.count("tiled") < 1000


def test_no_mutant_is_read_out_of_bounds(tmp_path: Path) -> None:
    cache = str(tmp_path)
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache}
    environment["NUMBA_OPT"] = "0"  # compiles faster
    subprocess.run(
        [sys.executable, "-m", "fuzz.tiling_fuzzer", "2000", "5000"],
        cwd=TESTS,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )


# ---- JPEGs by hand


def grey_jpeg(across: int, tables: dict[int, dict[int, list[int]]], bits: list[int]) -> bytes:
    """Two rows of blocks; tables are class → length → symbols, the bits those of the scan."""

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    def table(kind: int, codes: dict[int, list[int]]) -> bytes:
        counts = [len(codes.get(length, ())) for length in range(1, 17)]
        return segment(DHT, bytes([kind, *counts, *(s for n in sorted(codes) for s in codes[n])]))

    padded = bits + [1] * (-len(bits) % 8)
    scan = np.packbits(np.array(padded, np.uint8)).tobytes().replace(b"\xff", b"\xff\0")
    frame = b"\x08" + (16).to_bytes(2, "big") + (8 * across).to_bytes(2, "big") + b"\1\1\x11\0"
    header = segment(0xDB, bytes([0, *[1] * 64])) + segment(0xC0, frame)
    header += b"".join(table(kind, codes) for kind, codes in tables.items())
    return b"\xff\xd8" + header + segment(SOS, b"\1\1\0\0\x3f\0") + scan + b"\xff\xd9"


def binary(value: int, length: int) -> list[int]:
    return [value >> k & 1 for k in reversed(range(length))]


def test_stuffing_stays_within_the_result() -> None:
    """A record without FF whose codes, four bits shorter, make the result full of FF."""
    across = 701  # a prime: a tile is a row
    bits, at = [], 0  # of the result
    total = 6 + across * (1 + 63 * 11)
    for block in range(across):
        bits += binary(0b100000, 6) + binary(8, 4) if block == 0 else [0]
        at += 6 if block == 0 else 1
        for _ in range(63):
            shift = at % 8 - 5
            value = 0xFF << shift if 2 * at < total and shift >= 0 else 0
            bits += [0, *binary(value, 10)]
            at += 11
    bits += across * [0, 1, 0]
    data = grey_jpeg(across, {0: {1: [0], 6: [4]}, 16: {1: [10], 2: [0]}}, bits)
    assert pixels(data).shape == (16, 8 * across)
    tiler = Tiler()
    tiler.tile(np.frombuffer(data, np.uint8))  # makes scratch of this size
    size = len(tiler._scratch.out)
    behind = np.full(size + 100_000, 85, np.int8)
    tiler._scratch = tiler._scratch._replace(out=behind[:size])
    assert tiler.tile(np.frombuffer(data, np.uint8)) is None
    assert (behind[size:] == 85).all()


def test_a_code_of_ones_is_refused() -> None:
    """By libjpeg-turbo, too."""
    across, blocks = 400, 800
    for lengths, sound in (({1: [0], 2: [4]}, True), ({1: [0, 4]}, False)):
        bits = [bit for _ in range(blocks) for bit in [0, 0]]
        data = grey_jpeg(across, {0: lengths, 16: {1: [0], 2: [10]}}, bits)
        assert (tile(data, 1, growth=50) is not None) == sound
        with Image.open(io.BytesIO(data)) as image:
            if sound:
                image.load()
            else:
                with pytest.raises(OSError, match="broken data stream"):
                    image.load()


# ---- photographs


@pytest.mark.real_data
def test_photographs_stay_as_small(real_data: Path) -> None:
    tiler, before, after, n = Tiler(), 0, 0, 0
    for path in sorted((real_data / "imagenet-sample").rglob("*.JPEG"))[::9][:60]:
        data = path.read_bytes()
        tiled = tiler.tile(np.frombuffer(data, np.uint8))
        if tiled is not None:
            check_tiled(data, tiled)
            before, after, n = before + len(data), after + len(tiled), n + 1
    assert n >= 50
    assert after <= 1.01 * before

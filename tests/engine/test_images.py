from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sample_images import JPEGS, SAMPLES, jpeg_bytes, picture
from tamis.images import (
    ImageError,
    decode_any,
    decode_jpeg,
    encode_jpeg,
    encode_png,
    fit_square,
    resize_to_side,
    scan_jpeg,
)

ALL_JPEGS = (*JPEGS, "cmyk")


def pil_rgb(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def as_array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("name", ALL_JPEGS)
def test_scan_agrees_with_pillow(name: str, sample_folder: Path) -> None:
    data = (sample_folder / SAMPLES[name]).read_bytes()
    info = scan_jpeg(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (info.width, info.height) == image.size
        assert info.components == len(image.getbands())
        assert info.progressive == ("progressive" in image.info)
    assert info.precision == 8
    assert info.plain == (name != "cmyk")
    # The other types it takes give the same answer.
    assert scan_jpeg(as_array(data)) == scan_jpeg(memoryview(data)) == info


@pytest.mark.parametrize("name", ALL_JPEGS)
def test_every_truncation_is_seen(name: str, sample_folder: Path) -> None:
    data = (sample_folder / SAMPLES[name]).read_bytes()
    step = 1 if len(data) < 4000 else 7
    accepted = []
    for length in (*range(0, len(data), step), len(data) - 2, len(data) - 1):
        try:
            scan_jpeg(data[:length])
        except ImageError:
            continue
        accepted.append(length)
    assert accepted == []
    assert scan_jpeg(data + b"\0" * 20) == scan_jpeg(data)  # padding behind the end is common


def test_the_end_of_a_thumbnail_is_not_the_end() -> None:
    thumbnail = jpeg_bytes(Image.fromarray(picture(16, 12, 0)))
    assert thumbnail.endswith(b"\xff\xd9")
    whole = jpeg_bytes(Image.fromarray(picture(40, 30, 1)), exif=b"Exif\0\0" + thumbnail)
    info = scan_jpeg(whole)
    assert (info.width, info.height) == (40, 30)
    with pytest.raises(ImageError, match="cut off before its end"):
        scan_jpeg(whole[:-2])


def frame(marker: int, precision: int, components: int) -> bytes:
    """A JPEG of markers only: a frame, a scan, an end."""
    size = (33).to_bytes(2, "big") + (44).to_bytes(2, "big")
    body = bytes([precision]) + size + bytes([components]) + bytes(3 * components)
    segment = bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
    return b"\xff\xd8" + segment + b"\xff\xda\x00\x02" + b"entropy" + b"\xff\xd9"


@pytest.mark.parametrize(
    ("marker", "precision", "components", "plain"),
    [
        (0xC0, 8, 3, True),
        (0xC1, 8, 1, True),
        (0xC2, 8, 3, True),
        (0xC0, 8, 4, False),  # CMYK
        (0xC1, 12, 3, False),  # 12 bits
        (0xC3, 8, 3, False),  # lossless
        (0xC9, 8, 3, False),  # arithmetic coding
    ],
)
def test_which_frames_are_passed_through(
    marker: int, precision: int, components: int, plain: bool
) -> None:
    info = scan_jpeg(frame(marker, precision, components))
    assert (info.width, info.height, info.components, info.precision) == (
        44,
        33,
        components,
        precision,
    )
    assert info.plain == plain
    assert info.progressive == (marker == 0xC2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not a JPEG"),
        (b"\xff\xd8" + b"\0" * 50, "damaged in its header"),
        (b"\xff\xd8\xff\xda\x00\x02..\xff\xd9", "without a frame header"),
        (b"\xff\xd8\xff\xc0\x00\x05\x08\x00\x01\xff\xda\x00\x02\xff\xd9", "damaged frame header"),
        (
            b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x09\x01\x01\x11\x00\xff\xda\x00\x02\xff\xd9",
            "without a size",
        ),
    ],
)
def test_scan_says_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        scan_jpeg(data)


def test_scan_skips_fill_bytes_and_restart_markers() -> None:
    plain = frame(0xC0, 8, 3)
    assert scan_jpeg(plain[:2] + b"\xff\xff\xff\x01" + plain[2:]) == scan_jpeg(plain)


@pytest.mark.parametrize("name", SAMPLES)
def test_decode_any_is_pillows_convert(name: str, sample_folder: Path) -> None:
    data = (sample_folder / SAMPLES[name]).read_bytes()
    assert np.array_equal(decode_any(data), pil_rgb(data))


@pytest.mark.parametrize("name", JPEGS)
def test_decode_jpeg_is_pillows_decoder(name: str, sample_folder: Path) -> None:
    # The same library at two versions: the same pixels but for rounding in its SIMD paths.
    data = (sample_folder / SAMPLES[name]).read_bytes()
    found, expected = decode_jpeg(as_array(data)), pil_rgb(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_exif_orientation_is_ignored(sample_folder: Path) -> None:
    path = sample_folder / SAMPLES["rotated"]
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6  # a quarter turn, for those who look
    for decoded in (decode_any(path.read_bytes()), decode_jpeg(as_array(path.read_bytes()))):
        assert decoded.shape == (44, 60, 3)
    assert (scan_jpeg(path.read_bytes()).width, scan_jpeg(path.read_bytes()).height) == (60, 44)


def test_alpha_is_dropped(sample_folder: Path) -> None:
    path = sample_folder / SAMPLES["rgba"]
    with Image.open(path) as image:
        channels = np.asarray(image)
    assert channels[..., 3].min() < 9  # some pixels are all but invisible
    assert np.array_equal(decode_any(path.read_bytes()), channels[..., :3])


def test_palettes_with_an_alpha_table_decode_quietly() -> None:
    # Pillow warns of these; a warning fails this test.
    sink = io.BytesIO()
    image = Image.fromarray(picture(20, 10, 3)).quantize(16)
    image.save(sink, "PNG", transparency=bytes(range(0, 160, 10)))
    assert np.array_equal(decode_any(sink.getvalue()), np.asarray(image.convert("RGB")))


def test_unreadable_images(sample_folder: Path) -> None:
    with pytest.raises(ImageError, match="not an image in any known format"):
        decode_any(b"no image at all")
    with pytest.raises(ImageError, match="not an image in any known format"):
        decode_any(b"")
    png = (sample_folder / SAMPLES["rgba"]).read_bytes()
    for length in (60, len(png) // 2, len(png) - 30):
        with pytest.raises(ImageError, match="an unreadable image"):
            decode_any(png[:length])
    with pytest.raises(ImageError, match="does not decode"):
        decode_jpeg(as_array(b"\xff\xd8" + bytes(200)))


@pytest.mark.parametrize(
    ("width", "height", "max_side", "expected"),
    [
        (300, 200, 150, (100, 150)),
        (200, 300, 150, (150, 100)),
        (300, 200, 300, (200, 300)),
        (300, 200, 4000, (200, 300)),  # never enlarged
        (999, 1, 10, (1, 10)),  # never without a row
        (101, 67, 50, (33, 50)),
    ],
)
def test_resize_keeps_the_shape(
    width: int, height: int, max_side: int, expected: tuple[int, int]
) -> None:
    resized = resize_to_side(picture(width, height, 0), max_side)
    assert resized.shape == (*expected, 3)
    assert resized.dtype == np.uint8


def test_resize_is_by_area() -> None:
    image = picture(120, 80, 4)
    means = image.reshape(20, 4, 30, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize_to_side(image, 30) - means).max() <= 0.51


def test_fit_square_is_the_centre() -> None:
    wide, tall = picture(50, 30, 1), picture(31, 50, 2)
    assert np.array_equal(fit_square(wide, 30), wide[:, 10:40])
    assert np.array_equal(fit_square(tall, 31), tall[9:40])
    means = wide[:, 10:40].reshape(10, 3, 10, 3, 3).mean(axis=(1, 3))
    assert np.abs(fit_square(wide, 10) - means).max() <= 0.51
    enlarged = fit_square(wide, 60)
    assert enlarged.shape == (60, 60, 3)
    assert abs(enlarged.mean() - wide[:, 10:40].mean()) < 1


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    image = picture(80, 60, 5)
    assert np.array_equal(pil_rgb(encode_png(image)), image)
    errors = []
    for quality in (60, 90):
        data = encode_jpeg(image, quality)
        info = scan_jpeg(data)
        assert (info.width, info.height, info.components, info.plain) == (80, 60, 3, True)
        assert not info.progressive
        error = pil_rgb(data).astype(np.float64) - image
        errors.append(float(np.sqrt((error**2).mean())))
    assert errors[1] < errors[0] < 8  # RGB and BGR mixed up would give more than 50

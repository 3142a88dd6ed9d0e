from __future__ import annotations

import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from sample_images import JPEGS, SAMPLES, jpeg_bytes, picture
from tamis.errors import ImageError
from tamis.images import (
    MAX_PIXELS,
    decode_any,
    decode_jpeg,
    encode_jpeg,
    encode_png,
    resize_to_side,
)
from tamis.jpeg_header import JpegInfo, plain_jpegs, scan_jpeg

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


def test_scan_of_endless_headers_ends() -> None:
    for filler in (b"\xff" * (8 << 20), b"\xff\x01" * (4 << 20), b"\xff\xe0\0\2" * (2 << 20)):
        with pytest.raises(ImageError, match="more than 4096 markers in its header"):
            scan_jpeg(b"\xff\xd8" + filler)
    with pytest.raises(ImageError, match="without a frame header"):
        scan_jpeg(b"\xff\xd8\xff\xd9" + frame(0xC0, 8, 3)[2:])


def test_a_quick_look_is_never_mistaken(sample_folder: Path) -> None:
    """Where it says yes, the walk says the same; sound JPEGs it knows."""
    sound = [(sample_folder / SAMPLES[name]).read_bytes() for name in JPEGS]
    rng = random.Random(0)
    records = [*sound, b"", b"\xff\xd8", b"\xff\xd8\xff\xd9"]
    while len(records) < 3000:
        changed = bytearray(rng.choice(sound))
        at = rng.randrange(2, 700)
        at = changed.find(b"\xff", at) + rng.randrange(8) if rng.random() < 0.7 else at
        at = min(at, len(changed) - 1)
        what = rng.choice(("set", "zero", "cut", "insert"))
        if what == "cut":
            del changed[at : at + rng.choice((1, 2, 20, len(changed)))]
        elif what == "insert":
            changed[at:at] = rng.choice((b"\xff", b"\xff\xc0\0\x0b", b"\xff\xd9", b"\xff\x01"))
        else:
            changed[at] = 0 if what == "zero" else rng.choice((0xFF, rng.randrange(256)))
        records.append(bytes(changed))
    ends = np.cumsum([len(record) for record in records])
    starts = ends - [len(record) for record in records]
    seen = [_seen(record) for record in records]
    sizes = np.array([(info.width, info.height) if info else (9, 9) for info in seen], np.uint16)
    data = as_array(b"".join(records))
    quick = plain_jpegs(data, starts, ends, sizes[:, 0], sizes[:, 1])
    assert quick[: len(sound)].all()
    plain = np.array([info is not None and info.plain for info in seen])
    assert not (quick & ~plain).any()
    # It leaves few of the sound ones to the walk.
    assert quick.sum() > 0.9 * plain.sum() > 900
    # Another size than the table's is for the closer look.
    assert not plain_jpegs(data, starts, ends, sizes[:, 0] + 1, sizes[:, 1]).any()
    assert not plain_jpegs(data, starts, ends, sizes[:, 0], sizes[:, 1] - 1).any()


def _seen(record: bytes) -> JpegInfo | None:
    try:
        return scan_jpeg(record)
    except ImageError:
        return None


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


# ---- what Pillow's convert would change


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


GREY16 = np.arange(0, 65536, 37, dtype=np.uint16)[:1764].reshape(42, 42)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_greys_keep_their_high_byte(kind: str) -> None:
    data = encoded(Image.fromarray(GREY16), kind)
    expected = (GREY16 / 256).astype(np.uint8)  # in floats, rounded down
    assert np.array_equal(decode_any(data), np.stack([expected] * 3, axis=2))
    # Pillow's own answer: all but the darkest are white.
    assert (pil_rgb(data)[GREY16 > 255] == 255).all()


def test_big_endian_16_bit_tiff() -> None:
    swapped = GREY16.byteswap().tobytes()
    tags = [(256, 42), (257, 42), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 42)]
    tags.append((279, len(swapped)))
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"MM\0*" + struct.pack(">I", 8 + len(swapped))
    data = header + swapped + struct.pack(">H", len(tags)) + entries + bytes(4)
    assert np.array_equal(decode_any(data)[..., 1], GREY16 >> 8)


def test_16_bit_colours_keep_their_high_byte() -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    assert np.array_equal(decode_any(png(7, 5, rows, depth=16, colours=2)), wide >> 8)


@pytest.mark.parametrize(("kind", "dtype"), [("TIFF", np.float32), ("TIFF", np.int32)])
def test_samples_without_a_known_white_are_refused(kind: str, dtype: type) -> None:
    image = Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4).astype(dtype))
    with pytest.raises(ImageError, match="nothing says which of them is white"):
        decode_any(encoded(image, kind))


def test_cmyk_is_ink() -> None:
    inks = np.random.default_rng(1).integers(0, 256, (3, 4, 4)).astype(np.uint8)
    blocks = inks.repeat(8, axis=0).repeat(8, axis=1)  # JPEG's own blocks: nearly lossless
    data = encoded(Image.fromarray(blocks, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data  # which stores the inks inverted
    light = 255 - inks.astype(np.float64)
    expected = light[..., :3] * light[..., 3:] / 255
    found = decode_any(data)[4::8, 4::8]
    assert np.abs(found - expected).max() <= 4


def test_grey_alpha_one_bit_and_palettes() -> None:
    grey = Image.fromarray(picture(9, 7, 1)[..., 0])
    alpha = Image.fromarray(picture(9, 7, 2)[..., 0])
    found = decode_any(encoded(Image.merge("LA", (grey, alpha)), "PNG"))
    assert np.array_equal(found, np.stack([np.asarray(grey)] * 3, axis=2))
    bits = np.random.default_rng(3).integers(0, 2, (7, 9)).astype(bool)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        found = decode_any(encoded(Image.fromarray(bits), kind))
        assert np.array_equal(found, np.where(bits, 255, 0)[..., None].repeat(3, axis=2))
    colours = np.random.default_rng(4).integers(0, 256, (4, 3)).astype(np.uint8)
    index = np.random.default_rng(5).integers(0, 4, (7, 9)).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    for options in ({"transparency": 2}, {"transparency": b"\x00\x80\xff\x07"}, {}):
        assert np.array_equal(decode_any(encoded(image, "PNG", **options)), colours[index])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first(kind: str) -> None:
    frames = [Image.fromarray(picture(24, 18, seed)).quantize(64) for seed in range(3)]
    frames = frames if kind == "GIF" else [frame.convert("RGB") for frame in frames]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert np.array_equal(decode_any(data), np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("inside", ["png", "bmp"])
def test_of_an_icon_the_largest(inside: str) -> None:
    image = Image.fromarray(picture(64, 64, 6))
    data = encoded(image, "ICO", sizes=[(16, 16), (64, 64), (32, 32)], bitmap_format=inside)
    assert np.array_equal(decode_any(data), np.asarray(image))


def test_no_format_that_starts_other_programs() -> None:
    with pytest.raises(ImageError, match="not an image in any known format"):
        decode_any(encoded(Image.fromarray(picture(9, 7, 1)), "EPS"))


# ---- bombs: few bytes, many pixels


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colours: int = 0, more: bytes = b""
) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    size = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    body = chunk(b"IHDR", size) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def icon(frame: bytes) -> bytes:
    """An ICO whose directory says 16 × 16, whatever the frame says."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(frame), 22) + frame


def bombs() -> dict[str, bytes]:
    side = 20_000
    jpeg = bytearray(jpeg_bytes(Image.fromarray(picture(64, 48, 0))))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    gif = bytearray(encoded(Image.fromarray(picture(8, 8, 0)).quantize(4), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    bmp = bytearray(encoded(Image.fromarray(picture(8, 8, 0)), "BMP"))
    bmp[18:26] = struct.pack("<II", side, side)
    tiff = bytearray(encoded(Image.fromarray(picture(8, 8, 0)), "TIFF"))
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HHI", tag, 4, 1)) + 8
        tiff[at : at + 4] = struct.pack("<I", side)
    dib = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, 32, 0, 0, 0, 0, 0, 0)
    return {
        "jpeg": bytes(jpeg),
        "png": png(side, side, b""),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "ppm": b"P6 20000 20000 255\n",
        "tiff": bytes(tiff),
        "icon of png": icon(png(side, side, b"")),
        "icon of bmp": icon(dib),
    }


@pytest.mark.parametrize("kind", bombs())
def test_bombs_are_refused_before_they_are_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(
        ImageError, match="20000 × 20000 pixels, more than the limit of 100,000,000"
    ):
        decode_any(bombs()[kind])


def test_jpeg_bombs_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    def imdecode(data: object, flags: int) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", imdecode)
    with pytest.raises(ImageError, match="20000 × 20000 pixels, more than the limit"):
        decode_jpeg(as_array(bombs()["jpeg"]))


def test_jpegs_of_endless_scans_are_refused() -> None:
    # Each goes over all pixels again: 20 over the largest image are the limit.
    pixels = 64 * 48
    data = jpeg_bytes(Image.fromarray(picture(64, 48, 0)), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    more = data[:-2] + last * (21 - data.count(b"\xff\xda")) + data[-2:]
    assert decode_any(data, max_pixels=pixels).shape == (48, 64, 3)
    assert decode_jpeg(as_array(data), max_pixels=pixels).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="a JPEG of 21 scans over 64 × 48 pixels"):
        decode_any(more, max_pixels=pixels)
    with pytest.raises(ImageError, match="a JPEG of 21 scans over 64 × 48 pixels"):
        decode_jpeg(as_array(more), max_pixels=pixels)


def test_the_limit_is_the_callers() -> None:
    assert MAX_PIXELS == 100_000_000
    pixels = picture(40, 30, 1)
    data = encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(decode_any(data, max_pixels=1200), pixels)
    with pytest.raises(ImageError, match="40 × 30 pixels, more than the limit of 1,199"):
        decode_any(data, max_pixels=1199)
    jpeg = as_array(jpeg_bytes(Image.fromarray(pixels)))
    assert decode_jpeg(jpeg, max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(ImageError, match="40 × 30 pixels, more than the limit of 1,199"):
        decode_jpeg(jpeg, max_pixels=1199)


def test_pillows_own_limit_stays_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # It warns of images that are larger, and raises at twice that; a warning fails this test.
    pixels = picture(40, 30, 1)
    for limit in (700, 500):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for kind in ("PNG", "BMP", "PPM", "TIFF"):
            assert np.array_equal(decode_any(encoded(Image.fromarray(pixels), kind)), pixels)
        with pytest.raises(ImageError):
            decode_any(b"no image")
        assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_limit_is_back_when_the_last_thread_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    data = encoded(Image.fromarray(picture(40, 30, 1)), "TIFF")
    with ThreadPoolExecutor(4) as pool:
        shapes = set(pool.map(lambda _: decode_any(data).shape, range(400)))
    assert shapes == {(30, 40, 3)}
    assert Image.MAX_IMAGE_PIXELS == 700


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

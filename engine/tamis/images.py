"""Encoded images: what a JPEG's header says, decoding, resizing, encoding.

Decoding follows ``PIL.Image.open(...).convert("RGB")``, as torchvision's ImageFolder does: EXIF
orientation is ignored, alpha is dropped, grey becomes RGB, CMYK is converted. It departs from it
where that gives other pictures: of 16-bit greys the high byte is taken (Pillow makes all but the
darkest 256 levels white), and samples without a known white (32-bit integers, floats) are refused.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.errors import first_line

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_PIXELS",
    "ImageError",
    "JpegInfo",
    "decode_any",
    "decode_jpeg",
    "encode_jpeg",
    "encode_png",
    "fit_square",
    "plain_jpegs",
    "resize_to_side",
    "scan_jpeg",
]

# 300 MB as RGB, and twice that beside it while a progressive JPEG is decoded; one per thread.
MAX_PIXELS = 100_000_000
# Every scan of a progressive JPEG goes over all pixels, and a few bytes can ask for one: the work
# is at most that of so many scans over the largest image.
_MAX_SCANS = 20

_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # Huffman frames: is it progressive?
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_SCAN, _END = 0xDA, 0xD9
_MAX_MARKERS = 4096  # before the first scan; an ICC profile may take 255 of them

# Those that datasets hold. Not all that Pillow knows: for EPS, say, it starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")


class ImageError(ValueError):
    """Bytes that are not a whole, readable image; the message says what is wrong."""


@dataclass(frozen=True)
class JpegInfo:
    """What a JPEG's markers say.

    Attributes:
        width: Pixels.
        height: Pixels.
        components: 1 grey, 3 colour, 4 CMYK.
        precision: Bits per sample.
        progressive: Whether it is progressive rather than baseline.
        plain: Whether libjpeg-turbo decodes it to RGB: an 8-bit Huffman JPEG, grey or colour.
    """

    width: int
    height: int
    components: int
    precision: int
    progressive: bool
    plain: bool


def scan_jpeg(data: bytes | memoryview | NDArray[np.uint8]) -> JpegInfo:
    """Read a JPEG's frame header by walking its markers; does not decode and does not copy.

    Raises:
        ImageError: Not a JPEG, or one that is cut off before its end marker.
    """
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    if bytes(view[:2]) != b"\xff\xd8":
        raise ImageError("not a JPEG")
    info: JpegInfo | None = None
    at = 2
    for _ in range(_MAX_MARKERS):
        if at + 4 > len(view) or view[at] != 0xFF:
            raise ImageError("a JPEG cut off or damaged in its header")
        marker = view[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (_SCAN, _END):
            break
        length = view[at + 2] << 8 | view[at + 3]
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            info = _frame(bytes(view[at + 4 : at + min(length + 2, 10)]), marker)
        at += 2 + length
    else:
        raise ImageError(f"a JPEG with more than {_MAX_MARKERS} markers in its header")
    if info is None:
        raise ImageError("a JPEG without a frame header")
    # Entropy-coded data never contains FF D9, so an end marker here means that it is all there.
    ended = bytes(view[-2:]) == b"\xff\xd9" or bytes(view[at:]).rfind(b"\xff\xd9") >= 0
    if marker == _END or not ended:
        raise ImageError("a JPEG cut off before its end")
    return info


def _frame(body: bytes, marker: int) -> JpegInfo:
    if len(body) < 6:
        raise ImageError("a JPEG with a damaged frame header")
    precision, components = body[0], body[5]
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if not width or not height:
        raise ImageError("a JPEG without a size in its frame header")
    plain = marker in _FRAMES and precision == 8 and components in (1, 3)
    return JpegInfo(width, height, components, precision, _FRAMES.get(marker, False), plain)


# What the quick look at many JPEGs does at a marker: pass over it, or one of these.
_PASS, _IS_FRAME, _IS_SCAN, _IS_UNUSUAL = 0, 1, 2, 3
_ACTIONS = np.zeros(256, np.uint8)
_ACTIONS[[0x00, 0xFF, _END, *_STANDALONE, *_OTHER_FRAMES]] = _IS_UNUSUAL
_ACTIONS[list(_FRAMES)] = _IS_FRAME
_ACTIONS[_SCAN] = _IS_SCAN
_QUICK_MARKERS = 32


def plain_jpegs(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    widths: NDArray[np.uint16],
    heights: NDArray[np.uint16],
) -> NDArray[np.bool_]:
    """Which of many records are whole, plain JPEGs of the given sizes; a quick look at all at once.

    Where it says yes, :func:`scan_jpeg` says the same; where it says no, that one has to look.

    Args:
        data: (bytes,) uint8.
        starts: (n,) int64 first byte of each record in ``data``.
        ends: (n,) int64 byte after its last one.
        widths: (n,) uint16 pixels.
        heights: (n,) uint16 pixels.

    Returns:
        (n,) bool. About half a microsecond a record: all take each step of the walk together.
    """
    certain = np.zeros(len(starts), np.bool_)
    index = np.flatnonzero(ends - starts >= 16)  # no JPEG is shorter; the bytes below are inside
    first, last = starts[index], ends[index]
    whole = (_pairs(data, first) == 0xFFD8) & (_pairs(data, last - 2) == 0xFFD9)
    index, at, end = index[whole], first[whole] + 2, last[whole]
    frame = np.full(len(index), -1)
    for _ in range(_QUICK_MARKERS):
        if not len(index):
            break
        action, length = _ACTIONS[data[at + 1]], _pairs(data, at + 2)
        is_marker, is_frame = data[at] == 0xFF, action == _IS_FRAME
        done = is_marker & (action == _IS_SCAN) & (frame >= 0)
        if done.any():
            found = index[done]
            certain[found] = _frames_fit(data, frame[done], widths[found], heights[found])
        # A second frame, or one whose header is too short, is for the closer look.
        odd_frame = is_frame & ((frame >= 0) | (length < 8))
        going = is_marker & ((action == _PASS) | (is_frame & ~odd_frame))
        frame = np.where(is_frame, at, frame)
        at = at + 2 + length
        going &= at + 4 <= end
        if not going.all():
            index, at, end, frame = index[going], at[going], end[going], frame[going]
    return certain


def _pairs(data: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The big-endian 16-bit numbers at ``at``."""
    return data[at].astype(np.int64) << 8 | data[at + 1]


def _frames_fit(
    data: NDArray[np.uint8],
    at: NDArray[np.int64],
    widths: NDArray[np.uint16],
    heights: NDArray[np.uint16],
) -> NDArray[np.bool_]:
    """Whether the frame headers at ``at`` are of plain JPEGs with the given sizes."""
    height, width = _pairs(data, at + 5), _pairs(data, at + 7)
    precision, components = data[at + 4], data[at + 9]
    fits: NDArray[np.bool_] = (height == heights) & (width == widths) & (height > 0) & (width > 0)
    fits &= (precision == 8) & ((components == 1) | (components == 3))
    return fits


def decode_any(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image of any usual format, as (height, width, 3) uint8 RGB.

    JPEG, PNG, GIF, BMP, PPM, TIFF, WebP, AVIF, JPEG 2000 and ICO; of several frames the first, of
    an icon the largest.

    Args:
        data: The encoded image.
        max_pixels: The most pixels that are decoded; checked before memory for them is taken.

    Raises:
        ImageError: The bytes are not a readable image, or one of too many pixels.
    """
    from PIL import UnidentifiedImageError

    try:
        with _PILLOW, _opened(data, max_pixels) as image:
            _check_pixels(*image.size, max_pixels)
            if data.startswith(b"\xff\xd8"):
                _check_scans(np.frombuffer(data, np.uint8), *image.size, max_pixels)
            image.load()
            return _rgb(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image in any known format") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"an unreadable image ({first_line(error)})") from error


class _WithoutLimit:
    """Switches Pillow's own limit off while anybody is inside.

    It is a global of Pillow's module, it warns before it raises, and threads have no way to keep a
    warning to themselves.
    """

    def __init__(self) -> None:
        self._lock, self._n_inside = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        from PIL import Image

        with self._lock:
            if not self._n_inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._n_inside += 1

    def __exit__(self, *exception: object) -> None:
        from PIL import Image

        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                Image.MAX_IMAGE_PIXELS = self._limit


_PILLOW = _WithoutLimit()


def _opened(data: bytes, max_pixels: int) -> Image:
    """The image, identified but not decoded."""
    from PIL import BmpImagePlugin, IcoImagePlugin, PngImagePlugin
    from PIL import Image as pillow

    if not data.startswith(b"\0\0\1\0"):
        pillow.init()
        formats = [name for name in _FORMATS if name in pillow.OPEN]  # as far as it was built
        return pillow.open(io.BytesIO(data), formats=formats)
    # Pillow decodes icons while it opens them, at the size that the frame itself states.
    icon = IcoImagePlugin.IcoFile(io.BytesIO(data))
    largest = data[icon.entry[0].offset :]
    if largest.startswith(b"\x89PNG"):
        return PngImagePlugin.PngImageFile(io.BytesIO(largest))
    width, height = BmpImagePlugin.DibImageFile(io.BytesIO(largest)).size
    _check_pixels(width, height // 2, max_pixels)  # picture and mask
    return icon.frame(0)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"an image of {width} × {height} pixels, more than the limit of {max_pixels:,}"
        )


def _check_scans(data: NDArray[np.uint8], width: int, height: int, max_pixels: int) -> None:
    # Entropy-coded data never contains FF DA.
    n_scans = int(np.count_nonzero((data[:-1] == 0xFF) & (data[1:] == _SCAN)))
    if n_scans * width * height > _MAX_SCANS * max_pixels:
        raise ImageError(f"a JPEG of {n_scans:,} scans over {width} × {height} pixels")


def _rgb(image: Image) -> NDArray[np.uint8]:
    image.info.pop("transparency", None)  # dropped anyway; Pillow would warn of it
    # Pillow widens the 16-bit greys of some formats to mode I, which may hold 32 bits of others.
    widened = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode.startswith("I;16") or widened:
        grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ImageError(f"an image of {kind}: nothing says which of them is white")
    return np.asarray(image.convert("RGB"))


def decode_jpeg(data: NDArray[np.uint8], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a JPEG with libjpeg-turbo, as (height, width, 3) uint8 RGB; releases the GIL.

    Args:
        data: (bytes,) uint8.
        max_pixels: The most pixels that are decoded; checked before memory for them is taken.

    Raises:
        ImageError: It is damaged, does not decode, or has too many pixels.
    """
    import cv2

    try:
        info = scan_jpeg(data)
    except ImageError as error:
        raise ImageError(f"a JPEG that does not decode ({error})") from error
    _check_pixels(info.width, info.height, max_pixels)
    _check_scans(data, info.width, info.height, max_pixels)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"decoding {info.width} × {info.height} pixels") from error
        image = None
    if image is None:
        raise ImageError("a JPEG that does not decode")
    return np.asarray(image, np.uint8)


def resize_to_side(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Shrink by area so that the longer side is ``max_side``; smaller images stay."""
    import cv2

    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def fit_square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The largest centred square, resized to (side, side, 3); by area when it shrinks."""
    import cv2

    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = image[top : top + edge, left : left + edge]
    if edge == side:
        return np.ascontiguousarray(square)
    how = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (side, side), interpolation=how), np.uint8)


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode (height, width, 3) uint8 RGB as a baseline 4:2:0 JPEG; releases the GIL."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ImageError(f"an image of {image.shape[1]} × {image.shape[0]} pixels is not encodable")
    return data.tobytes()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode (height, width, 3) uint8 RGB losslessly, for pages and reports."""
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ImageError("an image that cannot be encoded as PNG")
    return data.tobytes()

"""Images: decoding, resizing, encoding.

Decoding follows ``PIL.Image.open(...).convert("RGB")``, as torchvision's ImageFolder does: EXIF
orientation is ignored, alpha is dropped, grey becomes RGB, CMYK is converted. It departs from it
where that gives other pictures: of 16-bit greys the high byte is taken (Pillow makes all but the
darkest 256 levels white), and samples without a known white (32-bit integers, floats) are refused.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.errors import ImageError, first_line
from tamis.jpeg_header import n_scans, scan_jpeg

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_PIXELS",
    "decode_any",
    "decode_jpeg",
    "encode_jpeg",
    "encode_png",
    "resize_to_side",
]

# 300 MB as RGB, and twice that beside it while a progressive JPEG is decoded; one per thread.
MAX_PIXELS = 100_000_000
# Every scan of a progressive JPEG goes over all pixels, and a few bytes can ask for one: the work
# is at most that of so many scans over the largest image.
_MAX_SCANS = 20

# Those that datasets hold. Not all that Pillow knows: for EPS, say, it starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")


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
    found = n_scans(data)
    if found * width * height > _MAX_SCANS * max_pixels:
        raise ImageError(f"a JPEG of {found:,} scans over {width} × {height} pixels")


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

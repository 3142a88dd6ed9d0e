"""Encoded images: what a JPEG's header says, decoding, resizing, encoding.

Decoding follows ``PIL.Image.open(...).convert("RGB")``, as torchvision's ImageFolder does: EXIF
orientation is ignored, alpha is dropped, grey becomes RGB, CMYK is converted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.errors import first_line

__all__ = [
    "ImageError",
    "JpegInfo",
    "decode_any",
    "decode_jpeg",
    "encode_jpeg",
    "encode_png",
    "fit_square",
    "resize_to_side",
    "scan_jpeg",
]

_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # Huffman frames: is it progressive?
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


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
    """Read a JPEG's frame header by walking its markers; does not decode.

    Raises:
        ImageError: Not a JPEG, or one that is cut off before its end marker.
    """
    data = bytes(data)
    if data[:2] != b"\xff\xd8":
        raise ImageError("not a JPEG")
    info: JpegInfo | None = None
    at = 2
    while True:
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ImageError("a JPEG cut off or damaged in its header")
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            info = _frame(data[at + 4 : at + 2 + length], marker)
        if marker == 0xDA:
            break
        at += 2 + length
    if info is None:
        raise ImageError("a JPEG without a frame header")
    # Entropy-coded data never contains FF D9, so an end marker here means that it is all there.
    if data.rfind(b"\xff\xd9", at) < 0:
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


def decode_any(data: bytes) -> NDArray[np.uint8]:
    """Decode any format that Pillow reads, as (height, width, 3) uint8 RGB.

    Raises:
        ImageError: The bytes are not a readable image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            image.info.pop("transparency", None)  # dropped anyway; Pillow would warn of it
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ImageError("not an image in any known format") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"an unreadable image ({first_line(error)})") from error


def decode_jpeg(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a JPEG with libjpeg-turbo, as (height, width, 3) uint8 RGB; releases the GIL.

    Raises:
        ImageError: It does not decode.
    """
    import cv2

    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
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

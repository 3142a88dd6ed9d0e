"""From the images of a source to the records of a bundle, on all cores, in the source's order.

Workers are threads: reading, hashing, libjpeg-turbo and OpenCV release the GIL. An exception in
one of them surfaces in the caller at once, where FFCV's writer waits for ever.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.layout import JPEG_MODE, RAW_MODE
from tamis.bundles.settings import MAX_SIDE, ConvertSettings
from tamis.errors import ImageError
from tamis.hashing import example_uniform
from tamis.images import decode_any, decode_jpeg, encode_jpeg, resize_to_side
from tamis.in_order import map_in_order
from tamis.jpeg_header import JpegInfo, scan_jpeg
from tamis.sources.base import Source, SourceItem

__all__ = ["Record", "encode", "encode_all"]

# Up to this side, `auto` keeps pixels of lossless sources: JPEG would save little and harm much.
_RAW_SIDE = 64
# Small images go to the workers by the dozen, or handing them over would cost more than the work.
_CHUNK_BYTES = 256 << 10
_CHUNK_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded image as a bundle holds it.

    Attributes:
        mode: FFCV's image mode, JPEG or raw.
        width: Pixels.
        height: Pixels.
        data: The bytes.
        checksum: Their xxh3.
        passed_through: Whether they are the source's own bytes.
        tiled: Whether they are the source's own JPEG with restart tiles; one that was encoded here
            may have them, too.
    """

    mode: int
    width: int
    height: int
    data: bytes
    checksum: int
    passed_through: bool
    tiled: bool = False


def encode_all(
    source: Source, settings: ConvertSettings, page_size: int, workers: int, start: int = 0
) -> Generator[tuple[int, SourceItem, Record | ImageError]]:
    """Encode a source on threads, a bounded number of images ahead.

    Args:
        source: The images.
        settings: How they are stored.
        page_size: Bytes.
        workers: Threads.
        start: The position to start from.

    Yields:
        Position, item, and its record or what is wrong with it, in the source's order. Close the
        generator to end its threads.
    """

    def encode_chunk(chunk: _Chunk) -> list[tuple[int, SourceItem, Record | ImageError]]:
        return [(at, item, encode(at, item, settings, page_size)) for at, item in chunk]

    # Closed with this one: the threads must not go on without it.
    with closing(
        map_in_order(encode_chunk, _chunks(source, start), workers, "tamis-convert")
    ) as done:
        for records in done:
            yield from records


_Chunk = list[tuple[int, SourceItem]]


def _chunks(source: Source, start: int) -> Iterator[_Chunk]:
    size = 8  # streams that do not know how large their images are
    if source.n_bytes is not None:
        size = max(1, min(_CHUNK_ITEMS, _CHUNK_BYTES * len(source) // max(source.n_bytes, 1)))
    numbered = enumerate(source.items(start), start)
    while chunk := list(islice(numbered, size)):
        yield chunk


def encode(
    position: int, item: SourceItem, settings: ConvertSettings, page_size: int
) -> Record | ImageError:
    """The record of one image, or what is wrong with it.

    Args:
        position: Of the image in its source.
        item: The image.
        settings: How it is stored.
        page_size: Bytes; no record outgrows it for tiles.
    """
    record = _encoded(position, item, settings)
    if settings.tiles and isinstance(record, Record) and record.mode == JPEG_MODE:
        return _with_tiles(record, page_size)
    return record


def _with_tiles(record: Record, page_size: int) -> Record:
    from tamis.tiles.transcoding import thread_tiler  # numba is a second that others need not wait

    data = thread_tiler().tile(np.frombuffer(record.data, np.uint8))
    if data is None or len(data) > page_size:
        return record
    checksum = xxhash.xxh3_64_intdigest(data)
    return replace(
        record, data=data, checksum=checksum, passed_through=False, tiled=record.passed_through
    )


def _encoded(position: int, item: SourceItem, settings: ConvertSettings) -> Record | ImageError:
    try:
        loaded = item.load()
        as_pixels = _stored_as_pixels(position, item, settings)
        if isinstance(loaded, bytes):
            info = _plain_jpeg(loaded, settings.max_pixels)
            largest = min(settings.max_side or MAX_SIDE, MAX_SIDE)
            if info and not as_pixels and max(info.width, info.height) <= largest:
                return _record(JPEG_MODE, info.width, info.height, loaded, passed_through=True)
            pixels = _decode(loaded, info, settings.max_pixels)
        else:
            pixels = loaded
            _check_pixels(pixels.shape[1], pixels.shape[0], settings.max_pixels)
        pixels = resize_to_side(pixels, settings.max_side or MAX_SIDE)
        height, width = pixels.shape[:2]
        if as_pixels is None:
            lossless = not (isinstance(loaded, bytes) and loaded.startswith(b"\xff\xd8"))
            as_pixels = lossless and max(height, width) <= _RAW_SIDE
        if as_pixels:
            return _record(RAW_MODE, width, height, pixels.tobytes())
        return _record(JPEG_MODE, width, height, encode_jpeg(pixels, settings.quality))
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"a file that cannot be read ({error.strerror or error})")


def _stored_as_pixels(position: int, item: SourceItem, settings: ConvertSettings) -> bool | None:
    """Whether the settings alone decide between pixels and JPEG, and how."""
    if settings.mode != "auto":
        return settings.mode == "raw"
    if settings.jpeg_share is None:
        return None
    example_id = position if item.example_id is None else item.example_id
    drawn = example_uniform(np.array([example_id], np.int64), 0, "jpeg share")[0]
    return bool(drawn >= settings.jpeg_share)


def _plain_jpeg(data: bytes, max_pixels: int) -> JpegInfo | None:
    """What the markers of a JPEG say that libjpeg-turbo decodes to RGB; None for the rest."""
    if not data.startswith(b"\xff\xd8"):
        return None
    info = scan_jpeg(data)
    _check_pixels(info.width, info.height, max_pixels)
    return info if info.plain else None


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} × {height} pixels, more than the limit of {max_pixels:,}")


def _decode(data: bytes, info: JpegInfo | None, max_pixels: int) -> NDArray[np.uint8]:
    if info is None:
        return decode_any(data, max_pixels=max_pixels)
    return decode_jpeg(np.frombuffer(data, np.uint8), max_pixels=max_pixels)


def _record(
    mode: int, width: int, height: int, data: bytes, *, passed_through: bool = False
) -> Record:
    checksum = xxhash.xxh3_64_intdigest(data)
    return Record(mode, width, height, data, checksum, passed_through)

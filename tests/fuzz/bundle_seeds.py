"""Sound bundles that the fuzzer mutates; the same bytes in every process."""

from __future__ import annotations

import json
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.digest import content_digest
from tamis.bundles.layout import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    JPEG_MODE,
    RAW_MODE,
    Field,
    FieldType,
    image_fields,
    make_field,
)
from tamis.bundles.opening import open_bundle
from tamis.bundles.trailer import FOOTER_SIZE, Trailer, encode_trailer
from tamis.bundles.writer import BetonWriter
from tamis.images import encode_jpeg
from tamis.manifest import Manifest

__all__ = ["Seed", "make_seeds", "sealed", "table"]

PAGE_SIZE = 2 << 20
N_EXAMPLES = 8


@dataclass(frozen=True)
class Seed:
    """A sound bundle.

    Attributes:
        data: The file.
        bundle: The same, opened.
        metadata_at: Where the metadata table starts.
        regions: Name → first byte and the byte after the last one.
    """

    name: str
    data: bytes
    bundle: Bundle
    metadata_at: int
    regions: dict[str, tuple[int, int]]

    @property
    def alloc_at(self) -> int:
        """Where the allocation table starts."""
        return self.regions["table"][0]


def make_seeds(folder: Path) -> tuple[Seed, ...]:
    """Write the sound bundles into ``folder``.

    ``signed``: JPEGs and pixels, by tamis. ``cut``: four of its examples. ``mixed``: every type
    of field, by tamis. ``plain``: the same without a trailer, as FFCV's workers lay it out.
    """
    signed, child, mixed, plain = (
        Path(f"{name}.beton") for name in ("signed", "cut", "mixed", "plain")
    )
    with chdir(folder):  # children name their parent's path: it must be the same in every process
        _write_signed(signed)
        cut(open_bundle(signed), child, np.array([104, 101, 106, 107]))
        _write_mixed(mixed)
        plain.write_bytes(_stripped(mixed.read_bytes()))
    return tuple(_seed(folder / name) for name in (signed, child, mixed, plain))


def _seed(path: Path) -> Seed:
    data, bundle = path.read_bytes(), open_bundle(path)
    alloc_at = int(np.frombuffer(data[: HEADER.itemsize], HEADER)[0]["alloc_table_ptr"])
    metadata_at = HEADER.itemsize + DESCRIPTOR.itemsize * len(bundle.fields)
    payload_at = metadata_at + bundle.metadata.nbytes
    regions = {
        "header": (0, HEADER.itemsize),
        "descriptors": (HEADER.itemsize, metadata_at),
        "metadata": (metadata_at, payload_at),
        "payload": (payload_at, bundle.payload_end),
        "table": (alloc_at, len(data)),
    }
    if bundle.trailer is not None:
        regions["trailer"] = (bundle.payload_end, alloc_at - FOOTER_SIZE)
        regions["footer"] = (alloc_at - FOOTER_SIZE, alloc_at)
    return Seed(path.stem, data, bundle, metadata_at, regions)


def table(data: bytes | bytearray, seed: Seed) -> NDArray[Any]:
    """The allocation table of a file of the seed's layout, as a copy."""
    return np.frombuffer(bytes(data[seed.alloc_at :]), ALLOCATION).copy()


def sealed(data: bytes, seed: Seed) -> bytes:
    """The file with checksums and digest that fit its payload and metadata, however damaged."""
    trailer, dtype = seed.bundle.trailer, seed.bundle.metadata.dtype
    assert trailer is not None
    at, end = seed.regions["metadata"]
    metadata = np.frombuffer(data[at:end], dtype)
    checksums = np.array(
        [
            xxhash.xxh3_64_intdigest(b"".join(data[o : o + size] for o, size in payloads))
            for payloads in seed.bundle.extents.tolist()
        ],
        np.uint64,
    )
    descriptors = np.frombuffer(data[HEADER.itemsize : at], DESCRIPTOR)
    fields = tuple(
        replace(field, descriptor=row.tobytes())
        for field, row in zip(seed.bundle.fields, descriptors, strict=True)
    )
    sizes = seed.bundle.extents[..., 1]
    digest = content_digest(fields, metadata, sizes, trailer.example_ids, checksums)
    blob = encode_trailer(replace(trailer, checksums=checksums, digest=digest))
    body = data[: seed.bundle.payload_end] + blob
    header = np.frombuffer(data[: HEADER.itemsize], HEADER).copy()
    header["alloc_table_ptr"] = len(body)
    return header.tobytes() + body[HEADER.itemsize :] + data[seed.alloc_at :]


def _picture(index: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (3, 3, 3), np.uint8)
    side = (16 + 3 * index, 12 + 2 * index)
    return np.asarray(cv2.resize(coarse, side, interpolation=cv2.INTER_CUBIC), np.uint8)


def _image(index: int) -> tuple[int, NDArray[np.uint8], bytes]:
    """Mode, pixels and record: JPEGs, every fourth progressive, and every third as pixels."""
    pixels = _picture(index)
    if index % 3 == 2:
        small = np.ascontiguousarray(pixels[:7, :9])
        return RAW_MODE, small, small.tobytes()
    if index % 4 == 0:
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 60]
        return JPEG_MODE, pixels, cv2.imencode(".jpg", pixels, options)[1].tobytes()
    return JPEG_MODE, pixels, encode_jpeg(pixels, 60)


def _write_signed(path: Path) -> None:
    rows, payloads = [], []
    for index in range(N_EXAMPLES):
        mode, pixels, record = _image(index)
        rows.append(((mode, pixels.shape[1], pixels.shape[0], 0), index % 3))
        payloads.append([record])
    _write(path, image_fields(), rows, payloads)


def _array_field(name: str, kind: FieldType, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Field:
    field = make_field(name, kind)
    descr = json.dumps(dtype.descr).encode()
    numbers = np.zeros(33, "<u8")
    numbers[: len(shape)], numbers[32] = shape, len(descr)
    arguments = numbers.tobytes() + descr
    start = DESCRIPTOR.itemsize - 1024
    descriptor = field.descriptor[:start] + arguments.ljust(1024, b"\0")
    return Field(name, kind, descriptor)


def _write_mixed(path: Path) -> None:
    fields = (
        make_field("note", FieldType.BYTES),
        make_field("weight", FieldType.FLOAT),
        make_field("facts", FieldType.JSON),
        _array_field("vector", FieldType.ND_ARRAY, (3, 2), np.dtype("<f4")),
        make_field("image", FieldType.RGB_IMAGE),
        make_field("label", FieldType.INT),
        _array_field("tensor", FieldType.TORCH_TENSOR, (5,), np.dtype("<i2")),
    )
    rows, payloads = [], []
    for index in range(N_EXAMPLES):
        rng = np.random.default_rng((9, index))
        mode, pixels, record = _image(index)
        note = rng.bytes(0 if index % 3 == 0 else 5 + index)
        facts = json.dumps({"index": index, "name": "é" * index}).encode() + b"\0"
        height, width = pixels.shape[:2]
        image = (mode, width, height, 0)
        rows.append(((0, len(note)), index / 3, (0, len(facts)), 0, image, index % 3, 0))
        vector, tensor = rng.bytes(24), rng.bytes(10)
        payloads.append([note, facts, vector, record, tensor])
    _write(path, fields, rows, payloads)


def _write(
    path: Path, fields: tuple[Field, ...], rows: list[Any], payloads: list[list[bytes]]
) -> None:
    with BetonWriter(path, fields, len(rows), PAGE_SIZE) as writer:
        metadata = np.zeros(len(rows), writer.dtype)
        metadata[:] = rows
        extents = np.zeros((len(rows), len(payloads[0]), 2), np.int64)
        for example, records in enumerate(payloads):
            for column, record in enumerate(records):
                (offset,) = writer.place(np.array([len(record)]))
                writer.write(record, int(offset))
                extents[example, column] = offset, len(record)
        checksums = [xxhash.xxh3_64_intdigest(b"".join(records)) for records in payloads]
        paths = [f"ordner/bild-{i}.jpg" if i % 4 else None for i in range(len(rows))]
        manifest = Manifest("convert", {"source": "fuzz"}, ("a", "ß", "c"))
        ids = np.arange(100, 100 + len(rows))
        writer.finish(
            metadata, extents, Trailer(ids, paths, np.array(checksums, np.uint64), manifest)
        )


def _stripped(data: bytes) -> bytes:
    """Without the trailer, and with the table in the order of two workers."""
    header = np.frombuffer(data[: HEADER.itemsize], HEADER).copy()
    alloc_at = int(header["alloc_table_ptr"][0])
    start = alloc_at - FOOTER_SIZE
    end = start - int.from_bytes(data[start : start + 8], "little")
    rows = np.frombuffer(data[alloc_at:], ALLOCATION)
    first = rows["sample_id"] % 4 < 2
    header["alloc_table_ptr"] = end
    body = header.tobytes() + data[HEADER.itemsize : end]
    return body + rows[~first].tobytes() + rows[first].tobytes()

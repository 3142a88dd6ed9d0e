"""Damaged and forged bundles: mutant ``index`` is the same file in every process."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from fuzz.bundle_seeds import Seed, sealed, table
from fuzz.parquet_mutants import mutate_parquet
from tamis.bundles.layout import ALLOCATION, DESCRIPTOR, HEADER
from tamis.bundles.trailer import FOOTER_SIZE

__all__ = ["Mutant", "make_mutant"]


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes:
        seed: What it was.
        data: The file.
        how: What was done to it, for people.
        forged: Whether checksums or the digest were computed again, so that they prove nothing.
    """

    seed: Seed
    data: bytes
    how: str
    forged: bool


def make_mutant(seeds: tuple[Seed, ...], index: int) -> Mutant:
    """Mutant number ``index``: one change, sometimes two, to one of the seeds in turn."""
    rng = random.Random(index)
    seed = seeds[index % len(seeds)]
    signed = seed.bundle.trailer is not None
    if signed and rng.random() < 0.2:
        how, data = _forged_trailer(rng, seed)
        return Mutant(seed, data, how, True)
    if signed and rng.random() < 0.25:
        kind = rng.choice((_image_header, _image_header, _flip, _metadata, _descriptor, _pointers))
        how, data = kind(rng, seed, seed.data)
        return Mutant(seed, sealed(data, seed), f"{how}, sealed", True)
    hows, data = [], seed.data
    for _ in range(1 if rng.random() < 0.85 else 2):
        if len(data) < 100:
            break  # truncated to nearly nothing
        kinds, weights = zip(*_KINDS.items(), strict=True)
        how, data = rng.choices(kinds, weights)[0](rng, seed, data)
        hows.append(how)
    return Mutant(seed, data, " and ".join(hows), False)


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :] if at + len(new) <= len(data) else data


def _number(rng: random.Random, data: bytes, at: int, size: int, seed: Seed) -> bytes:
    """A number of ``size`` bytes that might hurt, in place of the one at ``at``."""
    old = int.from_bytes(data[at : at + size], "little")
    top = 1 << 8 * size
    near = [old + 1, old - 1, old + 24, old - 24, old + 4096, 2 * old, old // 2, top - old]
    edges = [0, 1, 2, 7, 24, top - 1, top // 2, top // 2 - 1, 2**31, 2**32, 2**40, 2**62]
    places = [len(data), len(data) - 1, seed.alloc_at, seed.bundle.payload_end]
    value = rng.choice([*near, *edges, *places, rng.randrange(top)])
    return (value % top).to_bytes(size, "little")


def _part(dtype: np.dtype[Any], name: str) -> tuple[np.dtype[Any], int]:
    """A field of a structured dtype and its offset."""
    fields = dtype.fields
    assert fields is not None
    return fields[name][0], fields[name][1]


def _place(rng: random.Random, seed: Seed, data: bytes) -> int:
    """A byte of the file; every region is as likely as the others."""
    first, last = rng.choice(list(seed.regions.values()))
    return min(rng.randrange(first, last), len(data) - 1)


def _flip(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    changed, places = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = _place(rng, seed, data)
        changed[at] ^= 1 << rng.randrange(8)
        places.append(at)
    return f"bits flipped at {places}", bytes(changed)


def _set(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    at, length = _place(rng, seed, data), rng.choice((1, 2, 4, 8))
    new = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return f"bytes at {at} set to {new.hex()}", _put(data, at, new)


def _truncate(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    edges = [edge for region in seed.regions.values() for edge in region]
    rows = ALLOCATION.itemsize * rng.randrange(1, 5)
    length = rng.choice((rng.randrange(len(data)), rng.choice(edges), len(data) - rows))
    return f"truncated to {length}", data[:length]


def _append(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    length = rng.choice((1, 23, 24, 48, 24 * 8, 5000))
    new = rng.choice((b"\0" * length, rng.randbytes(length), data[-length:]))
    return f"{len(new)} bytes appended", data + new


def _ranges(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    length = rng.choice((4, 8, 24, 100, 1041, 4000))
    length = min(length, len(data) // 3)
    a = min(_place(rng, seed, data), len(data) - length)
    b = min(_place(rng, seed, data), len(data) - length)
    from_a, from_b = data[a : a + length], data[b : b + length]
    what = rng.choice(("zeroed", "copied", "swapped"))
    if what == "zeroed":
        return f"{length} bytes at {a} zeroed", _put(data, a, b"\0" * length)
    if what == "copied":
        return f"{length} bytes at {a} copied to {b}", _put(data, b, from_a)
    return f"{length} bytes at {a} and {b} swapped", _put(_put(data, b, from_a), a, from_b)


def _header(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    name = rng.choice(HEADER.names or ())
    kind, at = _part(HEADER, name)
    new = _number(rng, data, at, kind.itemsize, seed)
    return f"{name} = {int.from_bytes(new, 'little')}", _put(data, at, new)


def _metadata(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    dtype = seed.bundle.metadata.dtype
    column = rng.choice(dtype.names or ())
    kind, inside = _part(dtype, column)
    part = rng.choice(kind.names) if kind.names else ""
    if part:
        kind, further = _part(kind, part)
        inside += further
    row, other = (rng.randrange(seed.bundle.n_examples) for _ in range(2))
    at = seed.metadata_at + row * dtype.itemsize + inside
    elsewhere = seed.metadata_at + other * dtype.itemsize + inside
    new = _number(rng, data, at, kind.itemsize, seed)
    if rng.random() < 0.3:
        new = data[elsewhere : elsewhere + kind.itemsize]
    return f"{column}.{part} of row {row} = {int.from_bytes(new, 'little')}", _put(data, at, new)


def _allocation(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    rows = table(seed.data, seed)
    a, b = (rng.randrange(len(rows)) for _ in range(2))
    at = seed.alloc_at + a * ALLOCATION.itemsize
    what = rng.choice(("row", "rows", "sample_id", "ptr", "size"))
    if what == "row":
        return f"allocation {b} copied to {a}", _put(data, at, rows[b].tobytes())
    if what == "rows":
        rows[[a, b]] = rows[[b, a]]
        return f"allocations {a} and {b} swapped", _put(data, seed.alloc_at, rows.tobytes())
    at += _part(ALLOCATION, what)[1]
    new = rows[what][b].tobytes() if rng.random() < 0.3 else _number(rng, data, at, 8, seed)
    return f"{what} of allocation {a} = {int.from_bytes(new, 'little')}", _put(data, at, new)


def _descriptor(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    field = rng.randrange(len(seed.bundle.fields))
    at = HEADER.itemsize + field * DESCRIPTOR.itemsize
    what = rng.choice(("type", "name", "shape", "dtype length", "dtype"))
    arguments = at + _part(DESCRIPTOR, "arguments")[1]
    if what == "type":
        new = bytes([rng.choice((*range(8), 255))])
    elif what == "name":
        at, new = at + 1, rng.choice((b"\0", b"label\0", b"image\0", rng.randbytes(16)))
    elif what == "shape":
        at = arguments + 8 * rng.choice((0, 1, 2, 31))
        new = _number(rng, data, at, 8, seed)
    elif what == "dtype length":
        at = arguments + 256
        new = _number(rng, data, at, 8, seed)
    else:
        at = arguments + 264 + rng.randrange(14)
        texts = (b"[" * 700, b'[["", "<f8"]]', b'[["", "O"]]', b'[["", "<f4", [9999999999]]]')
        new = rng.choice((*texts, rng.randbytes(3)))
    return f"{what} of field {field} = {new[:24]!r}", _put(data, at, new)


def _footer(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    start = seed.alloc_at - FOOTER_SIZE
    what = rng.choice(("length", "checksum", "magic"))
    if what == "magic":
        n_bytes = rng.randrange(1, 9)
        new = rng.choice((b"\0" * n_bytes, rng.randbytes(n_bytes)))
        at = start + 16 + rng.randrange(9 - n_bytes)
    else:
        at = start + (8 if what == "checksum" else 0)
        new = _number(rng, data, at, 8, seed)
    return f"trailer's {what} = {new.hex()}", _put(data, at, new)


def _pointers(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    """One record moved: metadata and allocation table agree on where it is."""
    bundle = seed.bundle
    column = rng.randrange(len(bundle.payload_fields))
    row = rng.randrange(bundle.n_examples)
    index = bundle.payload_fields[column]
    at = seed.metadata_at + row * bundle.metadata.dtype.itemsize
    kind, inside = _part(bundle.metadata.dtype, f"f{index}")
    at += inside + (_part(kind, "ptr")[1] if kind.names else 0)
    rows = table(seed.data, seed)
    old, size = bundle.extents[row, column].tolist()
    entry = np.flatnonzero(
        (rows["sample_id"] == row) & (rows["ptr"] == old) & (rows["size"] == size)
    )
    if not len(entry):
        return "nothing", data
    near = [old + 1, old - 1, old - size, int(rng.choice(bundle.extents.reshape(-1, 2))[0])]
    edges = [0, 2**31, 2**63, 2**64 - 1, seed.metadata_at, bundle.page_size - 1, len(data)]
    new = rng.choice([*near, *edges, seed.alloc_at, seed.alloc_at - size, bundle.payload_end])
    word = (new % 2**64).to_bytes(8, "little")
    moved = _put(data, at, word)
    moved = _put(moved, seed.alloc_at + ALLOCATION.itemsize * int(entry[0]) + 8, word)
    return f"field {index} of row {row} moved from {old} to {new}", moved


def _image_header(rng: random.Random, seed: Seed, data: bytes) -> tuple[str, bytes]:
    """Bytes of a JPEG before its first scan; often the size or a segment's length."""
    bundle = seed.bundle
    row = rng.choice([i for i in range(bundle.n_examples) if bundle.image_record(i)[0] == 0])
    offset, size = bundle.extents[row, bundle.payload_fields.index(bundle.image_field)].tolist()
    record = data[offset : offset + size]
    scan = record.find(b"\xff\xda")
    starts = [i for i in range(max(scan, 3)) if record[i : i + 1] == b"\xff"] or [0]
    at = offset + rng.choice((rng.choice(starts), rng.randrange(size), rng.randrange(max(scan, 1))))
    at += rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    new = rng.choice((b"\0", b"\xff", b"\xff\xff", b"\0\0", b"\x3f\xff", rng.randbytes(1), b"\xd9"))
    if rng.random() < 0.2:
        frame = max(record.find(b"\xff\xc0"), record.find(b"\xff\xc2"))
        sides = rng.choice((1, 7, 300, 4000, 30000, 65535)), rng.choice((1, 7, 300, 4000, 65535))
        at, new = offset + frame + 5, b"".join(side.to_bytes(2, "big") for side in sides)
    new = new[: max(offset + size - at, 0)]
    return f"JPEG of row {row}: bytes at {at} set to {new.hex()}", _put(data, at, new)


def _forged_trailer(rng: random.Random, seed: Seed) -> tuple[str, bytes]:
    """The trailer's Parquet changed, then its checksum, so that the decoder gets it."""
    first, last = seed.regions["trailer"]
    change = mutate_parquet if rng.random() < 0.7 else _change_bytes
    how, blob = change(rng, seed.data[first:last])
    footer = len(blob).to_bytes(8, "little") + xxhash.xxh3_64_intdigest(blob).to_bytes(8, "little")
    body = seed.data[:first] + blob + footer + seed.data[last + 16 : seed.alloc_at]
    data = _put(body, 16, len(body).to_bytes(8, "little")) + seed.data[seed.alloc_at :]
    return f"trailer: {how}, sealed", data


def _change_bytes(rng: random.Random, parquet: bytes) -> tuple[str, bytes]:
    blob = bytearray(parquet)
    size = int.from_bytes(blob[-8:-4], "little")
    # Half of the changes go to Parquet's own footer, which is small and says what to allocate.
    low = len(blob) - 8 - size if rng.random() < 0.5 else 0
    hows = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(low, len(blob))
        what = rng.choice(("flip", "set", "insert", "delete", "varint", "copy"))
        if what == "flip":
            blob[at] ^= 1 << rng.randrange(8)
        elif what == "set":
            blob[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what == "insert":
            blob[at:at] = rng.randbytes(rng.choice((1, 4)))
        elif what == "delete":
            del blob[at : at + rng.choice((1, 4))]
        elif what == "varint":  # a large number where Thrift may expect one
            blob[at : at + 5] = rng.choice((b"\xfe\xff\xff\xff\x0f", b"\xfe\xff\xff\x7f"))
        else:
            other = rng.randrange(low, len(blob))
            blob[at : at + 8] = blob[other : other + 8]
        hows.append(f"{what} at {at}")
    if rng.random() < 0.5 and len(blob) >= 8:  # the length of Parquet's footer fits again
        blob[-8:] = ((size + len(blob) - len(parquet)) % 2**32).to_bytes(4, "little") + b"PAR1"
    return ", ".join(hows), bytes(blob)


_KINDS: dict[Callable[[random.Random, Seed, bytes], tuple[str, bytes]], int] = {
    _flip: 4,
    _set: 3,
    _truncate: 2,
    _append: 1,
    _ranges: 4,
    _header: 3,
    _metadata: 5,
    _allocation: 3,
    _descriptor: 3,
    _footer: 1,
    _pointers: 4,
    _image_header: 3,
}

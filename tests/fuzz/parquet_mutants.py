"""Parquet with one lie in it: footer and page headers are parsed, changed and written again.

Offsets and sizes fit what was changed, so that what reads the file gets as far as the lie.
"""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa

__all__ = ["mutate_parquet"]

# Thrift's compact protocol. A struct is a list of [number, kind, value]; a list is [kind, items].
Struct = list[list[Any]]
FLAGS, BYTE, NUMBERS, BINARY, LIST, STRUCT = (1, 2), 3, (4, 5, 6), 8, 9, 12


def mutate_parquet(rng: random.Random, blob: bytes) -> tuple[str, bytes]:
    """Change one page's contents, one page's header, or the footer of a one-group file."""
    size = int.from_bytes(blob[-8:-4], "little")
    footer, _ = _read_struct(blob, len(blob) - 8 - size)
    chunks = [_get(chunk, 3) for chunk in _get(_get(footer, 4)[1][0], 1)[1]]
    pages: list[tuple[Struct, bytes]] = []
    for chunk in chunks:
        header, body_at = _read_struct(blob, _get(chunk, 9))
        pages.append((header, blob[body_at : body_at + _get(header, 3)]))
    target = rng.choice(("footer", "footer", "header", "contents", "contents"))
    how, chosen = "", rng.randrange(len(pages))
    if target == "contents":
        how, body = _change_contents(rng, *pages[chosen])
        pages[chosen] = pages[chosen][0], body
    elif target == "header":
        how = _change(rng, pages[chosen][0])
    out = bytearray(b"PAR1")
    for chunk, (header, body) in zip(chunks, pages, strict=True):
        written = _write_struct(header) + body
        _set(chunk, 9, len(out))
        _set(chunk, 7, len(written))
        out += written
    if target == "footer":
        how = _change(rng, footer)
    end = _write_struct(footer)
    return f"{target}: {how}", bytes(out) + end + len(end).to_bytes(4, "little") + b"PAR1"


def _change_contents(rng: random.Random, header: Struct, body: bytes) -> tuple[str, bytes]:
    """Definition levels, string lengths or values, compressed again."""
    codec = pa.Codec("zstd")
    raw = bytearray(codec.decompress(body, _get(header, 2)).to_pybytes())
    at = min(rng.choice((rng.randrange(12), rng.randrange(len(raw)))), len(raw) - 1)
    numbers = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, len(raw))
    what = rng.choice(("byte", "number", "cut", "longer", "empty", "none"))
    if what == "byte":
        raw[at] = rng.choice((0, 1, 3, 255, raw[at] ^ (1 << rng.randrange(8))))
    elif what == "number":
        raw[at : at + 4] = rng.choice(numbers).to_bytes(4, "little")
    elif what == "cut":
        del raw[at:]
    elif what == "longer":
        raw += rng.choice((b"\0", b"\xff", rng.randbytes(1))) * rng.choice((1, 100, 300_000))
    elif what == "empty":
        raw.clear()
    changed = codec.compress(bytes(raw)).to_pybytes() if what != "none" else b""
    _set(header, 3, len(changed))
    if rng.random() < 0.7:
        _set(header, 2, len(raw))
    return f"{what} at {at}", changed


def _change(rng: random.Random, struct: Struct) -> str:
    """One change to one field, at any depth."""
    places = list(_places(struct))
    parent, field = rng.choice(places)
    number, kind, value = field
    what = rng.choice(("value", "value", "value", "delete", "repeat", "kind"))
    if what == "delete":
        parent.remove(field)
    elif what == "repeat":
        parent.append([number, kind, _other(rng, kind, value)])
    elif what == "kind" and kind in NUMBERS:
        field[1] = rng.choice(NUMBERS)
    else:
        field[2] = _other(rng, kind, value)
    return f"{what} of field {number} was {value!r}"[:200]


def _places(struct: Struct) -> list[tuple[Struct, list[Any]]]:
    found = []
    for field in struct:
        found.append((struct, field))
        if field[1] == STRUCT:
            found += _places(field[2])
        elif field[1] == LIST and field[2][0] == STRUCT:
            for item in field[2][1]:
                found += _places(item)
    return found


def _other(rng: random.Random, kind: int, value: Any) -> Any:
    if kind in NUMBERS:
        edges = (0, 1, 2, 3, 4, 5, 6, 7, 8, -1, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63))
        return rng.choice((*edges, value + 1, value - 1, 2 * value))
    if kind == BINARY:
        texts = (b"", b"[" * 5000, b"null", b"\xff\xfe", b"9" * 5000, value + b"\0", value[:-1])
        return rng.choice((*texts, value[: len(value) // 2] + rng.randbytes(2)))
    if kind == LIST:
        inner, items = value
        return [inner, rng.choice((items[:-1], items[::-1], items * 2, items * 300, []))]
    if kind == STRUCT:
        return rng.choice(([], value[:-1], [*value, [rng.randrange(1, 20), 5, rng.randrange(9)]]))
    return kind == 1


def _get(struct: Struct, number: int) -> Any:
    return next(value for found, _, value in struct if found == number)


def _set(struct: Struct, number: int, value: int) -> None:
    for field in struct:
        if field[0] == number:
            field[2] = value


def _read_struct(data: bytes, at: int) -> tuple[Struct, int]:
    struct: Struct = []
    number = 0
    while data[at]:
        head, at = data[at], at + 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _read_number(data, at)
        value, at = _read_value(data, at, head & 15)
        struct.append([number, head & 15, value])
    return struct, at + 1


def _read_value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in FLAGS:
        return kind == 1, at
    if kind == BYTE:
        return data[at], at + 1
    if kind in NUMBERS:
        return _read_number(data, at)
    if kind == BINARY:
        length, at = _read_varint(data, at)
        return data[at : at + length], at + length
    if kind == LIST:
        length, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if length == 15:
            length, at = _read_varint(data, at)
        items = []
        for _ in range(length):
            item, at = _read_value(data, at, inner)
            items.append(item)
        return [inner, items], at
    assert kind == STRUCT
    return _read_struct(data, at)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _write_struct(struct: Struct) -> bytes:
    out, last = b"", 0
    for number, kind, value in struct:
        if kind in FLAGS:
            kind = 1 if value else 2
        step = number - last
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _number(number)
        out += b"" if kind in FLAGS else _write_value(kind, value)
        last = number
    return out + b"\0"


def _write_value(kind: int, value: Any) -> bytes:
    if kind == BYTE:
        return bytes([value])
    if kind in NUMBERS:
        return _number(value)
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == LIST:
        inner, items = value
        n = len(items)
        head = bytes([n << 4 | inner]) if n < 15 else bytes([0xF0 | inner]) + _varint(n)
        return head + b"".join(_write_value(inner, item) for item in items)
    return _write_struct(value)


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _number(value: int) -> bytes:
    return _varint((value << 1 if value >= 0 else -2 * value - 1) & (2**64 - 1))

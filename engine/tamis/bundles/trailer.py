"""The trailer: what a bundle says about itself.

FFCV never looks at the bytes between the last page and the allocation table. There tamis puts a
Parquet blob with one row per example and the manifest as schema metadata, then the blob's length
(u64), its xxh3 (u64), and :data:`MAGIC`, ending exactly where the allocation table starts.

Checksums prove a trailer whole, not honest: anybody can compute them. Arrow trusts Parquet's
footers and page headers further than is good: it allocates what they claim, and some
contradictions end the process. So both are read here first, and only the plainest Parquet gets to
it: no dictionaries and no deltas (a page decodes to no more than its bytes), pages whose sizes add
up to what n examples may take, nothing optional.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.errors import BundleError, first_line
from tamis.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FOOTER_SIZE", "MAGIC", "Trailer", "decode_trailer", "encode_trailer"]

MAGIC = b"TAMIS\x00\x00\x01"
FOOTER_SIZE = 16 + len(MAGIC)

# What the columns of n examples may decode to: 1 MiB and 1 KiB an example, nearly all of it path.
_COLUMN_BYTES, _COLUMN_BYTES_PER_EXAMPLE = 1 << 20, 1 << 10
_MANIFEST_BYTES = 64 << 20  # half a million skipped images
# As Parquet numbers them.
_INT64, _BYTE_ARRAY = 2, 6
_ZSTD, _DATA_PAGE, _PLAIN = 6, 0, 0
_COLUMNS = [(b"example_id", _INT64), (b"path", _BYTE_ARRAY), (b"checksum", _INT64)]


@dataclass(frozen=True)
class Trailer:
    """One row per example, in the bundle's order, and the manifest.

    Attributes:
        example_ids: (n,) int64, distinct.
        paths: n source paths (strings or nulls) as an Arrow array.
        checksums: (n,) uint64, xxh3 of the example's payload bytes in field order.
        manifest: Where the bundle comes from.
        digest: The content digest, so that metadata outside the trailer (labels, sizes) is proved
            on opening; the writer sets it.
    """

    example_ids: NDArray[np.int64]
    paths: pa.ChunkedArray | pa.Array | Sequence[str | None]
    checksums: NDArray[np.uint64]
    manifest: Manifest
    digest: str = ""


def encode_trailer(trailer: Trailer) -> bytes:
    """The trailer's bytes, footer included; equal trailers give equal bytes.

    Raises:
        BundleError: Paths or a manifest so large that :func:`decode_trailer` would refuse them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = trailer.paths
    if not isinstance(paths, pa.ChunkedArray | pa.Array):
        paths = pa.array(paths, pa.string())
    manifest = trailer.manifest.to_json()
    table = pa.table(
        {"example_id": trailer.example_ids, "path": paths, "checksum": trailer.checksums}
    )
    for what, size, limit in (
        ("example ids, paths and checksums", table.nbytes, _column_limit(len(table))),
        ("a manifest", len(manifest), _MANIFEST_BYTES),
    ):
        if size > limit:
            raise BundleError(
                "trailer",
                expected=f"{what} of at most {limit:,} bytes",
                found=f"{size:,}",
                do="shorten the paths, or list fewer skipped images",
            )
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        data_page_version="1.0",
        store_schema=False,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"tamis": manifest, "digest": trailer.digest})
    blob: bytes = sink.getvalue().to_pybytes()
    return blob + struct.pack("<QQ", len(blob), xxhash.xxh3_64_intdigest(blob)) + MAGIC


def decode_trailer(data: bytes | memoryview, n_examples: int, subject: object) -> Trailer:
    """Parse a trailer's Parquet blob (without the footer).

    Raises:
        BundleError: The blob is damaged, does not describe ``n_examples`` distinct examples, or
            would take more memory than theirs could.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = _check_parquet(memoryview(data), n_examples)
        manifest = Manifest.from_json(about.get(b"tamis", b"null"))
        digest = about.get(b"digest", b"").decode("ascii")
        table = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)), pre_buffer=False).read()
        table.validate(full=True)  # that paths are UTF-8
        if table["example_id"].null_count or table["checksum"].null_count:
            raise ValueError("missing ids or checksums")
        ids = table["example_id"].cast(pa.int64()).to_numpy()
        checksums = table["checksum"].cast(pa.uint64()).to_numpy()
        paths = table["path"].cast(pa.string())
        if not _distinct(ids):
            raise ValueError("repeated example ids")
    except MemoryError:  # Arrow's own is an ArrowException too
        raise
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise BundleError(
            subject,
            expected="a sound trailer (example ids, paths, checksums)",
            found=first_line(error),
            do="write the bundle again from its source",
        ) from error
    return Trailer(ids, paths, checksums, manifest, digest)


def _distinct(ids: NDArray[np.int64]) -> bool:
    ascending = ids if (ids[1:] > ids[:-1]).all() else np.sort(ids)
    return bool((ascending[1:] != ascending[:-1]).all())


def _column_limit(n_examples: int) -> int:
    return _COLUMN_BYTES + _COLUMN_BYTES_PER_EXAMPLE * n_examples


# ---- Parquet's own structures, read before Arrow does


def _check_parquet(data: memoryview, n_examples: int) -> dict[bytes, bytes]:
    """Refuse all but the plain Parquet that :func:`encode_trailer` writes for n examples.

    Raises:
        ValueError: It is something else.

    Returns:
        The key-value metadata.
    """
    try:
        footer_at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        if bytes(data[:4]) + bytes(data[-4:]) != b"PAR1PAR1" or footer_at < 4:
            raise ValueError("no Parquet")
        # A row group takes a hundred values and holds up to a million rows.
        footer = _Thrift(data[footer_at:-8], 0, (1 << 14) + n_examples // 64).struct()
        _check_pages(data, _chunks(footer, n_examples, footer_at), n_examples)
        about = {entry[1]: entry[2] for entry in footer[5]}
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError("a damaged Parquet footer or page header") from error
    if b"ARROW:schema" in about or len(about.get(b"tamis", b"")) > _MANIFEST_BYTES:
        raise ValueError("a manifest that is too long, or not alone")
    return about


def _chunks(footer: dict[int, Any], n_examples: int, footer_at: int) -> list[tuple[int, int]]:
    """First byte of each column of each row group, and the byte after its last one."""
    root, *columns = footer[2]
    found = [(column[4], column[1]) for column in columns]
    flat = root[5] == len(columns) and all(5 not in c and c[3] in (0, 1) for c in columns)
    if footer.keys() - {1, 2, 3, 4, 5, 6, 7} or found != _COLUMNS or not flat:
        raise ValueError("columns of other names, types or shapes")
    for n_rows in (footer[3], sum(group[3] for group in footer[4])):
        if n_rows != n_examples:
            raise ValueError(f"{n_rows} rows for {n_examples} examples")
    chunks = []
    for group in footer[4]:
        if group[3] < 0 or group.keys() - {1, 2, 3, 5, 6, 7}:
            raise ValueError("a row group that is not plain")
        for column, chunk in zip(columns, group[1], strict=True):
            _check_chunk(column, chunk, group[3])
            start, size = chunk[3][9], chunk[3][7]
            if not 4 <= start <= start + size <= footer_at:
                raise ValueError("a column outside the trailer")
            chunks.append((start, start + size))
    return chunks


def _check_chunk(column: dict[int, Any], chunk: dict[int, Any], n_rows: int) -> None:
    """A column of a row group has its column's name and type, all rows, and nothing optional."""
    about = chunk[3]
    stated = (about[1], about[3], about[4], about[5])
    # Fields that are not listed here stand for encryption, dictionaries, filters, ….
    optional = chunk.keys() - {2, 3} or about.keys() - {1, 2, 3, 4, 5, 6, 7, 9, 13, 16}
    if optional or stated != (column[1], [column[4]], _ZSTD, n_rows):
        raise ValueError("a column that is not plain")
    # Numbers of values by nesting level, which no reader needs: pyarrow 26 ends the process where
    # they do not fit the schema.
    counts = about.get(16, {})
    fit = not counts.get(2) and len(counts.get(3, [])) in (0, 1 + column[3])
    if not fit or (1 in counts and column[1] != _BYTE_ARRAY):
        raise ValueError("a column whose counts do not fit it")


def _check_pages(data: memoryview, chunks: list[tuple[int, int]], n_examples: int) -> None:
    """The pages are plain data, and decode to no more than n examples may take."""
    limit = _column_limit(n_examples)
    n_bytes, n_pages, max_pages = 0, 0, 1024 + n_examples // 256
    for at, end in chunks:
        while at < end:
            header = _Thrift(data, at, 64)
            page = header.struct()
            held, stored, at = page[2], page[3], header.at
            if page[1] != _DATA_PAGE or page[5][2] != _PLAIN:
                raise ValueError("a page that is not plain data")
            if held < 0 or not 0 <= stored <= end - at:
                raise ValueError("a page outside its column")
            n_bytes, n_pages, at = n_bytes + held, n_pages + 1, at + stored
            if n_bytes > limit or n_pages > max_pages:
                raise ValueError(f"columns of more than {limit:,} bytes, or {max_pages:,} pages")


class _Thrift:
    """Reads Thrift's compact protocol: a struct is a dict by field number.

    Raises:
        ValueError: More than ``n_values`` values, or one of a kind that Parquet does not use here.
        IndexError: The data ends too early.
    """

    def __init__(self, data: memoryview, at: int, n_values: int) -> None:
        self.at = at
        self._data, self._left = data, n_values

    def struct(self) -> dict[int, Any]:
        """The struct that starts here; :attr:`at` moves behind it."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            if number in fields:  # of which readers may take the first or the last
                raise ValueError("a damaged Parquet footer or page header")
            fields[number] = self._value(head & 15)
        return fields

    def _value(self, kind: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError("a Parquet footer or page header of too many values")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind == 8:
            length = self._varint()
            self.at += length
            return bytes(self._data[self.at - length : self.at])
        if kind == 9:
            return self._list()
        if kind == 12:
            return self.struct()
        raise ValueError("a damaged Parquet footer or page header")

    def _list(self) -> list[Any]:
        head = self._byte()
        length, kind = head >> 4, head & 15
        if kind in (1, 2):  # as items, flags are encoded otherwise; Parquet has none here
            raise ValueError("a damaged Parquet footer or page header")
        return [self._value(kind) for _ in range(self._varint() if length == 15 else length)]

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a damaged Parquet footer or page header")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

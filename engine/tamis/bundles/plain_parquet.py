"""The trailer's Parquet, looked through before Arrow sees it.

Checksums prove a trailer whole, not honest: anybody can compute them. Arrow trusts Parquet's
footers and page headers further than is good: it allocates what they claim, and some
contradictions end the process. So both are read here first, and only the plainest Parquet gets to
it: no dictionaries and no deltas (a page decodes to no more than its bytes), pages whose sizes add
up to what n examples may take, nothing optional.
"""

from __future__ import annotations

from typing import Any

from tamis.thrift import ThriftReader

__all__ = ["MANIFEST_BYTES", "check_plain_parquet", "column_limit", "trailer_limit"]

# What the columns of n examples may decode to: 1 MiB and 1 KiB an example, nearly all of it path.
_COLUMN_BYTES, _COLUMN_BYTES_PER_EXAMPLE = 1 << 20, 1 << 10
MANIFEST_BYTES = 64 << 20  # half a million skipped images
# As Parquet numbers them.
_INT64, _BYTE_ARRAY = 2, 6
_ZSTD, _DATA_PAGE, _PLAIN = 6, 0, 0
_COLUMNS = [(b"example_id", _INT64), (b"path", _BYTE_ARRAY), (b"checksum", _INT64)]


def column_limit(n_examples: int) -> int:
    """The most bytes that the columns of a trailer may decode to."""
    return _COLUMN_BYTES + _COLUMN_BYTES_PER_EXAMPLE * n_examples


def trailer_limit(n_examples: int) -> int:
    """The most bytes that a trailer may take in the file; compression may add a little."""
    return MANIFEST_BYTES + 2 * column_limit(n_examples)


def check_plain_parquet(data: memoryview, n_examples: int) -> dict[bytes, bytes]:
    """Refuse all but the plain Parquet of a trailer for n examples.

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
        footer = ThriftReader(data[footer_at:-8], 0, (1 << 14) + n_examples // 64).struct()
        _check_pages(data, _chunks(footer, n_examples, footer_at), n_examples)
        about = {entry[1]: entry[2] for entry in footer[5]}
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError("a damaged Parquet footer or page header") from error
    if b"ARROW:schema" in about or len(about.get(b"tamis", b"")) > MANIFEST_BYTES:
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
    limit = column_limit(n_examples)
    n_bytes, n_pages, max_pages = 0, 0, 1024 + n_examples // 256
    for at, end in chunks:
        while at < end:
            header = ThriftReader(data, at, 64)
            page = header.struct()
            held, stored, at = page[2], page[3], header.at
            if page[1] != _DATA_PAGE or page[5][2] != _PLAIN:
                raise ValueError("a page that is not plain data")
            if held < 0 or not 0 <= stored <= end - at:
                raise ValueError("a page outside its column")
            n_bytes, n_pages, at = n_bytes + held, n_pages + 1, at + stored
            if n_bytes > limit or n_pages > max_pages:
                raise ValueError(f"columns of more than {limit:,} bytes, or {max_pages:,} pages")

"""The trailer: what a bundle says about itself.

FFCV never looks at the bytes between the last page and the allocation table. There tamis puts a
Parquet blob with one row per example and the manifest as schema metadata, then the blob's length
(u64), its xxh3 (u64), and :data:`MAGIC`, ending exactly where the allocation table starts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.plain_parquet import MANIFEST_BYTES, check_plain_parquet, column_limit
from tamis.errors import BundleError, DamagedBundleError, first_line
from tamis.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FOOTER_SIZE", "MAGIC", "Trailer", "decode_trailer", "encode_trailer"]

MAGIC = b"TAMIS\x00\x00\x02"  # the last byte is the version: since 2 the digest covers sizes
FOOTER_SIZE = 16 + len(MAGIC)
_ROWS_AT_ONCE = 1 << 16


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
        ("example ids, paths and checksums", table.nbytes, column_limit(len(table))),
        ("a manifest", len(manifest), MANIFEST_BYTES),
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

    try:
        about = check_plain_parquet(memoryview(data), n_examples)
        manifest = Manifest.from_json(about.get(b"tamis", b"null"))
        digest = about.get(b"digest", b"").decode("ascii")
        ids, paths, checksums = _columns(data, n_examples)
        if not _distinct(ids):
            raise ValueError("repeated example ids")
    except MemoryError:  # Arrow's own is an ArrowException too
        raise
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise DamagedBundleError(
            subject,
            expected="a sound trailer (example ids, paths, checksums)",
            found=first_line(error),
            do="write the bundle again from its source",
        ) from error
    return Trailer(ids, paths, checksums, manifest, digest)


def _columns(
    data: bytes | memoryview, n_examples: int
) -> tuple[NDArray[np.int64], pa.ChunkedArray, NDArray[np.uint64]]:
    """Ids, paths and checksums; some rows at a time, which halves the memory that Arrow takes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids, checksums = np.empty(n_examples, np.int64), np.empty(n_examples, np.uint64)
    paths: list[pa.Array] = []
    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)), pre_buffer=False)
    at = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, use_threads=False):
        batch.validate(full=True)  # that paths are UTF-8
        if batch["example_id"].null_count or batch["checksum"].null_count:
            raise ValueError("missing ids or checksums")
        rows = slice(at, at + len(batch))
        ids[rows] = batch["example_id"].cast(pa.int64())
        checksums[rows] = batch["checksum"].cast(pa.uint64())
        paths.append(batch["path"].cast(pa.string()))
        at += len(batch)
    if at != n_examples:
        raise ValueError(f"{at} rows for {n_examples} examples")
    return ids, pa.chunked_array(paths, pa.string()), checksums


def _distinct(ids: NDArray[np.int64]) -> bool:
    ascending = ids if (ids[1:] > ids[:-1]).all() else np.sort(ids)
    return bool((ascending[1:] != ascending[:-1]).all())

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

from tamis.errors import BundleError, first_line
from tamis.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FOOTER_SIZE", "MAGIC", "Trailer", "decode_trailer", "encode_trailer"]

MAGIC = b"TAMIS\x00\x00\x01"
FOOTER_SIZE = 16 + len(MAGIC)


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
    """The trailer's bytes, footer included; equal trailers give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = trailer.paths
    if not isinstance(paths, pa.ChunkedArray | pa.Array):
        paths = pa.array(paths, pa.string())
    table = pa.table(
        {"example_id": trailer.example_ids, "path": paths, "checksum": trailer.checksums}
    ).replace_schema_metadata({"tamis": trailer.manifest.to_json(), "digest": trailer.digest})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    blob: bytes = sink.getvalue().to_pybytes()
    return blob + struct.pack("<QQ", len(blob), xxhash.xxh3_64_intdigest(blob)) + MAGIC


def decode_trailer(data: bytes | memoryview, n_examples: int, subject: object) -> Trailer:
    """Parse a trailer's Parquet blob (without the footer).

    Raises:
        BundleError: The blob is damaged or does not describe ``n_examples`` distinct examples.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
        if source.metadata.num_rows != n_examples:
            raise ValueError(f"{source.metadata.num_rows} rows for {n_examples} examples")
        table = source.read(columns=["example_id", "path", "checksum"])
        metadata = table.schema.metadata or {}
        manifest = Manifest.from_json(metadata.get(b"tamis", b"null"))
        digest = metadata.get(b"digest", b"").decode("ascii")
        ids = table["example_id"].cast(pa.int64()).to_numpy()
        checksums = table["checksum"].cast(pa.uint64()).to_numpy()
        paths = table["path"].cast(pa.string())
        if table["example_id"].null_count or table["checksum"].null_count:
            raise ValueError("missing ids or checksums")
        if len(np.unique(ids)) < n_examples:
            raise ValueError("repeated example ids")
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise BundleError(
            subject,
            expected="a sound trailer (example ids, paths, checksums)",
            found=first_line(error),
            do="write the bundle again from its source",
        ) from error
    return Trailer(ids, paths, checksums, manifest, digest)

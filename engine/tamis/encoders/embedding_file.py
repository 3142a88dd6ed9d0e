"""The file of a bundle's embeddings: an ``.npy`` that says what it holds.

After the array, where ``np.load`` does not look, stand a JSON object, its length as eight bytes
and eight bytes of a name. So the array and where it comes from are one file: they are replaced
together, and whoever saves another array under that name leaves nothing that describes this one.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import ScoreTableError, first_line

__all__ = [
    "Embeddings",
    "map_embeddings",
    "npy_header",
    "open_embeddings",
    "provenance_trailer",
]

_END = struct.Struct("<Q8s")  # bytes of JSON, name
_NAME = b"tamisemb"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a bundle's examples.

    Attributes:
        rows: (n, d) floats in the bundle's order, a read-only map of the file. Rows of examples
            that were left out as damaged are NaN.
        provenance: What ``tamis embed`` wrote of them: ``bundle``, ``encoder``, ``dtype``,
            ``batch_size``, ``loader``, ``device``, ``skipped`` and ``tamis``; None where somebody
            else made the file.
    """

    rows: NDArray[Any]
    provenance: dict[str, Any] | None


def npy_header(shape: tuple[int, int], dtype: DTypeLike) -> bytes:
    """What stands before the rows."""
    sink = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(sink, about)
    return sink.getvalue()


def provenance_trailer(provenance: dict[str, Any]) -> bytes:
    """What stands after the rows."""
    text = json.dumps(provenance, sort_keys=True).encode()
    return text + _END.pack(len(text), _NAME)


def open_embeddings(path: Path, bundle: Bundle) -> Embeddings:
    """Map embeddings of a bundle, made here or elsewhere.

    Raises:
        ScoreTableError: Not an ``.npy`` of floats with a row for each example, or, where the file
            says so, embeddings of another bundle.
    """
    return map_embeddings(path, bundle.n_examples, bundle.digest, of=bundle.path)


def map_embeddings(path: Path, n_examples: int, bundle_digest: str, *, of: object) -> Embeddings:
    """As :func:`open_embeddings`, for whoever knows no more of the bundle.

    Args:
        path: The file.
        n_examples: Of the bundle.
        bundle_digest: Its content digest.
        of: Names the bundle in errors.

    Raises:
        ScoreTableError: As there.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(rows, np.memmap):
            raise ValueError("an archive of several arrays")
        if rows.ndim != 2 or len(rows) != n_examples or rows.dtype.kind != "f":
            raise ValueError(f"an array {rows.shape} of {rows.dtype}")
        provenance = _provenance(path, rows.offset + rows.nbytes)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ScoreTableError(
            path,
            expected=f"an .npy of floats, ({n_examples}, d), one row per example in order",
            found=first_line(error),
            do=f"embed the images of {of} again, in its order",
        ) from error
    if provenance is not None and provenance.get("bundle") != bundle_digest:
        raise ScoreTableError(
            path,
            expected=f"embeddings of {of}",
            found="those of a bundle with other images, or with the same ones in another order",
            do="embed this bundle",
        )
    return Embeddings(rows, provenance)


def _provenance(path: Path, end_of_rows: int) -> dict[str, Any] | None:
    """The object after the rows, if there is one of ours."""
    with path.open("rb") as file:
        file.seek(end_of_rows)
        rest = file.read()
    if len(rest) < _END.size:
        return None
    length, name = _END.unpack(rest[-_END.size :])
    if name != _NAME or length != len(rest) - _END.size:
        return None
    found: dict[str, Any] = json.loads(rest[:length])
    return found

"""Virtual bundles: a list of examples and a reference to the bundle that holds their records.

A file of eight bytes per example that opens like the bundle that cutting would have written: the
same examples, order, ids and content digest. It needs its parent to stay where it is; cut a
virtual bundle to make it stand alone.

The file is :data:`MAGIC`, the xxh3 of all that follows, the lengths of both parts (u64 each), JSON,
and the example ids (i64). The JSON holds the manifest, the content digest, and the parent's digest
and path (absolute, and relative to the virtual bundle, so that both can move together).
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.arrays import n_repeated
from tamis.atomic import atomic_path
from tamis.bundles.assembly import refuse_inputs
from tamis.bundles.beton import open_beton
from tamis.bundles.bundle import Bundle
from tamis.errors import BundleError, DamagedBundleError, first_line
from tamis.manifest import Manifest

__all__ = ["MAGIC", "open_virtual", "restrict", "write_virtual"]

MAGIC = b"TAMISV\x00\x01"
_HEAD = struct.Struct("<8sQQQ")
_MOST_JSON = 64 << 20  # as much as a trailer's manifest may take


@dataclass(frozen=True)
class _Reference:
    """The parent: where it is and what it was; and what the examples make up."""

    absolute: str
    relative: str
    digest: str
    child_digest: str


def write_virtual(
    bundle: Bundle,
    positions: NDArray[np.int64],
    out: Path,
    manifest: Manifest,
    *,
    overwrite: bool = False,
) -> None:
    """Write the examples at ``positions`` of a bundle as a virtual bundle.

    Args:
        bundle: The parent; of a virtual one, its parent is referred to.
        positions: (k,) int64, in the order of the new bundle.
        out: The file to write.
        manifest: Its provenance.
        overwrite: Replace an existing ``out``.

    Raises:
        BundleError: The parent was written by plain FFCV: it holds no checksums that would prove
            it unchanged when the virtual bundle is opened.
        UsageError: An output that cannot be written.
    """
    if bundle.trailer is None:
        raise BundleError(
            bundle.path,
            expected="a bundle with checksums, to refer to",
            found="one written by plain FFCV",
            do="cut it without --virtual first (--side random --keep 1 copies all of it)",
        )
    refuse_inputs(out, [bundle])
    held = open_beton(bundle.file) if bundle.rows is not None else bundle
    child = restrict(bundle, positions)
    reference = _Reference(
        absolute=str(bundle.file.resolve()),
        relative=os.path.relpath(bundle.file.resolve(), out.resolve().parent),
        digest=held.digest,
        child_digest=child.digest,
    )
    text = json.dumps({"manifest": manifest.to_dict(), **asdict(reference)}).encode()
    lengths = struct.pack("<QQ", len(text), len(positions))
    body = lengths + text + child.example_ids.astype("<i8").tobytes()
    with atomic_path(out, overwrite=overwrite) as partial:
        partial.write_bytes(MAGIC + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body)


def restrict(bundle: Bundle, positions: NDArray[np.int64]) -> Bundle:
    """The bundle as if it held only the examples at ``positions``, in that order."""
    trailer = bundle.trailer
    if trailer is not None and bundle.paths is not None:
        trailer = replace(
            trailer,
            example_ids=trailer.example_ids[positions],
            paths=bundle.paths.take(positions),
            checksums=trailer.checksums[positions],
        )
    return replace(
        bundle,
        metadata=bundle.metadata[positions],
        extents=bundle.extents[positions],
        trailer=trailer,
        rows=positions if bundle.rows is None else bundle.rows[positions],
    )


def open_virtual(path: Path) -> Bundle:
    """Open a virtual bundle and its parent.

    Raises:
        BundleError: A damaged file, a parent that is missing, damaged, or another one than the
            virtual bundle was made from.
    """
    ids, reference, manifest = _read(path)
    parent = open_beton(_parent_path(path, reference))
    if parent.digest != reference.digest:
        raise BundleError(
            path,
            expected=f"its parent {parent.path} to be the bundle {reference.digest}",
            found=f"another one ({parent.digest})",
            do="restore that bundle, or cut again",
        )
    child = restrict(parent, parent.positions(ids))
    if child.trailer is None:
        raise _damaged(path, "a parent without checksums")
    trailer = replace(child.trailer, manifest=manifest, digest=reference.child_digest)
    child = replace(child, path=path, trailer=trailer)
    if child.digest != reference.child_digest:
        raise _damaged(path, "examples that do not match its digest")
    return child


def _read(path: Path) -> tuple[NDArray[np.int64], _Reference, Manifest]:
    data = path.read_bytes()
    if len(data) < _HEAD.size:
        raise _damaged(path, f"{len(data)} bytes")
    magic, checksum, n_text, n_ids = _HEAD.unpack_from(data)
    if len(data) != _HEAD.size + n_text + 8 * n_ids or n_text > _MOST_JSON:
        raise _damaged(path, "a file of another length than it says")
    if magic != MAGIC or xxhash.xxh3_64_intdigest(memoryview(data)[16:]) != checksum:
        raise _damaged(path, "bytes that do not match its checksum")
    ids = np.frombuffer(data, "<i8", offset=_HEAD.size + n_text).astype(np.int64)
    if not n_ids or n_repeated(ids):
        raise _damaged(path, "repeated example ids" if n_ids else "no example ids")
    try:
        found = json.loads(data[_HEAD.size : _HEAD.size + n_text])
        manifest = Manifest.from_json(json.dumps(found.pop("manifest")))
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError("an incomplete reference to its parent")
        return ids, _Reference(**found), manifest
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path, first_line(error)) from error


def _parent_path(path: Path, reference: _Reference) -> Path:
    candidates = [path.resolve().parent / reference.relative, Path(reference.absolute)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise BundleError(
        path,
        expected=f"its parent at {candidates[1]}",
        found="no file there",
        do="put the parent back: a virtual bundle holds no images",
    )


def _damaged(path: Path, found: str) -> DamagedBundleError:
    return DamagedBundleError(
        path,
        expected="a virtual bundle",
        found=found,
        do="write it again with: tamis cut --virtual",
    )

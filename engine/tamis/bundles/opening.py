"""Opening what a user names as a bundle: a .beton file, or a virtual bundle."""

from __future__ import annotations

from pathlib import Path

from tamis.bundles.beton import open_beton
from tamis.bundles.bundle import Bundle
from tamis.bundles.virtual import MAGIC, open_virtual
from tamis.errors import BundleError

__all__ = ["open_bundle"]


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle after checking its structure; of a virtual one, its parent's too.

    Raises:
        BundleError: The file is missing, truncated, or inconsistent anywhere in its header,
            descriptors, metadata, pointers, pages, allocation table or trailer; or a virtual
            bundle whose parent is not what it was.
    """
    path = Path(path)
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    if start.startswith(b"PAR1"):
        raise BundleError(
            path,
            expected="a bundle",
            found="a Parquet file",
            do="a selection is applied with: tamis cut BUNDLE OUT.beton --selection FILE",
        )
    return open_virtual(path) if start == MAGIC else open_beton(path)

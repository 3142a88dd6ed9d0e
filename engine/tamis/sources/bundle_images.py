"""The images of a bundle, to be stored in another way: smaller, as pixels, with a trailer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import RAW_MODE, FieldType
from tamis.bundles.opening import open_bundle
from tamis.errors import SourceError
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.fingerprint import fingerprint_files
from tamis.sources.shared_file import SharedFile

__all__ = ["BundleImages", "open_bundle_images"]


class BundleImages:
    """A bundle with one image and one label per example; its ids are kept.

    Attributes:
        classes: The bundle's class names.
        largest: Bytes of its largest record.
        n_bytes: Bytes of all records.
        lineage: The bundle and its ancestors.
        fingerprint: Hash of the file's name, size and modification time.
    """

    def __init__(self, bundle: Bundle, classes: tuple[str, ...] | None = None) -> None:
        self._bundle, self._file = bundle, SharedFile(bundle.file)
        self.classes = classes or bundle.classes
        sizes = bundle.extents[:, 0, 1]
        self.largest: int | None = int(sizes.max())
        self.n_bytes: int | None = int(sizes.sum())
        self.lineage: tuple[Parent, ...] = bundle.lineage
        self.fingerprint = fingerprint_files([bundle.path, bundle.file])

    def describe(self) -> dict[str, Any]:
        """Kind and name; the digest stands with the parents."""
        return {"kind": "bundle", "name": self._bundle.path.name}

    def __len__(self) -> int:
        return self._bundle.n_examples

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The examples from position ``start``; each is read when it is loaded."""
        bundle = self._bundle
        images = bundle.metadata[f"f{bundle.image_field}"]
        for position in range(start, bundle.n_examples):
            row = images[position]
            shape = (int(row["height"]), int(row["width"]), 3)
            offset, size = bundle.extents[position, 0].tolist()
            is_raw = bool(row["mode"] == RAW_MODE)
            yield SourceItem(
                bundle.paths[position].as_py() if bundle.paths is not None else None,
                int(bundle.labels[position]),
                partial(self._load, offset, size, shape if is_raw else None),
                int(bundle.example_ids[position]),
            )

    def _load(
        self, offset: int, size: int, shape: tuple[int, int, int] | None
    ) -> bytes | NDArray[np.uint8]:
        data = self._file.read(offset, size)
        return data if shape is None else np.frombuffer(data, np.uint8).reshape(shape)


def open_bundle_images(path: Path, *, classes: tuple[str, ...] | None = None) -> BundleImages:
    """Open a bundle as a source.

    Args:
        path: The bundle.
        classes: Class names, for a bundle that names none.

    Raises:
        BundleError: An unsound bundle.
        SourceError: Other fields than one image and one integer, which would be lost; or classes
            for a bundle that names its own.
    """
    bundle = open_bundle(path)
    kinds = sorted(field.type for field in bundle.fields)
    if kinds != [FieldType.INT, FieldType.RGB_IMAGE]:
        raise SourceError(
            path,
            expected="a bundle with one image and one integer label",
            found=", ".join(f"{field.name}: {field.type.name.lower()}" for field in bundle.fields),
            do="use tamis cut, which keeps every field",
        )
    if classes and bundle.classes and classes != bundle.classes:
        raise SourceError(
            path,
            expected="no --classes, or the bundle's own",
            found="another class list",
            do="leave --classes out: the bundle names its classes",
        )
    if classes and bundle.n_classes > len(classes):
        raise SourceError(
            path,
            expected=f"labels from 0 to {len(classes) - 1}",
            found=f"the label {bundle.n_classes - 1}",
            do="give the full class list",
        )
    return BundleImages(bundle, classes)

"""An opened bundle: its tables in memory, its payload mapped.

:mod:`tamis.bundles.beton` makes one of a file, after checking it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tamis.arrays import positions_of
from tamis.bundles.digest import content_digest, span_checksums
from tamis.bundles.layout import Field, FieldType
from tamis.bundles.spans import Span, map_spans
from tamis.bundles.trailer import Trailer
from tamis.devices import n_cores
from tamis.errors import BundleError, first_line
from tamis.manifest import Manifest, Parent

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bundle", "file_identity"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bundle:
    """An opened, structurally sound bundle. The tables are in memory, the payload is mapped.

    Attributes:
        path: The file.
        page_size: Bytes per page.
        fields: The fields of every example.
        metadata: (n,) structured array, FFCV's metadata table (read-only).
        extents: (n, payload fields, 2) int64: offset and size of each payload.
        payload_end: First byte after the payload area (trailer or allocation table).
        data: The whole file as a read-only (bytes,) uint8 memory map.
        trailer: What the bundle says about itself, or None if plain FFCV wrote it.
        identity: Device, inode, size and time of the file when it was opened.
        file: The file that holds the records; ``path``, unless the bundle is virtual.
        rows: (n,) int64 rows of that file, where the bundle is virtual.
    """

    path: Path
    page_size: int
    fields: tuple[Field, ...]
    # Tables of a million rows say nothing in a traceback, and a map of a file that somebody has
    # truncated kills whoever prints it.
    metadata: NDArray[Any] = field(repr=False)
    extents: NDArray[np.int64] = field(repr=False)
    payload_end: int
    data: NDArray[np.uint8] = field(repr=False)
    trailer: Trailer | None = field(repr=False)
    identity: tuple[int, ...]
    file: Path
    rows: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return len(self.metadata)

    @property
    def manifest(self) -> Manifest | None:
        """Provenance, or None if plain FFCV wrote the bundle."""
        return self.trailer.manifest if self.trailer else None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order where the source named them."""
        return self.manifest.classes if self.manifest else None

    @cached_property
    def example_ids(self) -> NDArray[np.int64]:
        """(n,) int64; 0…n-1 where the bundle does not say."""
        return self.trailer.example_ids if self.trailer else np.arange(self.n_examples)

    @property
    def paths(self) -> pa.ChunkedArray | None:
        """n source paths (nulls allowed), or None."""
        return self.trailer.paths if self.trailer else None

    @cached_property
    def payload_fields(self) -> tuple[int, ...]:
        """Indices of the fields with bytes in the pages."""
        return tuple(i for i, field in enumerate(self.fields) if field.has_payload)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) int64 class labels: the Int field ``label``, else the first Int field.

        Raises:
            BundleError: The bundle has no Int field.
        """
        index = self._field(FieldType.INT, "label", "an Int field with the labels")
        return self.metadata[f"f{index}"].astype(np.int64)

    @cached_property
    def n_classes(self) -> int:
        """Classes named in the manifest, or one more than the largest label."""
        if self.labels.min(initial=0) < 0:
            raise BundleError(
                self.path,
                expected="labels from 0",
                found=f"the label {self.labels.min()}",
                do="write the bundle again with labels 0, 1, 2, …",
            )
        return max(len(self.classes or ()), int(self.labels.max(initial=0)) + 1)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """(n_classes,) names in label order; a label's number where it has none."""
        named = self.classes or ()
        return (*named, *(str(label) for label in range(len(named), self.n_classes)))

    @cached_property
    def image_field(self) -> int:
        """Index of the image field ``image``, else of the first image field.

        Raises:
            BundleError: The bundle has no image field.
        """
        return self._field(FieldType.RGB_IMAGE, "image", "an image field")

    def _field(self, kind: FieldType, name: str, expected: str) -> int:
        """Index of the field of that type with that name, else of the first of that type."""
        fitting = [i for i, field in enumerate(self.fields) if field.type is kind]
        if not fitting:
            raise BundleError(
                self.path,
                expected=expected,
                found=", ".join(f"{f.name}: {f.type.name.lower()}" for f in self.fields),
                do="write the bundle with one, or give another bundle",
            )
        named = [i for i in fitting if self.fields[i].name == name]
        return (named or fitting)[0]

    def image_record(self, position: int) -> tuple[int, int, int, NDArray[np.uint8]]:
        """Mode, width, height and encoded bytes (a view into the map) of one image."""
        index = self.image_field
        row = self.metadata[f"f{index}"][position]
        offset, size = self.extents[position, self.payload_fields.index(index)]
        record = self.data[offset : offset + size]
        return int(row["mode"]), int(row["width"]), int(row["height"]), record

    def map_spans(self, work: Callable[[Span], _T], workers: int | None = None) -> Generator[_T]:
        """Read every example once on threads; see :func:`tamis.bundles.spans.map_spans`.

        Args:
            work: Called on a thread with each span.
            workers: Threads; None takes all cores.

        Raises:
            BundleError: The file was replaced after it was opened, or cannot be read.
        """
        try:
            file = self.file.open("rb")
        except OSError as error:
            raise self.changed(first_line(error)) from error
        with file:
            self.check_unchanged(os.fstat(file.fileno()))
            threads = workers or n_cores()
            yield from map_spans(self.file, file.fileno(), self.data, self.extents, work, threads)

    def check_unchanged(self, stat: os.stat_result) -> None:
        """Make sure that a file which is opened again is the one that was checked.

        Raises:
            BundleError: It was replaced or written to.
        """
        if file_identity(stat) != self.identity:
            raise self.changed("another one in its place")

    def changed(self, found: str) -> BundleError:
        """The error that says that something happened to the file."""
        return BundleError(
            self.file,
            expected="the file that was opened before",
            found=found,
            do="something changed it meanwhile: restore it and start again",
        )

    @cached_property
    def checksums(self) -> NDArray[np.uint64]:
        """(n,) uint64: from the trailer, or computed by reading every record once."""
        if self.trailer:
            return self.trailer.checksums
        checksums = np.empty(self.n_examples, np.uint64)
        with closing(self.map_spans(lambda span: (span.positions, span_checksums(span)))) as parts:
            for positions, values in parts:
                checksums[positions] = values
        return checksums

    @cached_property
    def digest(self) -> str:
        """Digest of the content: fields, ids, metadata and record checksums, in order.

        Where records lie in the file does not matter. O(n) with a trailer; without one every
        record is read once.
        """
        sizes = self.extents[..., 1]
        return content_digest(self.fields, self.metadata, sizes, self.example_ids, self.checksums)

    @property
    def lineage(self) -> tuple[Parent, ...]:
        """This bundle and its ancestors, nearest first."""
        older = self.manifest.parents if self.manifest else ()
        return (Parent(self.digest, self.n_examples, str(self.path), not older), *older)

    def positions(self, example_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the given ids stand in this bundle, in the order given.

        Raises:
            BundleError: An id that the bundle does not hold.
        """
        example_ids = np.asarray(example_ids, np.int64)
        positions, missing = positions_of(example_ids, self.example_ids)
        if missing.any():
            raise BundleError(
                self.path,
                expected="every selected example id in the bundle",
                found=f"{int(missing.sum())} that it does not hold, the first is"
                f" {int(example_ids[missing][0])}",
                do="use a selection made from this bundle or from one that contains it",
            )
        return positions


def file_identity(stat: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)

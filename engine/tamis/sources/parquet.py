"""Parquet files in Hugging Face's image layout: struct<bytes, path> and an integer label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.errors import SourceError, first_line
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.fingerprint import fingerprint_files

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ParquetImages", "open_parquet"]

_SPLITS = {"train", "test", "validation"}  # as Hugging Face names the files of a dataset
_ROWS_AT_ONCE = 512  # about 60 MB of ImageNet


@dataclass(frozen=True)
class ParquetImages:
    """One Parquet file, or the files of a folder in name order.

    Attributes:
        files: The files.
        image: Name of the image column.
        label: Name of the label column.
        n_rows: Rows of all files.
        classes: Class names from Hugging Face's schema metadata or from ``--classes``.
        rows_before: Rows in the files before each file.
    """

    files: tuple[Path, ...]
    image: str
    label: str
    n_rows: int
    classes: tuple[str, ...] | None
    rows_before: tuple[int, ...]
    largest: int | None = None
    n_bytes: int | None = None
    lineage: tuple[Parent, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and modification times."""
        return fingerprint_files(self.files)

    def describe(self) -> dict[str, Any]:
        """Kind, files and columns."""
        names = [file.name for file in self.files]
        return {"kind": "parquet", "files": names, "image": self.image, "label": self.label}

    def __len__(self) -> int:
        return self.n_rows

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The rows from position ``start``; row groups before it are not read."""
        import pyarrow.parquet as pq

        columns = [f"{self.image}.bytes", f"{self.image}.path", self.label]
        for file, before in zip(self.files, self.rows_before, strict=True):
            with pq.ParquetFile(file) as source:
                groups, skip = _groups_from(source, max(start - before, 0))
                batches = source.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=columns)
                while (rows := self._next(file, batches)) is not None:
                    if skip < len(rows):
                        yield from self._items(file, rows.slice(skip))
                    skip = max(skip - len(rows), 0)

    def _next(self, file: Path, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        import pyarrow as pa

        try:
            rows = next(batches, None)
            if rows is not None:
                rows.validate(full=True)  # that paths are UTF-8
            return rows
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                file,
                expected="sound Parquet pages",
                found=first_line(error),
                do="download the file again",
            ) from error

    def _items(self, file: Path, rows: pa.RecordBatch) -> Iterator[SourceItem]:
        image, labels = rows.column(self.image), rows.column(self.label)
        known = len(self.classes) if self.classes else np.iinfo(np.int32).max
        for data, path, label in zip(
            image.field("bytes").to_pylist(),
            image.field("path").to_pylist(),
            labels.to_pylist(),
            strict=True,
        ):
            if label is None or not 0 <= label < known:
                raise SourceError(
                    f"{file}: {path}",
                    expected=f"a label from 0 to {known - 1}",
                    found=f"the unknown class {label}",
                    do="correct the label column or give the full class list with --classes",
                )
            yield SourceItem(path, label, partial(bytes, data or b""))


def _groups_from(source: pq.ParquetFile, start: int) -> tuple[list[int], int]:
    """The row groups that hold rows from ``start`` on, and how many of their rows to skip."""
    groups: list[int] = []
    skip = start
    for group in range(source.metadata.num_row_groups):
        rows = source.metadata.row_group(group).num_rows
        if groups or rows > skip:
            groups.append(group)
        else:
            skip -= rows
    return groups, skip


def open_parquet(
    path: Path,
    files: tuple[Path, ...] | None = None,
    *,
    classes: tuple[str, ...] | None = None,
) -> ParquetImages:
    """Read the schemas of one Parquet file or of a folder of them.

    Args:
        path: The file or the folder; what messages name.
        files: The files of it, in order; None: all.
        classes: Class names, for files that name none.

    Raises:
        SourceError: Not Parquet, schemas that differ, or no image and label columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if files is None:
        files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
    splits = sorted({file.stem.partition("-")[0] for file in files} & _SPLITS)
    if len(splits) > 1:
        raise SourceError(
            path,
            expected="the files of one split",
            found=" and ".join(splits),
            do=f"convert them one by one, e.g. '{files[0].parent}/{splits[0]}*.parquet'",
        )
    before, n_rows, first = [], 0, None
    for file in files:
        try:
            with pq.ParquetFile(file) as source:
                schema, rows = source.schema_arrow, source.metadata.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise SourceError(
                file,
                expected="a Parquet file",
                found=first_line(error),
                do="download it again or check the path",
            ) from error
        if first is not None and not schema.equals(first):
            raise SourceError(
                file,
                expected=f"the schema of {files[0].name}",
                found="another one",
                do="convert the files of each schema on their own",
            )
        before.append(n_rows)
        first, n_rows = schema, n_rows + rows
    if first is None:
        raise SourceError(path, expected="Parquet files", found="none", do="check the path")
    image, label = _columns(first, path)
    named = _class_names(first, label)
    if classes and named and classes[: len(named)] != named:
        odd = next(a for a, b in zip(named, (*classes, None), strict=False) if a != b)
        raise SourceError(
            path,
            expected=f"a class list with the file's own labels ({odd!r} is {named.index(odd)})",
            found="another order or other names",
            do="leave --classes out: the file names its classes",
        )
    return ParquetImages(files, image, label, n_rows, classes or named, tuple(before))


def _columns(schema: pa.Schema, path: Path) -> tuple[str, str]:
    import pyarrow as pa

    images, labels = [], []
    for field in schema:
        if pa.types.is_struct(field.type):
            if {"bytes", "path"} <= {child.name for child in field.type}:
                images.append(field.name)
        elif pa.types.is_integer(field.type):
            labels.append(field.name)
    for wanted, names in (("image", images), ("label", labels)):
        names.sort(key=lambda name: name != wanted)
    if not images or not labels:
        shape = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise SourceError(
            path,
            expected="a column image: struct<bytes, path> and an integer column label",
            found=shape[:200],
            do="export the dataset with Hugging Face's Image feature",
        )
    return images[0], labels[0]


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    try:
        raw = json.loads((schema.metadata or {})[b"huggingface"])
        names = raw["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return None  # plain Parquet: labels without names
    return tuple(str(name) for name in names)

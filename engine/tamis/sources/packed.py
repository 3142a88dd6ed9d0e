"""Encoded images that lie at known places in larger files."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.fingerprint import fingerprint_files
from tamis.sources.shared_file import SharedFile

__all__ = ["PackedImages", "Packing"]


@dataclass(frozen=True)
class PackedImages:
    """Images inside files that stay packed; about 150 bytes of memory per image.

    Attributes:
        about: What :meth:`describe` says.
        files: The files that hold images.
        paths: n names for people; bytes that are not UTF-8 as lone surrogates.
        file_numbers: (n,) int64 position in ``files``.
        offsets: (n,) int64 first byte in the file.
        sizes: (n,) int64 bytes.
        labels: (n,) int64.
        classes: Class names in label order, or None.
    """

    about: dict[str, Any]
    files: tuple[Path, ...]
    paths: list[str]
    file_numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...] | None
    lineage: tuple[Parent, ...] = ()

    @property
    def largest(self) -> int | None:
        """Bytes of the largest image."""
        return int(self.sizes.max(initial=0))

    @property
    def n_bytes(self) -> int | None:
        """Bytes of all images."""
        return int(self.sizes.sum())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and times, and of which images they hold for what."""
        state = xxhash.xxh3_128(fingerprint_files(self.files).encode())
        for column in (self.file_numbers, self.offsets, self.sizes, self.labels):
            state.update(column.data)
        return state.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Kind and file names."""
        return dict(self.about)

    def __len__(self) -> int:
        return len(self.paths)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The images from position ``start``; each is read when it is loaded.

        A file is opened when its first image comes, and closed with its last one.
        """
        opened = -1
        for position in range(start, len(self)):
            number = int(self.file_numbers[position])
            if number != opened:
                file, opened = SharedFile(self.files[number]), number
            path, label = self.paths[position], int(self.labels[position])
            place = int(self.offsets[position]), int(self.sizes[position])
            shown = path if path.isascii() else _readable(path)
            yield SourceItem(shown, label, partial(file.read, *place))


@dataclass
class Packing:
    """Collects the images of :class:`PackedImages` one by one."""

    paths: list[str] = field(default_factory=list)
    file_numbers: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))

    def add(self, path: str, label: int, offset: int, size: int, file_number: int = 0) -> None:
        """Append an image."""
        self.paths.append(path)
        self.file_numbers.append(file_number)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.labels.append(label)

    def finish(
        self, about: dict[str, Any], files: tuple[Path, ...], classes: tuple[str, ...] | None
    ) -> PackedImages:
        """The source; nothing may be added afterwards."""
        return PackedImages(
            about,
            files,
            self.paths,
            np.frombuffer(self.file_numbers, np.int64),
            np.frombuffer(self.offsets, np.int64),
            np.frombuffer(self.sizes, np.int64),
            np.frombuffer(self.labels, np.int64),
            classes,
        )


def _readable(path: str) -> str:
    """Valid Unicode: bytes that are not UTF-8 are written out, as image folders do."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")

"""MNIST's IDX files, plain or gzipped: grey images and their labels.

The layout is described at the foot of Y. LeCun's MNIST page: two zero bytes, the type (8 is
uint8), the number of sides, the sides as big-endian 32-bit numbers, then the data by rows.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import SourceError, UsageError, first_line
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.fingerprint import fingerprint_files

__all__ = ["IdxImages", "is_idx", "open_idx"]

_MARKS = {"images-idx3": "labels-idx1", "images.idx3": "labels.idx1"}
_STEMS = {"train": "train", "test": "t10k"}
_MAX_SIDE = 4096  # bounds what one image of a hostile header takes
_MAX_IMAGES = 50_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class IdxImages:
    """An images file with its labels file; images are streamed.

    Attributes:
        images: The images file.
        label_file: The labels file.
        name: What paths start with: "train", "test", or the images file's own name.
        height: Pixels.
        width: Pixels.
        labels: (n,) uint8.
        classes: Class names in label order, or None.
    """

    images: Path
    label_file: Path
    name: str
    height: int
    width: int
    labels: NDArray[np.uint8]
    classes: tuple[str, ...] | None
    lineage: tuple[Parent, ...] = ()

    @property
    def largest(self) -> int | None:
        """Bytes of an image's RGB pixels."""
        return 3 * self.height * self.width

    @property
    def n_bytes(self) -> int | None:
        """Bytes of all RGB pixels."""
        return 3 * self.height * self.width * len(self)

    @property
    def fingerprint(self) -> str:
        """Hash of both files' names, sizes and modification times."""
        return fingerprint_files([self.images, self.label_file])

    def describe(self) -> dict[str, Any]:
        """Kind and images file."""
        return {"kind": "idx", "name": self.images.name}

    def __len__(self) -> int:
        return len(self.labels)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The images from position ``start``; in a gzipped file those before are inflated."""
        shape = self.height, self.width
        size = self.height * self.width
        at_once = max(_BLOCK // size, 1)
        with _opened(self.images) as file:
            _header(file, 3, self.images)
            file.seek(min(start, len(self)) * size, 1)
            for first in range(start, len(self), at_once):
                count = min(at_once, len(self) - first)
                block = file.read(count * size)
                if len(block) < count * size:
                    held = first + len(block) // size
                    raise _unfit(self.images, f"{len(self)} images", f"{held}: it is cut off")
                for row in range(count):
                    path, label = f"{self.name}/{first + row:05d}", int(self.labels[first + row])
                    yield SourceItem(path, label, partial(_grey, block, row * size, shape))
            if file.read(1):
                raise _unfit(self.images, f"{len(self)} images", "more data after them")


def is_idx(path: Path) -> bool:
    """Whether a path is an IDX images file by its name, or a folder with MNIST's files."""
    if path.is_dir():
        return any(_images_file(path, stem) for stem in _STEMS.values())
    return path.is_file() and any(mark in path.name for mark in _MARKS)


def open_idx(
    path: Path, *, part: str | None = None, classes: tuple[str, ...] | None = None
) -> IdxImages:
    """Read the headers and the labels.

    Args:
        path: An images file, or a folder with ``train-images-idx3-ubyte`` and
            ``t10k-images-idx3-ubyte`` (also "images.idx3", also with .gz).
        part: For a folder "train" or "test".
        classes: The class list; None leaves the labels without names.

    Raises:
        SourceError: A file that is missing, cut or no IDX file; other numbers of images and
            labels; a label outside the class list.
        UsageError: A folder without a part, or with another one.
    """
    if path.is_dir():
        images, name = _of_part(path, part)
    else:
        mark = next(mark for mark in _MARKS if mark in path.name)
        stem = path.name.partition(mark)[0].rstrip("-_.") or path.name
        images, name = path, "test" if stem == "t10k" else stem
    label_file = _label_file(images)
    with _opened(images) as file:
        n_images, height, width = _header(file, 3, images)
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE and 1 <= n_images <= _MAX_IMAGES):
        raise _unfit(images, f"images of sides up to {_MAX_SIDE}", f"{n_images} {height} × {width}")
    stored, size = images.stat().st_size, 16 + n_images * height * width
    if images.suffix != ".gz" and stored != size:
        raise _unfit(images, f"{size} bytes for {n_images} images", f"{stored} bytes")
    labels = _labels(label_file, n_images)
    if classes is not None and labels.max() >= len(classes):
        position = int(np.argmax(labels >= len(classes)))
        raise SourceError(
            f"{label_file}: {name}/{position:05d}",
            expected=f"a label from 0 to {len(classes) - 1}",
            found=f"the unknown class {labels[position]}",
            do="give the full class list with --classes",
        )
    return IdxImages(images, label_file, name, height, width, labels, classes)


def _of_part(folder: Path, part: str | None) -> tuple[Path, str]:
    if part not in _STEMS:
        raise UsageError(
            folder,
            expected=f"a part: {folder}:train or {folder}:test",
            found="none" if part is None else repr(part),
            do="add one of them",
        )
    images = _images_file(folder, _STEMS[part])
    if images is None:
        raise SourceError(
            folder,
            expected=f"{_STEMS[part]}-images-idx3-ubyte or the same with .gz",
            found="none",
            do="download the missing file",
        )
    return images, part


def _images_file(folder: Path, stem: str) -> Path | None:
    names = [f"{stem}-{mark}-ubyte{end}" for mark in _MARKS for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _label_file(images: Path) -> Path:
    plain = images.name.removesuffix(".gz")
    for mark, other in _MARKS.items():
        plain = plain.replace(mark, other)
    ends = (".gz", "") if images.suffix == ".gz" else ("", ".gz")
    for end in ends:
        if (file := images.with_name(plain + end)).is_file():
            return file
    raise SourceError(
        images,
        expected=f"its labels in {plain} beside it",
        found="no such file",
        do="download the missing file",
    )


def _labels(path: Path, n_images: int) -> NDArray[np.uint8]:
    with _opened(path) as file:
        (n_labels,) = _header(file, 1, path)
        if n_labels != n_images:
            raise _unfit(path, f"labels of {n_images} images", f"{n_labels}")
        # In blocks, so that memory follows what the file holds, not what its header says.
        data = bytearray()
        while len(data) <= n_labels and (block := file.read(_BLOCK)):
            data += block
    if len(data) != n_labels:
        found = f"{len(data)}" if len(data) < n_labels else "more data after them"
        raise _unfit(path, f"{n_labels} labels", found)
    return np.frombuffer(bytes(data), np.uint8)


def _header(file: io.BufferedIOBase, n_sides: int, path: Path) -> tuple[int, ...]:
    raw = file.read(4 + 4 * n_sides)
    if len(raw) < 4 + 4 * n_sides or raw[:4] != bytes((0, 0, 8, n_sides)):
        raise _unfit(path, f"an IDX file of uint8 with {n_sides} sides", f"it starts {raw[:4]!r}")
    return struct.unpack_from(f">{n_sides}I", raw, 4)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise _unfit(path, "a readable file", first_line(error)) from error


def _grey(block: bytes, offset: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    grey = np.frombuffer(block, np.uint8, shape[0] * shape[1], offset).reshape(*shape, 1)
    return np.repeat(grey, 3, axis=2)


def _unfit(path: Path, expected: str, found: str) -> SourceError:
    return SourceError(path, expected=expected, found=found, do="download it again")

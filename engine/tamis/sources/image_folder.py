"""Folders of images: one sub-folder per class, or any folder with a label file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.errors import SourceError, first_line
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.labels import class_index, index_labels, read_labels

__all__ = ["EXTENSIONS", "ImageFolder", "open_image_folder"]

# torchvision's IMG_EXTENSIONS, so that both see the same files.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """A listed folder.

    Attributes:
        root: The folder.
        paths: Relative paths, classes sorted, then paths, as torchvision orders them.
        labels: (n,) int64.
        classes: Class names in label order.
        largest: Bytes of the largest file.
        n_bytes: Bytes of all files.
        fingerprint: Hash of all paths, labels, sizes and modification times.
    """

    root: Path
    paths: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...] | None
    largest: int | None
    n_bytes: int | None
    fingerprint: str
    lineage: tuple[Parent, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Kind and folder name."""
        return {"kind": "image_folder", "name": self.root.name}

    def __len__(self) -> int:
        return len(self.paths)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The files from position ``start``; each is opened when it is loaded."""
        root = str(self.root)
        for position in range(start, len(self.paths)):
            path = self.paths[position]
            shown = path if path.isascii() else _readable(path)
            yield SourceItem(shown, int(self.labels[position]), partial(_read, f"{root}/{path}"))


def open_image_folder(
    root: Path, *, classes: tuple[str, ...] | None = None, label_file: Path | None = None
) -> ImageFolder:
    """List a folder of images.

    Without a label file each sub-folder is a class (torchvision's ImageFolder: classes sorted by
    name, then files by path, sub-folders included). With one, exactly the files that it names.

    Args:
        root: The folder.
        classes: The class list to use; without it the sub-folders' or label file's classes.
        label_file: See :func:`tamis.sources.labels.read_labels`.

    Raises:
        SourceError: No class folders, no images, an unknown class, or a listed file that is
            missing.
    """
    if label_file is not None:
        return _from_labels(root, classes, label_file)
    found = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not found:
        raise SourceError(
            root,
            expected="one sub-folder per class with images in it",
            found="no sub-folders",
            do="sort the images into class folders, or name their classes with --labels FILE",
        )
    known = classes or found
    paths: list[str] = []
    labels: list[int] = []
    for name in found:
        label = class_index(name, known, root / name) if classes else found.index(name)
        images = _images_below(root, name)
        if not images:
            raise SourceError(
                root / name,
                expected="images (" + " ".join(EXTENSIONS) + ")",
                found="an empty class",
                do="fill the folder or remove it",
            )
        paths += images
        labels += [label] * len(images)
    return _folder(root, paths, labels, known)


def _images_below(root: Path, name: str) -> list[str]:
    images = []
    walk = os.walk(root / name, followlinks=True, onerror=_unlistable)
    for folder, _, names in sorted(walk):
        relative = Path(folder).relative_to(root)
        images += [
            str(relative / file) for file in sorted(names) if file.lower().endswith(EXTENSIONS)
        ]
    return images


def _unlistable(error: OSError) -> None:
    raise SourceError(
        error.filename,
        expected="a folder that can be listed",
        found=first_line(error),
        do="mend its permissions: its images would be left out silently",
    )


def _from_labels(root: Path, classes: tuple[str, ...] | None, label_file: Path) -> ImageFolder:
    named = read_labels(label_file)
    labels, known = index_labels(named, classes, label_file)
    for path in named:
        inside = not Path(path).is_absolute() and ".." not in Path(path).parts
        if not inside or not (root / path).is_file():
            raise SourceError(
                label_file,
                expected=f"files inside {root}",
                found=f"{path!r}, which is not there",
                do="correct the path or remove the line",
            )
    return _folder(root, list(named), labels, known)


def _folder(
    root: Path, paths: list[str], labels: list[int], classes: tuple[str, ...] | None
) -> ImageFolder:
    """Look at every file; one that cannot be looked at is met again when it is read."""
    largest = total = 0
    state = xxhash.xxh3_128()
    for path, label in zip(paths, labels, strict=True):
        try:
            stat = os.stat(f"{root}/{path}")  # noqa: PTH116
        except OSError:
            continue
        largest, total = max(largest, stat.st_size), total + stat.st_size
        known = f"{path}\0{label} {stat.st_size} {stat.st_mtime_ns}\0"
        state.update(known.encode("utf-8", "surrogateescape"))
    numbers = np.array(labels, np.int64)
    return ImageFolder(root, paths, numbers, classes, largest, total, state.hexdigest())


def _readable(path: str) -> str:
    """Valid Unicode: bytes that are not UTF-8 are written out."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _read(path: str) -> bytes:
    # Unlike Path.read_bytes, without a Path for each of a million files, and without a buffer.
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()

"""Folders of images: one sub-folder per class, or any folder with a label file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tamis.errors import SourceError
from tamis.sources.base import SourceItem
from tamis.sources.labels import class_index, read_labels

__all__ = ["EXTENSIONS", "ImageFolder", "open_image_folder"]

# torchvision's IMG_EXTENSIONS, so that both see the same files.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


_MAX_LABEL = 2**31 - 1  # score tables hold labels as int32


@dataclass(frozen=True)
class ImageFolder:
    """A listed folder.

    Attributes:
        root: The folder.
        files: Relative paths with labels, classes sorted, then paths, as torchvision orders them.
        classes: Class names in label order.
        largest: Bytes of the largest file.
    """

    root: Path
    files: tuple[tuple[str, int], ...]
    classes: tuple[str, ...] | None
    largest: int | None

    def describe(self) -> dict[str, Any]:
        """Kind and folder name."""
        return {"kind": "image_folder", "name": self.root.name}

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[SourceItem]:
        for path, label in self.files:
            shown = path.encode("utf-8", "backslashreplace").decode("utf-8")
            yield SourceItem(shown, label, partial((self.root / path).read_bytes))


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
    files: list[tuple[str, int]] = []
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
        files.extend((path, label) for path in images)
    return ImageFolder(root, tuple(files), known, _largest(root, files))


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
        found=error.strerror or str(error),
        do="mend its permissions: its images would be left out silently",
    )


def _from_labels(root: Path, classes: tuple[str, ...] | None, label_file: Path) -> ImageFolder:
    labels = read_labels(label_file)
    known = classes
    if known is None and not all(name.isdecimal() for name in labels.values()):
        known = tuple(sorted(set(labels.values())))
    files = []
    for path, name in labels.items():
        inside = not Path(path).is_absolute() and ".." not in Path(path).parts
        if not inside or not (root / path).is_file():
            raise SourceError(
                label_file,
                expected=f"files inside {root}",
                found=f"{path!r}, which is not there",
                do="correct the path or remove the line",
            )
        label = class_index(name, known, f"{label_file}: {path}") if known else int(name)
        if label > _MAX_LABEL:
            raise SourceError(
                f"{label_file}: {path}",
                expected=f"a label up to {_MAX_LABEL}",
                found=name[:30],
                do="number the classes from 0",
            )
        files.append((path, label))
    return ImageFolder(root, tuple(files), known, _largest(root, files))


def _largest(root: Path, files: list[tuple[str, int]]) -> int:
    """Bytes of the largest file; one that cannot be looked at is met again when it is read."""
    sizes = [0]
    for path, _ in files:
        with suppress(OSError):
            sizes.append((root / path).stat().st_size)
    return max(sizes)

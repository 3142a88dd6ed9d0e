"""Images in one .tar: class folders, images with a label file, class tars, or samples."""

from __future__ import annotations

import posixpath
from pathlib import Path

from tamis.errors import SourceError, UsageError
from tamis.sources.image_folder import EXTENSIONS
from tamis.sources.imagenet_tar import pack_class_tars
from tamis.sources.labels import class_index, index_labels, read_labels
from tamis.sources.packed import PackedImages, Packing
from tamis.sources.tar import TarIndex, index_tar, open_tar_file
from tamis.sources.webdataset import holds_samples, pack_one_shard

__all__ = ["open_tar"]

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def open_tar(
    path: Path,
    *,
    folder: str | None = None,
    classes: tuple[str, ...] | None = None,
    label_file: Path | None = None,
) -> PackedImages:
    """Find the images of a .tar without unpacking it.

    With a label file: exactly the files that it names, in its order. Without: a tar of class
    tars (:mod:`tamis.sources.imagenet_tar`), WebDataset samples
    (:mod:`tamis.sources.webdataset`), or class folders with the classes, order and labels of the
    unpacked folder (:func:`tamis.sources.image_folder.open_image_folder`).

    Args:
        path: The tar.
        folder: The folder inside that holds the class folders, or the label file's images; "."
            is the top. None: the top for a label file; for class folders the deepest folder that
            holds all images below class folders ("./", "imagenette2/train").
        classes: The class list to use.
        label_file: See :func:`tamis.sources.labels.read_labels`.

    Raises:
        SourceError: A damaged tar, no class folders, no images, an unknown class, or a listed
            file that is missing.
        UsageError: A label file with a tar of class tars.
    """
    file = open_tar_file(path)
    index = index_tar(file)
    root = None if folder is None else _prefix(posixpath.normpath(folder))
    if root is None and index.names and all(name.endswith(".tar") for name in index.names):
        if label_file is not None:
            raise UsageError(
                "--labels",
                expected="a .tar of images",
                found=f"{path}, a tar of class tars",
                do="leave --labels out: the inner tars name the classes",
            )
        return pack_class_tars(file, index, classes)
    if label_file is not None:
        return _labelled(path, index, root or "", classes, label_file)
    if root is None and holds_samples(index.names):
        return pack_one_shard(file, index, classes)
    return _class_folders(path, index, root, classes)


def _labelled(
    path: Path,
    index: TarIndex,
    root: str,
    classes: tuple[str, ...] | None,
    label_file: Path,
) -> PackedImages:
    named = read_labels(label_file)
    labels, known = index_labels(named, classes, label_file)
    positions = {name: position for position, name in enumerate(index.names)}
    packing = Packing()
    for listed, label in zip(named, labels, strict=True):
        position = positions.get(root + posixpath.normpath(listed))
        if position is None:
            raise SourceError(
                label_file,
                expected=f"files inside {path}" + (f", folder {root[:-1]}" if root else ""),
                found=f"{listed!r}, which is not there",
                do=f"correct the path, or name the folder that it is in: {path}:FOLDER",
            )
        packing.add(listed, label, int(index.offsets[position]), int(index.sizes[position]))
    return packing.finish(_about(path, root), (path,), known)


def _class_folders(
    path: Path, index: TarIndex, root: str | None, classes: tuple[str, ...] | None
) -> PackedImages:
    images = [name.lower().endswith(EXTENSIONS) for name in index.names]
    if root is None:
        found = zip(index.names, images, strict=True)
        folders = {posixpath.dirname(name) for name, image in found if image}
        root = _prefix(_common_root(path, folders))
    members = _members(index, images, root)
    if not members:
        raise SourceError(
            path,
            expected="one folder per class with images in it",
            found=f"no folders below {root or 'the top'}",
            do=f"name a folder that holds class folders: {path}:FOLDER",
        )
    known = classes or tuple(sorted(members))
    packing = Packing()
    for class_name in sorted(members):
        label = class_index(class_name, known, f"{path}: {class_name}")
        if not members[class_name]:
            raise SourceError(
                f"{path}: {root}{class_name}",
                expected="images (" + " ".join(EXTENSIONS) + ")",
                found="an empty class",
                do="pack the tar again without it",
            )
        # Folders by name, then files by name, as an unpacked class is listed.
        for position in sorted(members[class_name], key=lambda i: posixpath.split(index.names[i])):
            shown = index.names[position].removeprefix(root)
            index.names[position] = shown  # so that the longer name's memory is free
            packing.add(shown, label, int(index.offsets[position]), int(index.sizes[position]))
    return packing.finish(_about(path, root), (path,), known)


def _members(index: TarIndex, images: list[bool], root: str) -> dict[str, list[int]]:
    """Class → positions of its images; folders without images too, as they are classes."""
    members: dict[str, list[int]] = {}
    for folder in index.folders:
        if folder.startswith(root) and folder:
            members.setdefault(folder[len(root) :].partition("/")[0], [])
    for position, name in enumerate(index.names):
        class_name, below, _ = name[len(root) :].partition("/")
        if name.startswith(root) and below:
            found = members.setdefault(class_name, [])
            if images[position]:
                found.append(position)
    return members


def _common_root(path: Path, folders: set[str]) -> str:
    """The folder whose sub-folders are the classes.

    Args:
        path: What errors name.
        folders: Every folder with an image directly in it.
    """
    if not folders:
        raise SourceError(
            path,
            expected="images (" + " ".join(EXTENSIONS) + ")",
            found="none",
            do="check the path",
        )
    common = posixpath.commonpath(folders)
    if common in folders and (not common or len(folders) > 1):
        raise SourceError(
            path,
            expected="class folders, and images in them alone",
            found=f"images directly in {common or 'the top folder'}",
            do="name their classes with --labels FILE, or the folder that holds the class folders:"
            f" {path}:FOLDER, where . is the top",
        )
    root = posixpath.dirname(common) if common in folders else common
    classes = {folder.removeprefix(_prefix(root)).split("/")[0] for folder in folders}
    if {name.lower() for name in classes} <= _PARTS:
        part = min(classes)
        raise SourceError(
            path,
            expected="class folders",
            found="the parts " + " and ".join(sorted(classes)),
            do=f"name one of them: {path}:{_prefix(root)}{part}",
        )
    return root


def _prefix(folder: str) -> str:
    return "" if folder in ("", ".") else f"{folder}/"


def _about(path: Path, root: str) -> dict[str, str]:
    return {"kind": "tar", "name": path.name, "folder": root.rstrip("/")}

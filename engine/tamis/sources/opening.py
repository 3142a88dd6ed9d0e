"""From what the user typed to a source."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tamis.errors import SourceError, UsageError
from tamis.sources.base import Source
from tamis.sources.bundle_images import open_bundle_images
from tamis.sources.cifar import is_cifar, open_cifar
from tamis.sources.digits import DIGITS_SPECS, open_digits
from tamis.sources.idx import is_idx, open_idx
from tamis.sources.image_folder import open_image_folder
from tamis.sources.labels import read_classes
from tamis.sources.parquet import open_parquet
from tamis.sources.svhn import open_svhn
from tamis.sources.tar_images import open_tar
from tamis.sources.webdataset import expand_braces, has_braces, open_shards, shards_in

__all__ = ["open_source"]

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


@dataclass(frozen=True)
class _Wanted:
    """What the user typed.

    Attributes:
        spec: The source as typed.
        path: It without a part.
        part: What follows the last colon, where the path is only there without it.
        classes: The class list of ``--classes``.
        label_file: The file of ``--labels``.
    """

    spec: str
    path: Path
    part: str | None
    classes: tuple[str, ...] | None
    label_file: Path | None


@dataclass(frozen=True)
class _Kind:
    """A kind of source: how it is recognised and opened, and which options make sense with it."""

    fits: Callable[[_Wanted], bool]
    open: Callable[[_Wanted], Source]
    has_parts: bool = False
    takes_labels: bool = False
    takes_classes: bool = True


def _is_parquet(wanted: _Wanted) -> bool:
    path = wanted.path
    if path.is_dir():
        return any(path.glob("*.parquet"))
    return path.suffix == ".parquet" and (path.is_file() or bool(_starred(path)))


def _starred(path: Path) -> tuple[Path, ...]:
    """The files that a path with * stands for, in the order of their names; none without one."""
    if "*" not in path.name or path.exists():
        return ()
    if not path.parent.is_dir():
        return ()
    # Not glob, which gives ** another meaning.
    fitting = [file for file in path.parent.iterdir() if fnmatch.fnmatchcase(file.name, path.name)]
    return tuple(sorted(file for file in fitting if file.is_file()))


def _is_tar(wanted: _Wanted) -> bool:
    return wanted.path.name.lower().endswith(_TARS) and wanted.path.is_file()


def _has_shards(wanted: _Wanted) -> bool:
    if wanted.path.is_dir():
        return bool(shards_in(wanted.path))
    if wanted.path.exists():
        return False
    return has_braces(wanted.spec) or (wanted.path.suffix == ".tar" and bool(_starred(wanted.path)))


def _open_shards(wanted: _Wanted) -> Source:
    if wanted.path.is_dir():
        files = shards_in(wanted.path)
    elif has_braces(wanted.spec):
        files = expand_braces(wanted.spec)
    else:
        files = _starred(wanted.path)
    return open_shards(files, classes=wanted.classes)


# A new kind is one more entry. The first that fits opens the source; any folder fits the last.
_KINDS = (
    _Kind(
        lambda wanted: wanted.spec in DIGITS_SPECS,
        lambda wanted: open_digits(wanted.spec),
        takes_classes=False,
    ),
    _Kind(
        lambda wanted: wanted.path.suffix == ".beton" and wanted.path.is_file(),
        lambda wanted: open_bundle_images(wanted.path, classes=wanted.classes),
    ),
    _Kind(
        _is_parquet,
        lambda wanted: open_parquet(
            wanted.path, _starred(wanted.path) or None, classes=wanted.classes
        ),
    ),
    _Kind(
        lambda wanted: is_cifar(wanted.path),
        lambda wanted: open_cifar(wanted.path, part=wanted.part),
        has_parts=True,
        takes_classes=False,
    ),
    _Kind(
        lambda wanted: is_idx(wanted.path),
        lambda wanted: open_idx(wanted.path, part=wanted.part, classes=wanted.classes),
        has_parts=True,
    ),
    _Kind(
        lambda wanted: wanted.path.suffix == ".mat" and wanted.path.is_file(),
        lambda wanted: open_svhn(wanted.path),
        takes_classes=False,
    ),
    _Kind(_has_shards, _open_shards),
    _Kind(
        _is_tar,
        lambda wanted: open_tar(
            wanted.path,
            folder=wanted.part,
            classes=wanted.classes,
            label_file=wanted.label_file,
        ),
        has_parts=True,
        takes_labels=True,
    ),
    _Kind(
        lambda wanted: wanted.path.is_dir(),
        lambda wanted: open_image_folder(
            wanted.path, classes=wanted.classes, label_file=wanted.label_file
        ),
        takes_labels=True,
    ),
)


def open_source(
    spec: str, *, classes_file: Path | None = None, label_file: Path | None = None
) -> Source:
    """Open a source by its name on the command line.

    Args:
        spec: One of

            - ``digits``, ``digits:train``, ``digits:test``
            - a folder of class folders, or of images with a label file
            - a ``.parquet`` file, a folder of them, or ``train-*.parquet``
            - a ``.tar`` with class folders (``PATH.tar:FOLDER`` chooses the folder that holds
              them), of images with a label file, of class tars, or of WebDataset samples
            - WebDataset shards: ``shard-{000..099}.tar``, ``shard-*.tar`` or a folder of
              ``.tar`` files
            - CIFAR-10 or CIFAR-100, a folder or archive of its authors: ``PATH:train``,
              ``PATH:test``
            - MNIST-style IDX: a folder as ``PATH:train``, ``PATH:test``, or an images file
            - an SVHN ``.mat`` file
            - a ``.beton`` bundle
        classes_file: A class list that fixes the labels; see
            :func:`tamis.sources.labels.read_classes`.
        label_file: For images without class folders; see
            :func:`tamis.sources.labels.read_labels`.

    Raises:
        SourceError: Nothing is there, or nothing that tamis can read.
        UsageError: A label file or class list with a source that has its own, or a part that is
            missing.
    """
    classes = read_classes(classes_file) if classes_file else None
    path, part = _split_part(spec)
    wanted = _Wanted(spec, path, part, classes, label_file)
    for kind in _KINDS:
        if (kind.has_parts or part is None) and kind.fits(wanted):
            _check_options(kind, wanted)
            return kind.open(wanted)
    if spec.startswith("digits:") and not Path(spec).exists():
        raise SourceError(
            spec,
            expected=" or ".join(DIGITS_SPECS),
            found="another part",
            do="choose one of them",
        )
    raise SourceError(
        spec,
        expected="class folders, .parquet, .tar, WebDataset shards, a .beton, CIFAR or MNIST"
        " (PATH:train), SVHN's .mat or digits",
        found="a file of another kind" if Path(spec).exists() else "nothing there",
        do="check the path",
    )


def _split_part(spec: str) -> tuple[Path, str | None]:
    """The path and, where it is only there without what follows its last colon, that part."""
    head, colon, part = spec.rpartition(":")
    if colon and head and not Path(spec).exists() and Path(head).exists():
        return Path(head), part
    return Path(spec), None


def _check_options(kind: _Kind, wanted: _Wanted) -> None:
    if wanted.label_file is not None and not kind.takes_labels:
        raise UsageError(
            "--labels",
            expected="an image folder or a .tar of images as the source",
            found=wanted.spec,
            do="leave --labels out: this source has its own labels",
        )
    if wanted.classes is not None and not kind.takes_classes:
        raise UsageError(
            "--classes",
            expected="images whose classes can be listed",
            found=wanted.spec,
            do="leave it out: this source names its own classes",
        )

"""CIFAR-10 and CIFAR-100 as their authors publish them: binary or pickled, unpacked or .tar.gz.

A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images. Every form gives the
same images, labels, order and paths; the order is torchvision's.
"""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator
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
from tamis.sources.safe_pickle import load_pickle
from tamis.sources.tar import read_member, walk_tar

__all__ = ["Cifar", "is_cifar", "open_cifar"]

_PIXELS = 3 * 32 * 32
_MAX_MEMBER = 200_000_000  # bytes; CIFAR-100's train.bin has 154 million


@dataclass(frozen=True)
class _Form:
    """One of the four forms.

    Attributes:
        folder: Its folder in the archive.
        archive: The archive's name.
        n_classes: Number of classes.
        train: Files of the training part, in order.
        test: File of the test part.
        names: File of the class names.
        label: Key of the labels in a pickle, or bytes of labels before a binary record's pixels;
            the last is the fine label.
        class_names: Key of the class names in a pickle.
    """

    folder: str
    archive: str
    n_classes: int
    train: tuple[str, ...]
    test: str
    names: str
    label: bytes | int
    class_names: bytes = b""

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)

    def part(self, part: str) -> tuple[str, ...]:
        return self.train if part == "train" else (self.test,)


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEN_BINARY = tuple(f"{name}.bin" for name in _TEN)
# fmt: off
_FORMS = (
    _Form("cifar-10-batches-bin", "cifar-10-binary.tar.gz", 10,
          _TEN_BINARY, "test_batch.bin", "batches.meta.txt", 1),
    _Form("cifar-10-batches-py", "cifar-10-python.tar.gz", 10,
          _TEN, "test_batch", "batches.meta", b"labels", b"label_names"),
    _Form("cifar-100-binary", "cifar-100-binary.tar.gz", 100,
          ("train.bin",), "test.bin", "fine_label_names.txt", 2),
    _Form("cifar-100-python", "cifar-100-python.tar.gz", 100,
          ("train",), "test", "meta", b"fine_labels", b"fine_label_names"),
)
# fmt: on


@dataclass(frozen=True)
class Cifar:
    """One part of CIFAR-10 or CIFAR-100. One file of it at a time is in memory.

    Attributes:
        path: The folder or archive.
        form: Which files it has.
        part: "train" or "test".
        classes: Class names in label order; CIFAR-100's are the fine ones.
        sizes: Images in each file of the part.
    """

    path: Path
    form: _Form
    part: str
    classes: tuple[str, ...] | None
    sizes: tuple[int, ...]
    largest: int | None = _PIXELS
    lineage: tuple[Parent, ...] = ()

    @property
    def n_bytes(self) -> int | None:
        """Bytes of all pixels."""
        return _PIXELS * len(self)

    @property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and modification times."""
        return fingerprint_files(_stored(self.path, self.form.part(self.part)))

    def describe(self) -> dict[str, Any]:
        """Kind, name and part."""
        return {"kind": "cifar", "name": self.path.name, "part": self.part}

    def __len__(self) -> int:
        return sum(self.sizes)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The images from position ``start``; files before it are not read."""
        before = 0
        for name, size in zip(self.form.part(self.part), self.sizes, strict=True):
            if start < before + size:
                yield from self._batch(name, size, max(start - before, 0))
            before += size

    def _batch(self, name: str, size: int, start: int) -> Iterator[SourceItem]:
        data = next(_read(self.path, self.form, {name}))[1]
        labels, planes = _parse(self.form, data, f"{self.path}: {name}")
        if len(labels) != size:
            raise SourceError(
                f"{self.path}: {name}",
                expected=f"the {size} images that it held",
                found=f"{len(labels)}",
                do="start again: the file has changed",
            )
        stem = name.removesuffix(".bin")
        for row in range(start, size):
            load = partial(_interleave, planes[row])
            yield SourceItem(f"{stem}/{row:05d}", int(labels[row]), load)


def is_cifar(path: Path) -> bool:
    """Whether a path is one of the authors' archives, or a folder with their files."""
    return _form_of(path) is not None


def open_cifar(path: Path, *, part: str | None = None) -> Cifar:
    """Read the class names and check every file of one part.

    Args:
        path: A folder or archive of which :func:`is_cifar` is true.
        part: "train" or "test".

    Raises:
        SourceError: A file that is missing, cut, too large, or of another form.
        UsageError: No part, or another one.
    """
    form = _form_of(path)
    if form is None:
        raise SourceError(
            path,
            expected="CIFAR-10 or CIFAR-100 in one of its authors' forms",
            found="none of their files",
            do="check the path",
        )
    if part not in ("train", "test"):
        raise UsageError(
            path,
            expected=f"a part: {path}:train or {path}:test",
            found="none" if part is None else repr(part),
            do="add one of them",
        )
    classes: tuple[str, ...] = ()
    sizes: dict[str, int] = {}
    for name, data in _read(path, form, {*form.part(part), form.names}):
        subject = f"{path}: {name}"
        if name == form.names:
            classes = _class_names(form, data, subject)
        else:
            sizes[name] = len(_parse(form, data, subject)[0])
    return Cifar(path, form, part, classes, tuple(sizes[name] for name in form.part(part)))


def _form_of(path: Path) -> _Form | None:
    if path.is_file():
        return next((form for form in _FORMS if form.archive == path.name), None)
    # Two files: "train" or "meta" alone could be anyone's.
    held = (sum((path / name).is_file() for name in form.files) for form in _FORMS)
    return next((form for form, n in zip(_FORMS, held, strict=True) if n >= 2), None)


def _stored(path: Path, names: Collection[str]) -> list[Path]:
    return [path] if path.is_file() else [path / name for name in names]


def _read(path: Path, form: _Form, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of some of the files, one at a time, in the order in which they are stored.

    Raises:
        SourceError: One is missing, too large or unreadable.
    """
    missing = set(names)
    reader = _read_archive if path.is_file() else _read_folder
    try:
        for name, data in reader(path, form, names):
            missing.discard(name)
            yield name, data
    except OSError as error:
        raise SourceError(
            path,
            expected="readable files of CIFAR",
            found=first_line(error),
            do="download it again",
        ) from error
    if missing:
        raise SourceError(
            path,
            expected=" ".join(sorted(names)),
            found=f"no {min(missing)}",
            do="download it again and leave all its files together",
        )


def _read_folder(path: Path, form: _Form, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    for name in form.files:
        file = path / name
        if name not in names or not file.is_file():
            continue
        if file.stat().st_size > _MAX_MEMBER:
            raise SourceError(
                file,
                expected=f"at most {_MAX_MEMBER} bytes",
                found=f"{file.stat().st_size}",
                do="download it again from where its authors publish it",
            )
        yield name, file.read_bytes()


def _read_archive(path: Path, form: _Form, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with gzip.open(path) as file:
        for member in walk_tar(file, path):
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder == form.folder and name in names:
                yield name, read_member(file, member, _MAX_MEMBER, path)


def _parse(form: _Form, data: bytes, subject: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels (n,) int64, and (n, 3072) uint8: red, green and blue plane, each by rows."""
    if isinstance(form.label, int):
        records = np.frombuffer(data, np.uint8)
        width = form.label + _PIXELS
        if not data or len(data) % width:
            raise _unfit(subject, f"records of {width} bytes", f"{len(data)} bytes")
        records = records.reshape(-1, width)
        labels, planes = records[:, form.label - 1].astype(np.int64), records[:, form.label :]
    else:
        labels, planes = _parse_pickle(form.label, data, subject)
    if labels.min() < 0 or labels.max() >= form.n_classes:
        odd = int(labels[(labels < 0) | (labels >= form.n_classes)][0])
        raise _unfit(subject, f"labels from 0 to {form.n_classes - 1}", f"the label {odd}")
    return labels, planes


def _parse_pickle(
    key: bytes, data: bytes, subject: str
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    loaded = load_pickle(data, subject)
    labels, planes = loaded.get(key), loaded.get(b"data")
    if not isinstance(labels, list) or not all(
        type(label) is int and abs(label) < 2**31 for label in labels
    ):
        raise _unfit(subject, f"a list of numbers under {key!r}", "none")
    if not isinstance(planes, np.ndarray) or planes.shape != (len(labels), _PIXELS) or not labels:
        shape = planes.shape if isinstance(planes, np.ndarray) else "none"
        raise _unfit(subject, f"an array (n, {_PIXELS}) for {len(labels)} labels", f"{shape}")
    return np.array(labels, np.int64), planes


def _class_names(form: _Form, data: bytes, subject: str) -> tuple[str, ...]:
    if form.class_names:
        found = load_pickle(data, subject).get(form.class_names)
        raw = found if isinstance(found, list) else []
    else:
        raw = [line for line in data.splitlines() if line.strip()]
    names = tuple(
        name.decode("utf-8", "replace").strip() for name in raw if isinstance(name, bytes)
    )
    if len(names) != form.n_classes or len(set(names)) < len(names):
        raise _unfit(subject, f"{form.n_classes} different class names", f"{len(set(names))}")
    return names


def _interleave(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(planes.reshape(3, 32, 32).transpose(1, 2, 0))


def _unfit(subject: str, expected: str, found: str) -> SourceError:
    return SourceError(subject, expected=expected, found=found, do="download it again")

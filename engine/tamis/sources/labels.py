"""Class lists and label files that people have beside their images."""

from __future__ import annotations

import csv
from pathlib import Path

from tamis.errors import SourceError, first_line
from tamis.sources.imagenet_labels import devkit_labels, imagenet_labels

__all__ = ["class_index", "index_labels", "label_of", "read_classes", "read_labels"]

_MAX_LABEL = 2**31 - 1  # score tables hold labels as int32


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in label order from a text file, one a line.

    Raises:
        SourceError: The file is missing, empty, or names a class twice.
    """
    names = tuple(line.strip() for line in _lines(path) if line.strip())
    if not names or len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise SourceError(
            path,
            expected="distinct class names, one a line",
            found=f"{repeated[0]!r} twice" if repeated else "none",
            do="write each class once; its line gives its label, from 0",
        )
    return names


def read_labels(path: Path) -> dict[str, str]:
    """Paths and classes from lines ``path,class`` or ``path class`` (as DALI's file lists).

    Also ImageNet's validation labels as Kaggle and the devkit give them: see
    :mod:`tamis.sources.imagenet_labels`.

    Returns:
        Relative image path → class name or label number as text, in file order.

    Raises:
        SourceError: A line of another form, or a path that occurs twice.
    """
    if path.name.endswith((".tar.gz", ".tgz")):
        return devkit_labels(path)
    lines = _lines(path)
    known = imagenet_labels(path, lines)
    if known is not None:
        return known
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if "," in line:
            cells = [cell.strip() for cell in next(csv.reader([line]))]
        else:
            cells = line.strip().rsplit(maxsplit=1)
        if len(cells) != 2 or not all(cells) or cells[0] in labels:
            raise SourceError(
                f"{path}, line {number}",
                expected="a new path and its class, as 'path,class' or 'path class'",
                found=repr(line.rstrip()[:80]),
                do="correct that line",
            )
        labels[cells[0]] = cells[1]
    if not labels:
        raise SourceError(path, expected="lines 'path,class'", found="none", do="fill the file")
    return labels


def class_index(name: str, classes: tuple[str, ...], subject: object) -> int:
    """The label of a class name, or of a label number where no class has that name.

    Raises:
        SourceError: An unknown class.
    """
    if name in classes:
        return classes.index(name)
    number = _number(name)
    if number is not None and number < len(classes):
        return number
    shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    raise SourceError(
        subject,
        expected=f"one of the {len(classes)} known classes ({shown})",
        found=f"the unknown class {name!r}",
        do="correct the label, or add the class to the class list",
    )


def label_of(name: str, classes: tuple[str, ...] | None, subject: object) -> int:
    """The label of a class name or label number; without a class list numbers alone are known.

    Raises:
        SourceError: An unknown class, or a number that is too large for a label.
    """
    if classes is not None:
        return class_index(name, classes, subject)
    number = _number(name)
    if number is None:
        raise SourceError(
            subject,
            expected=f"a label from 0 to {_MAX_LABEL}",
            found=repr(name[:30]),
            do="number the classes from 0, or give their names in label order with --classes",
        )
    return number


def index_labels(
    labels: dict[str, str], classes: tuple[str, ...] | None, subject: object
) -> tuple[list[int], tuple[str, ...] | None]:
    """What :func:`read_labels` gives, as numbers.

    Args:
        labels: Path → class name or label number.
        classes: The class list; None: the names that occur, sorted, or none if all are numbers.
        subject: What errors name.

    Returns:
        The label of each path, and the class list.

    Raises:
        SourceError: An unknown class, or a number that is too large for a label.
    """
    if classes is None and not all(name.isdecimal() for name in labels.values()):
        classes = tuple(sorted(set(labels.values())))
    # Each class is looked up once, for the first path that has it.
    first = {name: path for path, name in reversed(labels.items())}
    numbers = {name: label_of(name, classes, f"{subject}: {path}") for name, path in first.items()}
    return [numbers[name] for name in labels.values()], classes


def _number(name: str) -> int | None:
    """A label number; text of thousands of digits is none, and int() would refuse it."""
    if not name.isdecimal() or len(name) > len(str(_MAX_LABEL)) or int(name) > _MAX_LABEL:
        return None
    return int(name)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            path, expected="a text file", found=first_line(error), do="check the path"
        ) from error

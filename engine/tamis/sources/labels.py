"""Class lists and label files that people have beside their images."""

from __future__ import annotations

import csv
from pathlib import Path

from tamis.errors import SourceError

__all__ = ["class_index", "read_classes", "read_labels"]


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

    Returns:
        Relative image path → class name or label number as text, in file order.

    Raises:
        SourceError: A line of another form, or a path that occurs twice.
    """
    labels: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
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
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    raise SourceError(
        subject,
        expected=f"one of the {len(classes)} known classes ({shown})",
        found=f"the unknown class {name!r}",
        do="correct the label, or add the class to the class list",
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            path, expected="a readable text file", found=str(error), do="check the path"
        ) from error

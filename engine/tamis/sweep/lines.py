"""Files of one JSON object a line that are only ever appended to, and survive crashes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tamis.errors import UsageError
from tamis.locking import locked_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Append", "append_lines", "read_lines"]

_Line = TypeVar("_Line")


class Append(Protocol):
    """Keeps one record."""

    def __call__(self, record: DataclassInstance, /) -> None:
        """Write the record and wait until it is on the disk."""


def read_lines(path: Path, make: Callable[[Any], _Line], *, expected: str) -> list[_Line]:
    """The records of a file, none where there is none; a last line cut off by a crash is left out.

    Args:
        path: The file.
        make: A line's values → its record.
        expected: What a line is, for people.

    Raises:
        UsageError: Another line that is no such record.
    """
    if not path.exists():
        return []
    found, raw = [], path.read_bytes()
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            found.append(make(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path}, line {number}",
                expected=expected,
                found=repr(line[:60].decode(errors="replace")),
                do="remove that line; its trial runs again",
            ) from error
    return found


@contextmanager
def append_lines(path: Path) -> Iterator[Append]:
    """Open a file for appending, after dropping a last line cut off by a crash.

    Raises:
        UsageError: Another process appends to it.
    """
    descriptor = locked_file(path, path, work="another sweep", flags=os.O_APPEND)
    with os.fdopen(descriptor, "a", encoding="utf-8") as sink:
        os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)

        def append(record: DataclassInstance, /) -> None:
            sink.write(json.dumps(asdict(record)) + "\n")
            sink.flush()
            os.fsync(descriptor)

        yield append

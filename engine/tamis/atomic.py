"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tamis.errors import UsageError

__all__ = [
    "atomic_path",
    "put_in_place",
    "refuse_existing",
    "refuse_missing_folder",
    "refuse_other_suffix",
]


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise before the work starts if its output could not be put in place.

    Raises:
        UsageError: The output exists and ``overwrite`` is false, or its folder does not exist.
    """
    if path.is_dir():
        raise UsageError(path, expected="a file to write", found="a folder", do="name a file in it")
    if path.exists() and not overwrite:
        raise UsageError(
            path,
            expected="a new output",
            found="an existing one",
            do="pass --overwrite to replace it",
        )
    refuse_missing_folder(path)


def refuse_missing_folder(path: Path) -> None:
    """Raise where there is no folder for an output.

    Raises:
        UsageError: The folder does not exist.
    """
    if not path.parent.is_dir():
        raise UsageError(
            path,
            expected=f"the folder {path.parent} to exist",
            found="no such folder",
            do=f"run: mkdir -p {path.parent}",
        )


def refuse_other_suffix(path: Path, suffix: str) -> None:
    """Raise where a file's name would promise another format than its content has.

    Raises:
        UsageError: ``path`` does not end in ``suffix``.
    """
    if path.suffix != suffix:
        raise UsageError(
            path,
            expected=f"a name that ends in {suffix}, which is what is written",
            found=path.suffix or "none",
            do=f"name it {path.stem or 'out'}{suffix}",
        )


@contextmanager
def atomic_path(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes ``path``.

    The temporary file is synced, renamed, and its folder synced, so that a crash leaves either
    the old state or the new one. On any exception it is removed.

    Raises:
        UsageError: As :func:`refuse_existing`.
    """
    refuse_existing(path, overwrite)
    # Process ids repeat, in containers above all: two writers must never share a name.
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        yield partial
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a finished file of the same folder its final name; safe against a crash at any time."""
    _sync(partial, os.O_RDWR)
    partial.replace(path)
    _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

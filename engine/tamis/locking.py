"""One writer at a time for what is not finished."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tamis.errors import UsageError

__all__ = ["locked_file"]


def locked_file(path: Path, out: Path, *, work: str, flags: int = 0) -> int:
    """Open and lock a file, which is made if it is not there.

    Args:
        path: The file; the lock goes when its descriptor is closed, or with the process.
        out: The output that it stands for, to be named.
        work: What the other process does ("another conversion").
        flags: Of :func:`os.open`, besides those for reading and writing.

    Returns:
        A descriptor, which the caller closes. On a file system without locks it is not locked.

    Raises:
        UsageError: Another process holds the lock.
        OSError: The file cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UsageError(
                out,
                expected="one process to write it",
                found=f"{work} that is writing it now",
                do="wait for that one or choose another output",
            ) from error
        except OSError:
            return descriptor  # a file system without locks
        try:
            # Whoever held it may have removed it since it was opened here.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)

"""Embeddings under way: rows and their journal, hidden beside the output.

The journal says of each block of rows what it holds and where the loader stood after it. A killed
run is continued after the last block that is whole on disk, and ends with the bytes that an
undisturbed one would have written. Only one process at a time can work on an output: the journal
is locked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.atomic import put_in_place, refuse_existing
from tamis.errors import UsageError, WorkFailedError, first_line
from tamis.locking import locked_file

__all__ = ["UnfinishedRows", "left_behind", "refuse_output", "unfinished_rows"]

_OTHER = {
    "bundle": "another bundle, or one that has changed",
    "encoder": "another encoder, or one that has changed",
}


class UnfinishedRows:
    """Rows that are appended block by block.

    Attributes:
        n_rows: How many there are.
        state: Of a loader that goes on after them; None for one that begins.
        skipped: Examples that were left out, by id: ``{"path": …, "reason": …}``.
    """

    def __init__(self, rows: int, journal: int, header: bytes) -> None:
        self.n_rows = 0
        self.state: dict[str, Any] | None = None
        self.skipped: dict[int, dict[str, Any]] = {}
        self._rows, self._journal, self._header = rows, journal, header

    def begin(self, task: dict[str, Any]) -> None:
        """Start from nothing."""
        os.ftruncate(self._journal, 0)
        os.ftruncate(self._rows, 0)
        _write(self._rows, self._header)
        _write(self._journal, _line(task))

    def resume(self, task: dict[str, Any], out: Path) -> None:
        """Take up what an interrupted run left; start from nothing where it left nothing.

        All rows are read and compared with their checksums; what follows the first damaged block
        is made again.

        Raises:
            UsageError: It was another task.
        """
        lines = _lines(self._journal)
        begun = next(lines, None)
        if begun is None or not os.fstat(self._rows).st_size:
            self.begin(task)
            return
        if differing := [key for key in task if begun[0].get(key) != task[key]]:
            raise UsageError(
                out,
                expected="the bundle, the encoder and the settings of the interrupted run",
                found=", ".join(_OTHER.get(key, f"another {key}") for key in differing),
                do="go on with the same ones, or pass --overwrite instead of --resume",
            )
        end_of_journal, end_of_rows = begun[1], len(self._header)
        if os.pread(self._rows, end_of_rows, 0) != self._header:
            self.begin(task)
            return
        for block, end in lines:
            data = os.pread(self._rows, block["bytes"], end_of_rows)
            if xxhash.xxh3_64_hexdigest(data) != block["checksum"]:
                break
            end_of_journal, end_of_rows = end, end_of_rows + block["bytes"]
            self._take(block)
        os.ftruncate(self._journal, end_of_journal)
        os.ftruncate(self._rows, end_of_rows)

    def append(
        self, rows: NDArray[Any], state: dict[str, Any] | None, skipped: dict[int, dict[str, Any]]
    ) -> None:
        """Write rows, then note them.

        Args:
            rows: (k, d).
            state: Of a loader that gives all that comes after them, and maybe some of them.
            skipped: Examples that were left out since the last block.
        """
        data = np.ascontiguousarray(rows).data.cast("B")
        _write(self._rows, data)
        block = {
            "n_rows": self.n_rows + len(rows),
            "bytes": len(data),
            "checksum": xxhash.xxh3_64_hexdigest(data),
            "state": state,
            "skipped": {str(example_id): one for example_id, one in skipped.items()},
        }
        # A kill leaves a whole line or one without its end.
        _write(self._journal, _line(block))
        self._take(block)

    def finish(self, trailer: bytes) -> None:
        """Write what follows the rows."""
        _write(self._rows, trailer)

    def _take(self, block: dict[str, Any]) -> None:
        self.n_rows, self.state = block["n_rows"], block["state"]
        self.skipped |= {int(example_id): one for example_id, one in block["skipped"].items()}


@contextmanager
def unfinished_rows(
    out: Path, task: dict[str, Any], header: bytes, *, overwrite: bool, resume: bool
) -> Iterator[UnfinishedRows]:
    """Work on the rows of ``out``; on success they become ``out``.

    After Ctrl-C or work that failed (a full disk, a lost cluster) rows and journal stay for
    ``resume``, after other errors only where ``resume`` is set; a killed process leaves them too.

    Args:
        out: The file to write.
        task: What is done, as plain JSON types; only the same task can be resumed.
        header: What stands before the rows.
        overwrite: Replace an existing ``out``, and what an interrupted run left.
        resume: Go on with what it left.

    Raises:
        UsageError: As :func:`refuse_output`; another process is working on ``out``; or the task is
            not the interrupted one.
        WorkFailedError: The file system failed.
    """
    refuse_output(out, overwrite=overwrite, resume=resume)
    rows_path, journal_path = _hidden(out)
    journal = locked_file(journal_path, out, work="another one", flags=os.O_APPEND)
    rows = os.open(rows_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        work = UnfinishedRows(rows, journal, header)
        task = json.loads(json.dumps(task))  # as it will be read back
        if resume:
            work.resume(task, out)
        else:
            work.begin(task)
        keep = resume
        try:
            yield work
            put_in_place(rows_path, out)
            keep = False
        except (KeyboardInterrupt, WorkFailedError):
            keep = True
            raise
        except OSError as error:
            keep = True
            raise _stopped(out, error, work.n_rows) from error
        finally:
            if not (keep and work.n_rows):
                rows_path.unlink(missing_ok=True)
                journal_path.unlink(missing_ok=True)
    finally:
        os.close(rows)
        os.close(journal)


def refuse_output(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise before the work starts if it could not be put in place, or would end earlier work.

    Raises:
        UsageError: As :func:`tamis.atomic.refuse_existing`; or an interrupted run left rows, and
            neither ``overwrite`` nor ``resume`` is set.
    """
    refuse_existing(out, overwrite)
    if overwrite or resume or not (n_rows := left_behind(out)):
        return
    raise UsageError(
        out,
        expected="a new output",
        found=f"an interrupted run that had come to example {n_rows:,}",
        do="pass --resume to go on with it, or --overwrite to start again",
    )


def left_behind(out: Path) -> int:
    """How many rows of ``out`` an interrupted run has left."""
    rows_path, journal_path = _hidden(out)
    try:
        descriptor = os.open(journal_path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        noted = [line.get("n_rows", 0) for line, _ in _lines(descriptor)]
    finally:
        os.close(descriptor)
    return max(noted, default=0) if rows_path.exists() else 0


def _hidden(out: Path) -> tuple[Path, Path]:
    """Rows and journal."""
    return out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.journal")


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _lines(journal: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line and where it ends, up to the first that is torn."""
    end = 0
    for line in os.pread(journal, os.fstat(journal).st_size, 0).splitlines(keepends=True):
        end += len(line)
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(values, dict):
            return
        yield values, end


def _write(descriptor: int, data: bytes | memoryview) -> None:
    """Append all of it."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def _stopped(out: Path, error: OSError, n_rows: int) -> WorkFailedError:
    return WorkFailedError(
        out,
        expected="to write it",
        found=first_line(error),
        do="check permissions and free space"
        + (", then run the same command with --resume" if n_rows else ""),
    )

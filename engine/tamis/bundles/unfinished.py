"""A conversion under way: its payload and its journal, hidden beside the output.

The journal lists what the payload file holds so far. A killed conversion is continued from it,
and ends with the bytes that an undisturbed one would have written. Only one process at a time can
work on an output: the journal is locked.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.atomic import put_in_place, refuse_existing
from tamis.errors import UsageError, WorkFailedError, first_line
from tamis.locking import locked_file

__all__ = ["ROW", "Block", "Journal", "left_behind", "unfinished"]

_OTHER = {
    "settings": "other settings",
    "source": "another source, or one that has changed",
    "journal": "the journal of another version",
}

ROW = np.dtype(
    [
        ("example_id", "<i8"),
        ("label", "<i8"),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("checksum", "<u8"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("mode", "u1"),
        ("passed_through", "?"),
        ("tiled", "?"),
    ]
)
_FRAME = struct.Struct("<IIQ")  # bytes of JSON, bytes of rows, xxh3 of both


@dataclass(frozen=True)
class Block:
    """Records that were written together.

    Attributes:
        consumed: Images of the source dealt with up to here.
        rows: (k,) of :data:`ROW`.
        paths: Their k source paths.
        skipped: Images left out since the last block: ``{"path": …, "reason": …}``.
    """

    consumed: int
    rows: NDArray[Any]
    paths: list[str | None]
    skipped: list[dict[str, str]]


class Journal:
    """The list of what a payload file holds; appended to, never rewritten.

    Attributes:
        payload: The file that holds the records.
        blocks: What an earlier process had written and is still there, in order.
        holds_work: Whether there is anything to resume.
    """

    def __init__(self, payload: Path, descriptor: int) -> None:
        self.payload = payload
        self.blocks: list[Block] = []
        self.holds_work = False
        self._descriptor = descriptor

    def begin(self, task: dict[str, Any]) -> None:
        """Start from nothing."""
        self.holds_work = False
        self.payload.unlink(missing_ok=True)
        os.ftruncate(self._descriptor, 0)
        self._append(task, b"")

    def resume(self, task: dict[str, Any], subject: Path) -> None:
        """Take up what an interrupted conversion left; start from nothing where it left nothing.

        Every record is read and compared with its checksum; what follows the first damaged block
        is written again.

        Raises:
            UsageError: It was another task: other settings, or a source that has changed since.
        """
        frames = self._frames()
        begun = next(frames, None)
        if begun is None or not self.payload.exists():
            self.begin(task)
            return
        differing = [key for key in task if begun[0].get(key) != task[key]]
        if differing:
            raise UsageError(
                subject,
                expected="the source and the settings of the interrupted conversion",
                found=", ".join(_OTHER.get(key, f"another {key}") for key in differing),
                do="go on with the same ones, or pass --overwrite instead of --resume",
            )
        end = begun[2]
        with self.payload.open("rb") as payload:
            for head, rows, after in frames:
                written = np.frombuffer(rows, ROW)
                block = Block(head["consumed"], written, head["paths"], head["skipped"])
                if not _is_sound(payload.fileno(), written):
                    break
                self.blocks.append(block)
                end = after
        if not self.blocks:
            self.begin(task)
            return
        os.ftruncate(self._descriptor, end)
        self.holds_work = True

    def left_behind(self) -> int:
        """How many images of the source an interrupted conversion has dealt with."""
        if not self.payload.exists():
            return 0
        return max((head.get("consumed", 0) for head, _, _ in self._frames()), default=0)

    def append(self, block: Block) -> None:
        """Note records that have been written to the payload."""
        head = {"consumed": block.consumed, "paths": block.paths, "skipped": block.skipped}
        self._append(head, block.rows.tobytes())
        self.holds_work = True

    def _frames(self) -> Iterator[tuple[dict[str, Any], bytes, int]]:
        return _frames(os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0))

    def _append(self, head: dict[str, Any], rows: bytes) -> None:
        text = json.dumps(head).encode()
        checksum = xxhash.xxh3_64_intdigest(text + rows)
        frame = _FRAME.pack(len(text), len(rows), checksum) + text + rows
        # One write at the end: a kill leaves a whole frame or one that its checksum gives away.
        os.lseek(self._descriptor, 0, os.SEEK_END)
        view = memoryview(frame)
        while len(view):
            view = view[os.write(self._descriptor, view) :]


def left_behind(out: Path) -> bool:
    """Whether an interrupted conversion to ``out`` can be resumed."""
    return all(path.exists() for path in _hidden(out))


def _hidden(out: Path) -> tuple[Path, Path]:
    """Payload and journal."""
    return out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.journal")


@contextmanager
def unfinished(
    out: Path, task: dict[str, Any], *, overwrite: bool, resume: bool
) -> Iterator[Journal]:
    """Work on the payload of ``out``; on success it becomes ``out``.

    After Ctrl-C or an error of the file system (a full disk) payload and journal stay for
    ``resume``, after other errors only where ``resume`` is set; a killed process leaves them too.

    Args:
        out: The file to write.
        task: What is done, as plain JSON types; only the same task can be resumed.
        overwrite: Replace an existing ``out``.
        resume: Go on with what an earlier process left.

    Raises:
        UsageError: As :func:`tamis.atomic.refuse_existing`; another process is working on
            ``out``; or the task is not the interrupted one.
        WorkFailedError: The file system failed.
    """
    refuse_existing(out, overwrite)
    task = json.loads(json.dumps(task))  # as it will be read back
    payload, journal_path = _hidden(out)
    descriptor = locked_file(journal_path, out, work="another conversion")
    try:
        journal = Journal(payload, descriptor)
        if resume:
            journal.resume(task, out)
        elif (left := journal.left_behind()) and not overwrite:
            raise UsageError(
                out,
                expected="a new output",
                found=f"an interrupted conversion that had come to image {left:,}",
                do="pass --resume to go on with it, or --overwrite to start again",
            )
        else:
            journal.begin(task)
        keep = resume
        try:
            yield journal
            put_in_place(payload, out)
            journal.holds_work = False
        except KeyboardInterrupt:
            keep = True
            raise
        except OSError as error:
            keep = True
            raise _stopped(out, error, journal.holds_work) from error
        finally:
            if not (keep and journal.holds_work):
                payload.unlink(missing_ok=True)
                journal_path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _stopped(out: Path, error: OSError, holds_work: bool) -> WorkFailedError:
    return WorkFailedError(
        out,
        expected="to write it",
        found=first_line(error),
        do="check permissions and free space"
        + (", then run the same command with --resume" if holds_work else ""),
    )


def _frames(data: bytes) -> Iterator[tuple[dict[str, Any], bytes, int]]:
    """Head, bytes of the rows and end of each whole frame, up to the first that is torn.

    What the rows are is known once the task is compared: another version may have other ones.
    """
    at = 0
    while at + _FRAME.size <= len(data):
        n_text, n_rows, checksum = _FRAME.unpack_from(data, at)
        start = at + _FRAME.size
        at = start + n_text + n_rows
        body = data[start:at]
        if len(body) < n_text + n_rows or xxhash.xxh3_64_intdigest(body) != checksum:
            return
        yield json.loads(body[:n_text]), body[n_text:], at


def _is_sound(descriptor: int, rows: NDArray[Any]) -> bool:
    """Whether the payload holds the bytes of these records."""
    if not len(rows):
        return True
    start = int(rows["offset"][0])
    data = memoryview(
        os.pread(descriptor, int(rows["offset"][-1] + rows["size"][-1]) - start, start)
    )
    for offset, size, checksum in zip(rows["offset"], rows["size"], rows["checksum"], strict=True):
        record = data[int(offset) - start : int(offset) - start + int(size)]
        if xxhash.xxh3_64_intdigest(record) != int(checksum):
            return False
    return True

"""Which reader a file of scores takes, by the end of its name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from tamis.errors import ScoreTableError, UsageError, first_line
from tamis.score_exchange.array_files import read_npy, read_npz, read_pickle
from tamis.score_exchange.csv_files import read_csv
from tamis.score_exchange.list_files import read_list
from tamis.score_exchange.raw_scores import RawScores

__all__ = ["read_raw_scores"]

_Reader = tuple[Callable[[Path], RawScores], str]
_PICKLE: _Reader = (read_pickle, "a pickled dict of metric names and arrays or tensors")
_READERS: dict[str, _Reader] = {
    ".npy": (read_npy, "a vector with a number for each example"),
    ".npz": (read_npz, "a vector with a number for each example, per metric"),
    ".csv": (read_csv, "lines of a path or an example id, and scores"),
    ".tsv": (read_csv, "lines of a path or an example id, and scores"),
    ".txt": (read_list, "lines 'path' or 'path label'"),
    ".pickle": _PICKLE,
    ".pkl": _PICKLE,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
}


def read_raw_scores(path: Path) -> RawScores:
    """Read a file of scores that somebody else wrote.

    Raises:
        UsageError: A name that says no known format.
        ScoreTableError: A file that is missing, or not what its name says.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise UsageError(
            path,
            expected="scores as " + ", ".join(_READERS),
            found=path.suffix or "a name without an ending",
            do="write them in one of these forms",
        )
    read, expected = _READERS[suffix]
    # What a damaged or hostile pickle raises is anything.
    kinds = (OSError, ValueError, EOFError, MemoryError, KeyError, zipfile.BadZipFile)
    try:
        return read(path)
    except Exception as error:
        if read is not read_pickle and not isinstance(error, kinds):
            raise
        do = "correct the file, or save the scores as .npy or CSV where they were made"
        if isinstance(error, FileNotFoundError):
            do = "check the name"
        raise ScoreTableError(path, expected=expected, found=first_line(error), do=do) from error

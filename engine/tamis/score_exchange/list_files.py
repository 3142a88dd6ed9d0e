"""Lists of paths, one a line, with or without a label: what DALI's file reader takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tamis.score_exchange.raw_scores import RawScores

__all__ = ["read_list"]

_INTEGER = re.compile(r"\d+")
_FRACTION = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+", re.IGNORECASE)


def read_list(path: Path) -> RawScores:
    """Read lines ``path`` or ``path label``; a path may hold spaces.

    Raises:
        ValueError: No lines, or lines that end in scores.
        OSError: The file cannot be read.
    """
    import pyarrow as pa

    texts = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line.strip() for line in texts if line.strip()]
    if not lines:
        raise ValueError("an empty file")
    parts = [line.rsplit(maxsplit=1) for line in lines]
    ends = [part[1] if len(part) == 2 else "" for part in parts]
    if all(_INTEGER.fullmatch(end) for end in ends):
        labels = np.array(ends, np.int64)
        return RawScores("list", {}, paths=pa.array([part[0] for part in parts]), labels=labels)
    if any(map(_FRACTION.fullmatch, ends)) and all(
        _FRACTION.fullmatch(end) or _INTEGER.fullmatch(end) for end in ends
    ):
        raise ValueError("paths with scores: name the file .csv, any separator will do")
    return RawScores("list", {}, paths=pa.array(lines))

"""The text of the CUDA sources, and the options they are compiled with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["OPTIONS", "STEMS", "cuda_source"]

_HERE = Path(__file__).parent

STEMS = tuple(sorted(path.stem for path in _HERE.glob("*.cu")))
"""One source a kernel; the file row_scores.cu has the stem row_scores."""

_PARTS = {
    "row_scores": ("row_scores.cuh",),
    "score_and_update": ("statistics.cuh", "row_scores.cuh"),
    "update_statistics": ("statistics.cuh",),
}

OPTIONS = ("-std=c++17",)


@cache
def cuda_source(stem: str) -> str:
    """The whole text of a source, with what it shares with others before it.

    One text instead of an include: caches of compiled kernels are keyed by it.
    """
    parts = []
    for name in ("common.cuh", *_PARTS.get(stem, ()), f"{stem}.cu"):
        parts += [f'#line 1 "{name}"\n', (_HERE / name).read_text(encoding="utf-8")]
    return "".join(parts)

"""Scores as somebody's file holds them, before they are matched to a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RawScores"]


@dataclass(frozen=True)
class RawScores:
    """The rows of a file: numbers, and what says whose they are.

    Attributes:
        format: ``npy``, ``npz``, ``csv``, ``list`` or ``pickle``.
        columns: Column name → (m,) numbers of any dtype; empty in a list.
        paths: m source paths (texts, no nulls), or None.
        example_ids: (m,) int64, or None. A file without paths and ids is in the dataset's order.
        labels: (m,) class numbers or names, or None.
        ignored: Parts of the file that are no scores, by name.
    """

    format: Literal["npy", "npz", "csv", "list", "pickle"]
    columns: dict[str, NDArray[Any]]
    paths: pa.Array | None = None
    example_ids: NDArray[np.int64] | None = None
    labels: NDArray[Any] | None = None
    ignored: tuple[str, ...] = ()

"""What a source is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.manifest import Parent

__all__ = ["Source", "SourceItem"]


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One image of a source.

    Attributes:
        path: Its name for people, as the source knows it ("n01440764/x.JPEG"), or None; valid
            Unicode, with bytes that are not UTF-8 written as \\udc followed by two digits.
        label: Class index from 0.
        load: Gives the encoded bytes, or (height, width, 3) uint8 pixels; may be called in any
            thread. Raises OSError when the bytes cannot be read.
        example_id: Its id, where the source has ids of its own; None: its position.
    """

    path: str | None
    label: int
    load: Callable[[], bytes | NDArray[np.uint8]]
    example_id: int | None = None


class Source(Protocol):
    """A dataset of labelled images in a fixed order; without ids of its own, position is the id."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order, where the source names them."""

    @property
    def largest(self) -> int | None:
        """Bytes of the largest encoded image, where that is known before reading."""

    @property
    def n_bytes(self) -> int | None:
        """Bytes of all encoded images, where that is known before reading."""

    @property
    def lineage(self) -> tuple[Parent, ...]:
        """The bundle that the images come from and its ancestors; empty where there is none."""

    @property
    def fingerprint(self) -> str:
        """Changes when a file of the source changes: names, sizes, modification times."""

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it."""

    def __len__(self) -> int:
        """Number of images."""

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The images from position ``start``, streamed; skipping is cheap where it can be."""

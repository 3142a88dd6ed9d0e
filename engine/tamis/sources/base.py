"""What a source is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Source", "SourceItem"]


@dataclass(frozen=True)
class SourceItem:
    """One image of a source.

    Attributes:
        path: Its name for people, as the source knows it ("n01440764/x.JPEG"), or None; valid
            Unicode, with bytes that are not UTF-8 written as \\udc followed by two digits.
        label: Class index from 0.
        load: Gives the encoded bytes, or (height, width, 3) uint8 pixels; may be called in any
            thread. Raises OSError when the bytes cannot be read.
    """

    path: str | None
    label: int
    load: Callable[[], bytes | NDArray[np.uint8]]


class Source(Protocol):
    """A dataset of labelled images in a fixed order; the position is the example id."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order, where the source names them."""

    @property
    def largest(self) -> int | None:
        """Bytes of the largest encoded image, where that is known before reading."""

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it."""

    def __len__(self) -> int:
        """Number of images."""

    def __iter__(self) -> Iterator[SourceItem]:
        """The images, streamed."""

"""SVHN's cropped digits: train_32x32.mat, test_32x32.mat, extra_32x32.mat.

Y. Netzer et al. (2011), Reading Digits in Natural Images with Unsupervised Feature Learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import SourceError
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.fingerprint import fingerprint_files
from tamis.sources.mat5 import MatArray, read_mat

__all__ = ["Svhn", "open_svhn"]

_PIXELS = 32 * 32 * 3
_AT_ONCE = 256  # images, 0.8 MB
_ZERO = 10  # the label of the digit 0


@dataclass(frozen=True)
class Svhn:
    """One file of SVHN; its pixels are streamed.

    Attributes:
        path: The file.
        pixels: uint8 (32, 32, 3, n), the first side fastest: images one after the other.
        labels: (n,) int64, the digits.
    """

    path: Path
    pixels: MatArray
    labels: NDArray[np.int64]
    classes: tuple[str, ...] | None = tuple("0123456789")
    largest: int | None = _PIXELS
    lineage: tuple[Parent, ...] = ()

    @property
    def n_bytes(self) -> int | None:
        """Bytes of all pixels."""
        return _PIXELS * len(self)

    @property
    def fingerprint(self) -> str:
        """Hash of the file's name, size and modification time."""
        return fingerprint_files([self.path])

    def describe(self) -> dict[str, Any]:
        """Kind and file name."""
        return {"kind": "svhn", "name": self.path.name}

    def __len__(self) -> int:
        return len(self.labels)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """The images from position ``start``; in a compressed file those before are inflated."""
        position = min(start, len(self))
        for block in self.pixels.blocks(_AT_ONCE * _PIXELS, position * _PIXELS):
            for offset in range(0, len(block), _PIXELS):
                path, label = f"{self.path.stem}/{position:08d}", int(self.labels[position])
                yield SourceItem(path, label, partial(_image, block, offset))
                position += 1


def open_svhn(path: Path) -> Svhn:
    """Find the pixels and read the labels.

    Raises:
        SourceError: Not a MATLAB 5 file with SVHN's ``X`` and ``y``, or labels other than 1 to
            10.
    """
    arrays = read_mat(path, ("X", "y"))
    pixels, labels = arrays.get("X"), arrays.get("y")
    if (
        pixels is None
        or pixels.kind != "uint8"
        or pixels.dtype != np.uint8
        or pixels.dims[:3] != (32, 32, 3)
        or len(pixels.dims) > 4
    ):
        raise _unfit(path, "X, uint8 (32, 32, 3, n)", pixels)
    n_images = pixels.dims[3] if len(pixels.dims) == 4 else 1  # MATLAB drops a last side of 1
    if labels is None or labels.dims != (n_images, 1):
        raise _unfit(path, f"y, ({n_images}, 1)", labels)
    digits = labels.values()
    if not np.isin(digits, np.arange(1, _ZERO + 1)).all():
        odd = digits[~np.isin(digits, np.arange(1, _ZERO + 1))][0]
        raise SourceError(
            f"{path}: y",
            expected="labels from 1 to 10, where 10 is the digit 0",
            found=f"the label {odd}",
            do="download the file again",
        )
    return Svhn(path, pixels, digits.astype(np.int64) % _ZERO)


def _image(block: bytes, offset: int) -> NDArray[np.uint8]:
    columns = np.frombuffer(block, np.uint8, _PIXELS, offset).reshape(3, 32, 32)
    return np.ascontiguousarray(columns.transpose(2, 1, 0))


def _unfit(path: Path, expected: str, found: MatArray | None) -> SourceError:
    return SourceError(
        path,
        expected=f"SVHN's variable {expected}",
        found=f"{found.name}, {found.kind} {found.dims}" if found else "none of that name",
        do="give train_32x32.mat, test_32x32.mat or extra_32x32.mat as published",
    )

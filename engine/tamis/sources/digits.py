"""scikit-learn's handwritten digits: 1,797 real 8 × 8 images that need no download.

E. Alpaydin, C. Kaynak (1998), UCI Optical Recognition of Handwritten Digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.hashing import example_hash
from tamis.manifest import Parent
from tamis.sources.base import SourceItem

__all__ = ["DIGITS_SPECS", "Digits", "open_digits"]

DIGITS_SPECS = ("digits", "digits:train", "digits:test")
_TEST_SHARE = 0.25
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """The digits, whole or one side of the fixed stratified split.

    Attributes:
        spec: "digits", "digits:train" or "digits:test".
        pixels: (n, 8, 8, 3) uint8.
        labels: (n,) int64.
        indices: (n,) int64 positions in scikit-learn's order, which the paths name.
    """

    spec: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    classes: tuple[str, ...] | None = tuple("0123456789")
    largest: int | None = 8 * 8 * 3
    n_bytes: int | None = None
    lineage: tuple[Parent, ...] = ()
    fingerprint: str = "scikit-learn"

    def describe(self) -> dict[str, Any]:
        """Kind and part."""
        return {"kind": "digits", "spec": self.spec}

    def __len__(self) -> int:
        return len(self.labels)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        """Copies of the pixels, from position ``start``."""
        rows = zip(self.indices[start:], self.labels[start:], self.pixels[start:], strict=True)
        for index, label, image in rows:
            yield SourceItem(f"digits/{index:04d}", int(label), partial(np.copy, image))


def open_digits(spec: str) -> Digits:
    """Load the digits; a quarter of each class, chosen by a fixed hash, is the test part."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        order = np.argsort(example_hash(members, _SPLIT_SEED, "digits split"))
        is_test[members[order[: round(_TEST_SHARE * len(members))]]] = True
    part = {"digits": is_test | ~is_test, "digits:train": ~is_test, "digits:test": is_test}[spec]
    indices = np.flatnonzero(part)
    return Digits(spec, np.repeat(grey[indices, :, :, None], 3, axis=3), labels[indices], indices)

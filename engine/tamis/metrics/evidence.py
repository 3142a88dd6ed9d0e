"""What metrics are read off: examples, embeddings, trainings on subsets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tamis.progress import QUIET, Progress

__all__ = ["Embedded", "Examples", "SubsetRuns"]


@dataclass(frozen=True)
class Examples:
    """The examples that are scored.

    Attributes:
        ids: (n,) int64.
        seed: The campaign's.
    """

    ids: NDArray[np.int64]
    seed: int


@dataclass(frozen=True)
class Embedded:
    """Embeddings of the examples.

    Attributes:
        examples: Which.
        labels: (n,) int64; a metric that says ``labels=False`` does not look at them.
        rows: (n, d) float32; may be memory-mapped.
        k: Prototypes.
        progress: Told of what takes minutes.
    """

    examples: Examples
    labels: NDArray[np.int64]
    rows: NDArray[np.float32]
    k: int
    progress: Progress = QUIET


@dataclass(frozen=True)
class SubsetRuns:
    """What m networks, each trained on a random subset, say.

    Attributes:
        packed_masks: m arrays of ⌈n / 8⌉ bytes: which examples each was trained on.
        packed_correct: m arrays likewise: on which it is right.
        packed_flags: m arrays likewise: which held-out examples it takes with confidence for
            another class; see :mod:`tamis.metrics.label_errors`.
        packed_test: m arrays of ⌈n_test / 8⌉ bytes: on which test examples it is right; None
            without a test set.
        held_out_doubt: (n,) float64, mean over the networks that were not trained on an example.
        held_out_p: (n,) float64, likewise, of the probability that they give its label.
        n_examples: n.
        n_test: Test examples.
    """

    packed_masks: list[NDArray[np.uint8]]
    packed_correct: list[NDArray[np.uint8]]
    packed_flags: list[NDArray[np.uint8]]
    packed_test: list[NDArray[np.uint8]] | None
    held_out_doubt: NDArray[np.float64]
    held_out_p: NDArray[np.float64]
    n_examples: int
    n_test: int

    @cached_property
    def masks(self) -> NDArray[np.uint8]:
        """(m, n) of 0 and 1, one byte each."""
        return _unpack(self.packed_masks, self.n_examples)

    @property
    def correct(self) -> NDArray[np.uint8]:
        """(m, n) of 0 and 1."""
        return _unpack(self.packed_correct, self.n_examples)

    @property
    def flags(self) -> NDArray[np.uint8]:
        """(m, n) of 0 and 1; 0 for examples that were trained on."""
        return _unpack(self.packed_flags, self.n_examples)

    @property
    def correct_test(self) -> NDArray[np.uint8]:
        """(m, n_test) of 0 and 1."""
        assert self.packed_test is not None  # asked of the metrics that need a test set
        return _unpack(self.packed_test, self.n_test)


def _unpack(rows: list[NDArray[np.uint8]], n: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.stack(rows), axis=1, count=n)

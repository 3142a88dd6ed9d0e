"""Random numbers that belong to an example, not to its position.

A value drawn here depends on the seed, on what it is for, and on the example id alone. A subset
therefore sees its examples in the full run's order, with the full run's augmentations, and ties
are broken the same way on every machine (style: airbench96's subset runs).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["derived_seed", "example_hash", "example_uniform", "example_uniforms", "shuffled_order"]

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST_FACTOR, _SECOND_FACTOR = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele et al. 2014), element by element, modulo 2**64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST_FACTOR)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND_FACTOR)
    return values ^ (values >> np.uint64(31))


def _mix_one(value: int) -> int:
    """The same of one number, for which NumPy takes several times as long."""
    value = (value ^ (value >> 30)) * _FIRST_FACTOR & _MASK
    value = (value ^ (value >> 27)) * _SECOND_FACTOR & _MASK
    return value ^ (value >> 31)


# Every batch of an epoch asks for the same forty.
@lru_cache(maxsize=256)
def _key(seed: int, purpose: str, *extra: int) -> int:
    key = int(seed) & _MASK
    for word in (zlib.crc32(purpose.encode()), *extra):
        key = _mix_one(key ^ ((int(word) * _GOLDEN + _GOLDEN) & _MASK))
    return key


def example_hash(
    example_ids: NDArray[np.int64], seed: int, purpose: str, *extra: int
) -> NDArray[np.uint64]:
    """Hash example ids with a seed and a purpose.

    Args:
        example_ids: (n,) int64.
        seed: Any integer.
        purpose: Names the use ("order", "tie", …) so that uses are independent.
        extra: Further integers such as the epoch.

    Returns:
        (n,) uint64, uniform over 2**64; equal inputs give equal values everywhere.
    """
    hashes: NDArray[np.uint64] = _hashes(example_ids, [_key(seed, purpose, *extra)])[0]
    return hashes


def example_uniform(
    example_ids: NDArray[np.int64], seed: int, purpose: str, *extra: int
) -> NDArray[np.float64]:
    """Like :func:`example_hash`, as (n,) float64 in [0, 1) with 53 random bits."""
    values: NDArray[np.float64] = example_uniforms(example_ids, seed, [(purpose, *extra)])[0]
    return values


def example_uniforms(
    example_ids: NDArray[np.int64], seed: int, uses: Sequence[tuple[str, *tuple[int, ...]]]
) -> NDArray[np.float64]:
    """What :func:`example_uniform` gives for each use, (uses, n) float64, at once.

    Args:
        example_ids: (n,) int64.
        seed: Any integer.
        uses: A purpose and the further integers, of each.
    """
    keys = [_key(seed, *use) for use in uses]
    return (_hashes(example_ids, keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hashes(example_ids: NDArray[np.int64], keys: list[int]) -> NDArray[np.uint64]:
    """(keys, n) uint64."""
    ids = np.ascontiguousarray(example_ids, dtype=np.int64).view(np.uint64)
    return _mix(_mix(ids * np.uint64(_GOLDEN) + np.array(keys, np.uint64)[:, None]))


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed of its own for the ``number``-th of what a seed is needed for.

    Neighbouring seeds give unrelated ones, so that two campaigns share nothing, however near
    their seeds lie.

    Returns:
        From 0 to 2**63 − 1.
    """
    return _mix_one(_key(seed, purpose, number)) >> 1


def shuffled_order(example_ids: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Positions of the examples in the order of one epoch.

    The order of a subset is a subsequence of the order of the full set.

    Args:
        example_ids: (n,) int64, distinct.
        seed: The order's seed.
        epoch: Counted from 0.

    Returns:
        (n,) int64 permutation of the positions 0…n-1. O(n log n).
    """
    keys = example_hash(example_ids, seed, "order", epoch)
    return np.lexsort((example_ids, keys)).astype(np.int64)

"""Definition of select_top."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["select_top", "tie_hash"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def select_top(
    scores: NDArray[Any],
    ids: NDArray[Any],
    count: int,
    *,
    labels: NDArray[Any] | None = None,
    quotas: NDArray[Any] | None = None,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Which ``count`` rows are kept: each class's quota first, then the best of all the others.

    Rows are ranked by score, highest first and NaN last; then by :func:`tie_hash`, smallest first;
    then by position. O(n log n + n · number of classes).

    Args:
        scores: (n,) float.
        ids: (n,) integers.
        count: Rows to keep, 0 to n.
        labels: (n,) integers; a row whose label has no quota waits for the filling up.
        quotas: (n_classes,) integers ≥ 0, of which each class keeps that many, or all it has.
        seed: Of the hash.

    Returns:
        (n,) bool, exactly ``count`` of them True unless the quotas alone take more.
    """
    scores = np.asarray(scores, np.float64)
    # lexsort ranks NaN last, and takes −0 and +0 for equal.
    order = np.lexsort((np.arange(len(scores)), tie_hash(ids, seed), -scores))
    kept = np.zeros(len(scores), np.bool_)
    if labels is not None and quotas is not None:
        for label, quota in enumerate(quotas):
            kept[order[labels[order] == label][: max(quota, 0)]] = True
    kept[order[~kept[order]][: max(count - int(kept.sum()), 0)]] = True
    return kept


def tie_hash(ids: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """Hash that breaks ties: splitmix64's finaliser (Steele et al. 2014), twice, of id and seed.

    For one seed it is a bijection of the ids, so two of them never collide. It is the hash by which
    the engine breaks ties ("tie" is its purpose), so both rank alike.

    Args:
        ids: (n,) integers.
        seed: Any integer.

    Returns:
        (n,) uint64.
    """
    word = (zlib.crc32(b"tie") + 1) * _GOLDEN & _MASK
    with np.errstate(over="ignore"):
        key = _finalise(np.array([seed & _MASK ^ word], np.uint64))
        spread = np.asarray(ids).astype(np.int64).view(np.uint64) * np.uint64(_GOLDEN)
        return _finalise(_finalise(spread + key))


def _finalise(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

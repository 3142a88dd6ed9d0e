"""What a side chooses from, and the classes' quotas that every side keeps to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates", "class_quotas", "rank_in_groups"]


@dataclass(frozen=True)
class Candidates:
    """Examples, and how many of them are to be kept.

    Attributes:
        ids: (n,) int64, distinct.
        scores: (n,) float32, finite, higher = harder.
        classes: (n,) int64, positions in ``quotas``.
        quotas: (n_classes,) int64 ≥ 0, at most as many as the class has; their sum is at most
            ``n_keep``.
        n_keep: 1 to n.
        seed: Of ties and random draws, which depend on seed and id and never on the position.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    quotas: NDArray[np.int64]
    n_keep: int
    seed: int

    def part(self, rows: NDArray[np.int64]) -> Candidates:
        """Those at some positions, in that order."""
        return replace(
            self, ids=self.ids[rows], scores=self.scores[rows], classes=self.classes[rows]
        )


def class_quotas(labels: NDArray[np.integer], n_keep: int, class_balance: float) -> dict[int, int]:
    """The least number of examples that each class keeps.

    With f = n_keep / n, class c of n_c examples keeps at least ⌈b·f·n_c⌉ (paper, §5: with b = 0.5
    "essential" on ImageNet). Where the ceilings add up to more than ``n_keep``, which b near 1 can
    cause, the classes with the smallest fractional part are rounded down instead, so that totals
    stay exact.

    Returns:
        Label → quota; the quotas sum to at most ``n_keep``.
    """
    values, sizes = np.unique(labels, return_counts=True)
    # In integers where exact: n_keep · n_c / n, so that b = 1 does not round up by an ulp.
    share = class_balance * (n_keep * sizes.astype(np.float64) / len(labels))
    share = np.where(np.abs(share - np.rint(share)) < 1e-9, np.rint(share), share)
    quotas = np.ceil(share).astype(np.int64)
    excess = int(quotas.sum()) - n_keep
    if excess > 0:
        fraction = np.where(quotas > share, share - np.floor(share), np.inf)
        quotas[np.argsort(fraction, kind="stable")[:excess]] -= 1
    return dict(zip(values.tolist(), quotas.tolist(), strict=True))


def rank_in_groups(groups: NDArray[np.int64], *keys: NDArray[Any]) -> NDArray[np.int64]:
    """Each element's rank in its group, by the keys in turn, smallest first.

    Args:
        groups: (n,) int64 ≥ 0.
        keys: (n,) arrays; what ties in all of them is ranked by position.

    Returns:
        (n,) int64, counted from 0 in every group. O(n log n).
    """
    order = np.lexsort((*reversed(keys), groups))
    sizes = np.bincount(groups)
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks

"""Moderate selection: the examples around the median."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.hashing import example_hash
from tamis.selection.quotas import Candidates, rank_in_groups

__all__ = ["choose_moderate"]


def choose_moderate(examples: Candidates) -> NDArray[np.bool_]:
    """Mark the examples whose scores rank nearest to the 50th percentile (Xia et al. 2023).

    As in the authors' code it is ranks that are near, not scores: a keep fraction f leaves the
    percentiles 50 − 50 f to 50 + 50 f, however skewed the scores are. Their score is the distance
    to the class's median feature; here it is any metric.

    With quotas, each class first keeps those around its own median, and the rest of the budget goes
    to those around the median of all: with a class balance of 1, it is a selection class by class.

    Returns:
        (n,) bool, exactly ``n_keep`` of them True; equal scores are ranked by a hash of seed and
        id, and so is which of two ranks that are equally far is kept. O(n log n).
    """
    ties = example_hash(examples.ids, examples.seed, "tie")
    in_class = _distance_to_middle(examples.classes, examples.scores, ties)
    kept = rank_in_groups(examples.classes, in_class, ties) < examples.quotas[examples.classes]
    all_alike = np.zeros(len(ties), np.int64)
    distance = _distance_to_middle(all_alike, examples.scores, ties)
    rest = np.flatnonzero(~kept)
    ranks = rank_in_groups(all_alike[rest], distance[rest], ties[rest])
    kept[rest] = ranks < examples.n_keep - int(kept.sum())
    return kept


def _distance_to_middle(
    groups: NDArray[np.int64], scores: NDArray[np.float32], ties: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """(n,) int64, in half ranks from the middle of the group."""
    last = np.bincount(groups)[groups] - 1
    distance: NDArray[np.int64] = np.abs(2 * rank_in_groups(groups, scores, ties) - last)
    return distance

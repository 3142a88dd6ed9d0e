"""Coverage-centric selection: some examples of every score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.hashing import example_hash
from tamis.selection.quotas import Candidates, rank_in_groups

__all__ = ["choose_stratified"]


def choose_stratified(examples: Candidates, n_strata: int) -> NDArray[np.bool_]:
    """Mark a sample that covers the range of scores (CCS: Zheng et al. 2023, Algorithm 1).

    The range from the lowest to the highest score is split into strata of equal width; the highest
    score belongs to the last. The budget goes to the smallest stratum first: min(its size, what is
    left of the budget // strata left), of equal ones to the easier first. In each stratum examples
    are drawn uniformly. The hardest that CCS leaves out are no candidates any more.

    With quotas, each class first fills its quota by this rule from its own examples in the same
    strata, and the rest of the budget is spent by this rule on all examples left. The classes'
    budgets are those of their own sizes, which the authors' code for balanced classes mistakes.

    Args:
        examples: See :class:`Candidates`.
        n_strata: Of the range of scores.

    Returns:
        (n,) bool, exactly ``n_keep`` of them True. O(n log n + classes · strata · log strata).
    """
    strata = _strata(examples.scores, n_strata)
    kept = np.zeros(len(strata), np.bool_)
    if examples.quotas.any():
        cells = examples.classes * n_strata + strata
        sizes = np.bincount(cells, minlength=len(examples.quotas) * n_strata)
        budgets = _allocated(sizes.reshape(-1, n_strata), examples.quotas)
        kept = _drawn(examples, cells, budgets.ravel(), stage=0)
    rest = np.flatnonzero(~kept)
    n_open = np.array([examples.n_keep - int(kept.sum())])
    budgets = _allocated(np.bincount(strata[rest], minlength=n_strata)[None], n_open)
    kept[rest] = _drawn(examples.part(rest), strata[rest], budgets.ravel(), stage=1)
    return kept


def _strata(scores: NDArray[np.float32], n_strata: int) -> NDArray[np.int64]:
    """(n,) int64, 0 for the easiest; all 0 where all scores are alike."""
    heights = scores.astype(np.float64) - float(scores.min())
    highest = heights.max()
    if not highest:
        return np.zeros(len(scores), np.int64)
    strata: NDArray[np.int64] = (heights / highest * n_strata).astype(np.int64)
    return np.minimum(strata, n_strata - 1)


def _allocated(sizes: NDArray[np.int64], budgets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Budgets of strata, row by row.

    Args:
        sizes: (m, n_strata) int64.
        budgets: (m,) int64, at most the sum of the row's sizes.

    Returns:
        (m, n_strata) int64; each row sums to its budget, and none is above its stratum's size.
    """
    smallest_first = np.argsort(sizes, axis=1, kind="stable")
    given = np.empty_like(sizes)
    left = budgets.copy()
    n_strata = sizes.shape[1]
    for place in range(n_strata):
        at = smallest_first[:, place, None]
        some = np.minimum(np.take_along_axis(sizes, at, 1)[:, 0], left // (n_strata - place))
        np.put_along_axis(given, at, some[:, None], 1)
        left -= some
    return given


def _drawn(
    examples: Candidates, groups: NDArray[np.int64], budgets: NDArray[np.int64], *, stage: int
) -> NDArray[np.bool_]:
    """Mark ``budgets[g]`` examples of each group g, drawn by a hash of seed and id.

    Each stage has a hash of its own: what one stage has left behind hashes higher than what it
    took, and would not be drawn uniformly by the same hash.
    """
    drawn = example_hash(examples.ids, examples.seed, "strata", stage)
    marked: NDArray[np.bool_] = rank_in_groups(groups, drawn) < budgets[groups]
    return marked

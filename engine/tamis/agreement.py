"""How far metrics agree: with each other, and with themselves in another campaign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.errors import ScoreTableError
from tamis.score_table import ScoreColumn, ScoreTable
from tamis.statistics import rank_correlation
from tamis_kernels import select_top

__all__ = ["Agreement", "Clusters", "cluster_metrics", "compare_tables", "correlate"]


@dataclass(frozen=True)
class Clusters:
    """Metrics in an order in which alike ones stand side by side.

    Attributes:
        order: Positions of the metrics.
        linkage: (m − 1, 4) float64, as scipy's; empty for fewer than two metrics.
    """

    order: list[int]
    linkage: NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """One metric in two campaigns.

    Attributes:
        spearman: Rank correlation over the examples that both score; NaN for constant scores.
        hardest: Share of the hardest tenth of one that the other has among its hardest tenth; 0.1
            is chance.
        n_examples: That both score.
    """

    spearman: float
    hardest: float
    n_examples: int


def correlate(table: ScoreTable) -> NDArray[np.float64]:
    """(m, m) Spearman's correlation of the table's columns, in their order.

    Raises:
        ScoreTableError: A table without scores.
    """
    if not table.columns:
        raise ScoreTableError(
            "score table", expected="metrics", found="none", do="run: tamis score"
        )
    return rank_correlation(np.stack([column.values for column in table.columns.values()]))


def cluster_metrics(correlation: NDArray[np.float64]) -> Clusters:
    """Average linkage at distance 1 − correlation (the paper's figure 5A shows such a matrix).

    Args:
        correlation: (m, m); where it is NaN, as of a constant column, 0 is taken.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if len(correlation) < 2:
        return Clusters(list(range(len(correlation))), np.empty((0, 4)))
    distance = 1 - np.nan_to_num(correlation)
    np.fill_diagonal(distance, 0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    return Clusters([int(leaf) for leaf in leaves_list(tree)], tree)


def compare_tables(one: ScoreTable, other: ScoreTable) -> dict[str, Agreement]:
    """Metric → agreement, for the metrics that both tables hold, in the order of the first.

    Raises:
        ScoreTableError: Tables of different bundles, or without a common metric or example; or
            the same networks in both, which would agree with themselves.
    """
    if one.bundle_digest != other.bundle_digest:
        raise ScoreTableError(
            "score tables",
            expected=f"two of the same bundle ({one.bundle_digest})",
            found=f"another one's ({other.bundle_digest})",
            do="score the same bundle twice, with --seed 0 and --seed 1",
        )
    names = [name for name in one.columns if name in other.columns]
    _, mine, theirs = np.intersect1d(
        one.example_ids, other.example_ids, assume_unique=True, return_indices=True
    )
    if not names or len(mine) < 2:
        raise ScoreTableError(
            "score tables",
            expected="metrics and examples that both hold",
            found=f"{len(names)} metrics, {len(mine)} examples",
            do="score the same metrics in both",
        )
    shared = [
        name for name in names if _networks(one.columns[name]) & _networks(other.columns[name])
    ]
    if shared:
        raise ScoreTableError(
            "score tables",
            expected="two campaigns that share no network",
            found=f"the same networks behind {', '.join(shared)}",
            do="score the second time with another --seed, or without --work of the first",
        )
    return {
        name: _agreement(one.columns[name].values[mine], other.columns[name].values[theirs])
        for name in names
    }


def _agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> Agreement:
    n_hardest, places = max(1, len(a) // 10), np.arange(len(a))
    # Ties are broken otherwise in each table, so that they agree no more than by chance.
    one, other = (
        select_top(values, places, n_hardest, seed=seed) for seed, values in enumerate((a, b))
    )
    rho = float(rank_correlation(np.stack([a, b]))[0, 1])
    return Agreement(rho, float((one & other).sum()) / n_hardest, len(a))


def _networks(column: ScoreColumn) -> set[str]:
    return set(column.info.get("parameters", {}).get("networks", ()))

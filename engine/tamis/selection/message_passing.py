"""D2 selection: hard examples that differ, by messages on a graph of neighbours."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis.hashing import example_hash
from tamis.progress import QUIET, Progress
from tamis.selection.neighbours import Graph, neighbour_graph
from tamis.selection.quotas import Candidates

__all__ = ["choose_d2"]

_LARGEST_SQUARE = 1e36  # of a row, and so of distances: below what float32 can hold


def choose_d2(
    examples: Candidates,
    embeddings: NDArray[np.floating],
    rows: NDArray[np.int64],
    *,
    neighbours: int,
    gamma: float,
    progress: Progress = QUIET,
) -> NDArray[np.bool_]:
    """Mark hard examples that do not repeat each other (D2 Pruning: Maharana et al. 2023).

    Forward: d_i = s_i + Σ_j e^(−‖x_i − x_j‖) · s_j over the neighbours j of i. Then the example i
    with the highest d is kept, again and again, and each of its neighbours still there loses
    e^(−γ ‖x_i − x_j‖) · d_i. Neighbours are joined where either is one of the other's nearest.

    The distances are Euclidean and not squared, as in the authors' code for images (their code for
    DataComp has the squares that faiss gives); embeddings are taken in their own units. Scores are
    shifted to start at 0, as that code does for margins, because messages of a negative score
    would turn round; their scale has no influence, and is divided out. Scores that are all alike
    count as 1, which leaves density and diversity to decide.

    With quotas, an example takes a place of its class's quota or, where that is full, one of those
    that no quota has reserved; once these are gone, only classes below their quota are open.

    Args:
        examples: See :class:`Candidates`.
        embeddings: (m, d), of the examples and perhaps of others.
        rows: (n,) int64, which of them is each example's.
        neighbours: k of the graph, 1 to n − 1.
        gamma: γ ≥ 0.
        progress: Told of the search for neighbours.

    Returns:
        (n,) bool, exactly ``n_keep`` of them True; ties are broken by a hash of seed and id.
        O(n² · d) for the neighbours, O(n · k · log n) for the messages.

    Raises:
        UsageError: Too few examples for k, or rows that are not finite or beyond 1e18.
    """
    if neighbours >= len(examples.ids):
        raise UsageError(
            "--neighbours",
            expected=f"fewer than the {len(examples.ids)} examples to choose from",
            found=str(neighbours),
            do="pass a smaller number",
        )
    # Positions break ties below. In the order of the hash they are no longer the table's.
    order = np.argsort(example_hash(examples.ids, examples.seed, "tie"), kind="stable")
    graph = neighbour_graph(_taken(embeddings, rows[order]), neighbours, progress=progress)
    in_order = examples.part(order)
    density = _forward(graph, _scaled(in_order.scores))
    weights = np.exp(-gamma * graph.distances)
    kept = np.zeros(len(order), np.bool_)
    kept[order] = _keep_greedily(
        density,
        graph.starts,
        graph.ends,
        weights,
        in_order.classes,
        examples.quotas.copy(),
        examples.n_keep,
    )
    return kept


def _taken(embeddings: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        taken = np.asarray(embeddings[rows], np.float32)
    squares = np.einsum("ij,ij->i", taken, taken, dtype=np.float64)
    n_bad = int((~(squares <= _LARGEST_SQUARE)).sum())
    if n_bad:
        raise UsageError(
            "--embeddings",
            expected="finite rows within 1e18",
            found=f"{n_bad} rows that are not finite, or beyond it",
            do="use another encoder",
        )
    return taken


def _scaled(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    heights = scores.astype(np.float64) - float(scores.min())
    highest = heights.max()
    return heights / highest if highest else np.ones(len(scores))


def _forward(graph: Graph, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    messages = np.exp(-graph.distances) * scores[graph.ends]
    return scores + np.bincount(graph.begins, messages, minlength=len(scores))


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_greedily(
    density: NDArray[np.float64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float64],
    classes: NDArray[np.int64],
    reserved: NDArray[np.int64],
    n_keep: int,
) -> NDArray[np.bool_]:
    """Mark the highest again and again, with its message to its neighbours in between.

    ``reserved`` is counted down. A tournament of all examples knows the highest: a change costs a
    path to its root, O(log n), and there is nothing to clean up.
    """
    size = 1
    while size < density.size:
        size *= 2
    values = np.full(size, -np.inf)
    values[: density.size] = density
    winners = np.arange(-size, size)
    for node in range(size - 1, 0, -1):
        _play(winners, values, node)
    kept = np.zeros(density.size, np.bool_)
    n_free = n_keep - reserved.sum()
    n_kept = 0
    while n_kept < n_keep:
        best = winners[1]
        value = values[best]
        values[best] = -np.inf
        _replay(winners, values, best)
        if reserved[classes[best]] > 0:
            reserved[classes[best]] -= 1
        elif n_free > 0:
            n_free -= 1
        else:
            continue
        kept[best] = True
        n_kept += 1
        for edge in range(starts[best], starts[best + 1]):
            other = ends[edge]
            if values[other] > -np.inf:
                values[other] -= weights[edge] * value
                _replay(winners, values, other)
    return kept


@njit(nogil=True, error_model="numpy")
def _play(winners: NDArray[np.int64], values: NDArray[np.float64], node: int) -> None:
    one, other = winners[2 * node], winners[2 * node + 1]
    winners[node] = one if values[one] >= values[other] else other


@njit(nogil=True, error_model="numpy")
def _replay(winners: NDArray[np.int64], values: NDArray[np.float64], changed: int) -> None:
    """Play again wherever the one that has changed plays or would play."""
    node = (winners.size // 2 + changed) // 2
    while node > 0:
        before = winners[node]
        _play(winners, values, node)
        if winners[node] == before != changed:
            return
        node //= 2

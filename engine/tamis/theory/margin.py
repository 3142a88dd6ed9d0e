"""The exact max-margin student of a finite training set, without bias.

The hard margin is the limit of a soft one whose squared shortfalls cost more and more. Each soft
problem is solved by Newton's method, which ends after finitely many steps (Mangasarian 2002), and
tells which examples lie on the margin; once these are the right ones, one linear system gives the
hard-margin student exactly. That it is right is proved by the gap between primal and dual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.errors import WorkFailedError

__all__ = ["Student", "max_margin"]

_Array = NDArray[np.float64]

_ALLOWED_GAP = 1e-9
_COSTS = 10.0 ** np.arange(1, 13)
_NEWTON_STEPS = 60


@dataclass(frozen=True)
class Student:
    """A trained student.

    Attributes:
        weights: (n_dims,) float64 of length 1.
        kappa: The least of its margins.
        gap: What the squared length of the shortest student with margins 1 might still be below
            this one's, relative; at most 1e-9, zero up to rounding.
    """

    weights: _Array
    kappa: float
    gap: float


def max_margin(examples: _Array) -> Student:
    """The student with the largest least margin.

    Args:
        examples: (n, n_dims) float64, inputs times their labels (±1).

    The time goes into linear systems of as many unknowns as there are examples on the margin, some
    tens of them, and as many passes over the examples.

    Raises:
        WorkFailedError: No student separates the examples, or rounding hides which one does best.
    """
    scale = np.sqrt(np.square(examples).sum(1).mean())
    x = examples / scale
    weights = x.mean(0)
    weights /= max(1e-12, float(np.abs(x @ weights).mean()))
    gap = np.inf
    for cost in _COSTS:
        weights = _soft_margin(x, weights, cost)
        support = x @ weights < 1
        if not support.any() or support.sum() > x.shape[1]:
            continue
        short = x[support]
        try:
            alpha = np.linalg.solve(short @ short.T, np.ones(len(short)))
        except np.linalg.LinAlgError:
            continue
        exact = short.T @ alpha
        least = float((x @ exact).min())
        gap = _gap(exact, least, alpha, short)
        if gap <= _ALLOWED_GAP:
            length = float(np.linalg.norm(exact))
            return Student(exact / length, scale * least / length, max(gap, 0.0))
    raise WorkFailedError(
        "the max-margin student",
        expected=f"a relative duality gap of at most {_ALLOWED_GAP:g}",
        found=f"{gap:.1e}",
        do="check that the labels are those of a linear teacher",
    )


def _gap(weights: _Array, least: float, alpha: _Array, short: _Array) -> float:
    """Relative gap of the squared lengths: scaled until feasible, against any dual ≥ 0."""
    if least <= 0:
        return np.inf
    dual = np.maximum(alpha, 0)
    reach = short.T @ dual
    bound = dual.sum() ** 2 / (reach @ reach)
    return float(1 - bound * least * least / (weights @ weights))


def _soft_margin(x: _Array, weights: _Array, cost: float) -> _Array:
    """Minimise \\|w\\|²/2 + cost Σ (1 − x w)₊²/2 from where the last cost ended."""
    margins = x @ weights
    value = _objective(weights, margins, cost)
    for _ in range(_NEWTON_STEPS):
        support = margins < 1
        target = _ridge(x[support], cost)
        towards = x @ target
        length = 1.0
        while True:
            moved = weights + length * (target - weights)
            moved_margins = margins + length * (towards - margins)
            moved_value = _objective(moved, moved_margins, cost)
            if moved_value <= value * (1 + 1e-13) or length < 1e-6:
                break
            length /= 2
        same = length == 1.0 and np.array_equal(moved_margins < 1, support)
        weights, margins, value = moved, moved_margins, moved_value
        if same:
            break
    return weights


def _objective(weights: _Array, margins: _Array, cost: float) -> float:
    return 0.5 * float(weights @ weights) + 0.5 * cost * float(
        np.square(np.maximum(1 - margins, 0)).sum()
    )


def _ridge(short: _Array, cost: float) -> _Array:
    """The minimum if these examples were the ones below the margin; by the smaller system."""
    n, n_dims = short.shape
    if n < n_dims:
        gram = short @ short.T + np.eye(n) / cost
        return np.asarray(short.T @ np.linalg.solve(gram, np.ones(n)), np.float64)
    gram = short.T @ short + np.eye(n_dims) / cost
    return np.asarray(np.linalg.solve(gram, short.sum(0)), np.float64)

"""Memorization and influence, from networks that were trained with and without an example."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.metrics.evidence import SubsetRuns
from tamis.metrics.metric import FromSubsets, Metric
from tamis_kernels import influence_reduce, memorization

__all__ = ["METRICS"]


_SPAN = 1e-3  # of what ties go by; less where more networks make finer steps


def _memorization(runs: SubsetRuns) -> NDArray[Any]:
    """Shares of right answers, of which few networks tell few apart; ties go by the probability.

    Where 3 of 10 networks did not see an example, a quarter of a hard set has exactly 1. Of two
    examples that are alike in the counts, the one whose label the others find less likely is the
    more memorized; what is added is less than half of a step between counts.
    """
    counted: NDArray[Any] = memorization(runs.masks, runs.correct)
    n_in = int(runs.masks[:, 0].sum(dtype=np.int64))  # and as many for any other example
    steps = math.lcm(n_in, len(runs.masks) - n_in)
    added = min(_SPAN, 0.99 / steps) * (0.5 - runs.held_out_p)
    return (counted + added).astype(np.float32)


def _influence_max(runs: SubsetRuns) -> NDArray[Any]:
    found: NDArray[Any] = influence_reduce(runs.masks, runs.correct_test).max
    return found


def _influence_sum(runs: SubsetRuns) -> NDArray[Any]:
    found: NDArray[Any] = influence_reduce(runs.masks, runs.correct_test).sum_abs
    return found


_PAPER = "Feldman & Zhang 2020, arXiv:2008.03703"

METRICS = (
    Metric(
        "memorization",
        "right only if it was trained on",
        labels=True,
        reading=FromSubsets(_memorization),
        version=2,
        source="accuracy on it of networks trained on it, less that of the others, ties by the"
        f" probability of its label; {_PAPER}",
    ),
    Metric(
        "influence-max",
        "some test example is right only if it was trained on",
        labels=True,
        reading=FromSubsets(_influence_max, test=True),
        source=f"largest influence on a test example; {_PAPER}",
    ),
    Metric(
        "influence-sum-abs",
        "test examples depend on it",
        labels=True,
        reading=FromSubsets(_influence_sum, test=True),
        source=f"Σ |influence| over the test examples; {_PAPER}",
    ),
)

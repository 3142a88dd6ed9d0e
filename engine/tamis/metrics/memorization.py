"""Memorization and influence, from networks that were trained with and without an example."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tamis.metrics.evidence import SubsetRuns
from tamis.metrics.metric import FromSubsets, Metric
from tamis_kernels import influence_reduce, memorization

__all__ = ["METRICS"]


def _memorization(runs: SubsetRuns) -> NDArray[Any]:
    found: NDArray[Any] = memorization(runs.masks, runs.correct)
    return found


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
        source=f"accuracy on it of networks trained on it, less that of the others; {_PAPER}",
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

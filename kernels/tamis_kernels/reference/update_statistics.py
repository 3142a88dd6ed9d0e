"""Definition of update_statistics, in float64, from the whole history of every example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Presentation", "update_statistics"]


@dataclass(frozen=True)
class Presentation:
    """The examples of one call.

    Attributes:
        run: Which training run it belongs to; calls of a run follow each other.
        epoch: Of that run, from 0.
        example_ids: (b,) integers.
        correct: (b,) bool.
        values: Name of a quantity → (b,) floats.
    """

    run: int
    epoch: int
    example_ids: NDArray[Any]
    correct: NDArray[np.bool_]
    values: Mapping[str, NDArray[Any]]


def update_statistics(
    n_examples: int, presentations: Sequence[Presentation]
) -> dict[str, NDArray[Any]]:
    """What is to be known of each example after all presentations.

    An id that a call holds several times counts once, with its last row.

    - ``count``: presentations, over all runs.
    - ``forgetting``: times it was correct and at its next presentation in the same run was not
      (Toneva et al. 2019, arXiv:1812.05159).
    - ``first_learned``: smallest epoch, over all runs, at which it was correct; −1 if never.
    - ``last_correct``: whether it was correct when the last run showed it last; 0 if it did not.
    - ``NAME_mean``, ``NAME_variance``: of the quantity over all presentations, the variance divided
      by their number; NaN for an example never shown or once shown with a value that is not finite.

    Returns:
        Name → (n_examples,) array, integers or float64.
    """
    histories: list[list[tuple[Presentation, int]]] = [[] for _ in range(n_examples)]
    for presentation in presentations:
        last_row = {int(id_): row for row, id_ in enumerate(presentation.example_ids)}
        for id_, row in last_row.items():
            histories[id_].append((presentation, row))
    last_run = presentations[-1].run if presentations else 0
    found = {
        "count": [len(history) for history in histories],
        "forgetting": [_forgetting(history) for history in histories],
        "first_learned": [
            min((shown.epoch for shown, row in history if shown.correct[row]), default=-1)
            for history in histories
        ],
        "last_correct": [
            int(bool(history) and history[-1][0].run == last_run and _correct(history[-1]))
            for history in histories
        ],
    }
    arrays: dict[str, NDArray[Any]] = {name: np.array(values) for name, values in found.items()}
    for name in presentations[0].values if presentations else ():
        moments = np.array([_moments(history, name) for history in histories]).reshape(-1, 2)
        arrays[f"{name}_mean"], arrays[f"{name}_variance"] = moments.T
    return arrays


def _correct(shown: tuple[Presentation, int]) -> bool:
    presentation, row = shown
    return bool(presentation.correct[row])


def _forgetting(history: list[tuple[Presentation, int]]) -> int:
    return sum(
        before[0].run == after[0].run and _correct(before) and not _correct(after)
        for before, after in pairwise(history)
    )


def _moments(history: list[tuple[Presentation, int]], name: str) -> tuple[float, float]:
    values = np.array([presentation.values[name][row] for presentation, row in history], np.float64)
    if not len(values) or not np.isfinite(values).all():
        return np.nan, np.nan
    return float(values.mean()), float(values.var())

"""What trainings and scores take, from what they took in the pilot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.points import Point

__all__ = ["Costs", "fit_costs", "recorded_scoring"]

_Basis = Literal["n_kept", "n_total", "constant"]


@dataclass(frozen=True)
class Costs:
    """Predicts what a run takes; None where the pilot does not say.

    Attributes:
        basis: What optimizer steps (without them, seconds) are proportional to.
        steps_each: Steps per example of the basis.
        seconds_each: Seconds per example of the basis.
        scoring: Metric → seconds of scoring one example of the stock.
    """

    basis: _Basis
    steps_each: float | None
    seconds_each: float | None
    scoring: Mapping[str, float]

    def steps(self, n_kept: float, n_total: float) -> float | None:
        """Of one training."""
        each = self.steps_each
        return None if each is None else each * _size(self.basis, n_kept, n_total)

    def seconds(self, n_kept: float, n_total: float) -> float | None:
        """Of one training, without scores."""
        each = self.seconds_each
        return None if each is None else each * _size(self.basis, n_kept, n_total)

    def scoring_seconds(self, metric: str, n_total: float) -> float | None:
        """Of all scores of a stock: 0 for what needs none, None where it is not known."""
        if metric in ("full", "random"):
            return 0.0
        each = self.scoring.get(metric)
        return None if each is None else each * n_total


def fit_costs(points: Iterable[Point], scoring_seconds: Mapping[str, float] | None = None) -> Costs:
    """From the runs of one recipe and budget.

    A sweep with the budget "steps" gives every run of a stock as many steps, one with "epochs"
    gives them by the examples kept. Which it was is seen in the steps themselves. Seconds are those
    of a step, averaged so that long runs count the more, and a start-up that is the same for all
    runs the less.

    Args:
        points: Any number.
        scoring_seconds: Metric → seconds that scoring the pilot's largest stock took.
    """
    points = list(points)
    largest = max(p.n_total for p in points)
    scoring = {name: s / largest for name, s in (scoring_seconds or {}).items()}
    counted = [p for p in points if p.steps]
    timed = [p for p in points if p.seconds]
    measured = counted or timed
    if not measured:
        return Costs("n_kept", None, None, scoring)
    values = np.array([(p.steps if counted else p.seconds) or 0 for p in measured], np.float64)
    basis = _basis(measured, values)
    sizes = sum(_size(basis, p.n_kept, p.n_total) for p in measured)
    each = float(values.sum() / sizes)
    if not counted:
        return Costs(basis, None, each, scoring)
    both = [p for p in counted if p.seconds]
    if not both:
        return Costs(basis, each, None, scoring)
    a_step = sum(p.seconds or 0.0 for p in both) / sum(p.steps or 0 for p in both)
    return Costs(basis, each, each * a_step, scoring)


def recorded_scoring(runs: Path, points: Iterable[Point]) -> dict[str, float]:
    """What scoring the largest set took a sweep that computed its scores itself.

    Metric → seconds. One campaign serves all metrics, so each is given the whole of it: an upper
    bound. Empty for a sweep that was given its scores, and for a CSV file.
    """
    if runs.is_file():
        return {}
    from tamis.sweep.scoring import scoring_seconds  # and with it torch

    seconds = scoring_seconds(runs)
    metrics = {p.metric for p in points} - {"full", "random"}
    return dict.fromkeys(sorted(metrics), seconds[max(seconds)]) if seconds else {}


def _basis(points: list[Point], values: NDArray[np.float64]) -> _Basis:
    """To what the values are proportional best."""
    order: tuple[_Basis, ...] = ("n_kept", "n_total", "constant")
    spread = [
        np.log(values / [_size(basis, p.n_kept, p.n_total) for p in points]).std()
        for basis in order
    ]
    return order[int(np.argmin(np.round(spread, 6)))]


def _size(basis: _Basis, n_kept: float, n_total: float) -> float:
    return {"n_kept": n_kept, "n_total": n_total, "constant": 1.0}[basis]

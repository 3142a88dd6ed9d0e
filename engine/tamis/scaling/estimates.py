"""A number, and where other seeds might have put it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "estimate", "share"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, whose ends are NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def text(self, digits: int = 3) -> str:
        """For people: ``0.51 [0.48, 0.55]``."""
        shown = f"{self.value:.{digits}g}"
        return f"{shown} [{self.low:.{digits}g}, {self.high:.{digits}g}]" if self.known else shown


def estimate(values: NDArray[np.float64]) -> Estimate:
    """From the value of the data, first, and those of the resamples, by percentiles.

    Args:
        values: (1 + m,) float64.
    """
    again = values[1:]
    if not len(again) or np.isnan(again).any():
        return Estimate(float(values[0]), float("nan"), float("nan"))
    # Without interpolation, which infinities do not bear.
    low, high = np.quantile(again, [0.025, 0.975], method="inverted_cdf")
    return Estimate(float(values[0]), float(low), float(high))


def share(holds: NDArray[np.bool_]) -> float:
    """In which share of the resamples something holds; the data themselves, first, do not count.

    NaN without resamples.
    """
    return float(holds[1:].mean()) if len(holds) > 1 else float("nan")

"""How far runs of one cell scatter, from all cells together.

Three to five seeds say little about the scatter of one cell, but a sweep has many. Relative to the
mean error, two things make runs differ: trainings do, by about the same share everywhere, and the
few test examples that are got wrong, by the more the fewer they are. The variance of log error is
therefore taken to be

    tau² + phi (1 − error) / (n_test error),

whose tau² and phi, both at least 0, are fitted to the sample variances. All runs are tested on the
same examples: what these do to all runs alike is no scatter, so phi is not 1, as for tests on fresh
examples, but what the seeds show it to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.curves import Curve

__all__ = ["Noise", "fit_noise"]

_Array = NDArray[np.float64]

_LEAST = 1e-10  # a variance below which nobody's runs scatter
_ROUNDS = 5


@dataclass(frozen=True)
class Noise:
    """The variance of the log error of one run.

    Attributes:
        tau2: The part that is the same everywhere.
        phi: Of the binomial variance.
        n_test: Test examples; None where unknown.
        freedom: Degrees of freedom behind it; 0 where no cell has two runs. Then only its ratios
            between sizes mean something.
    """

    tau2: float
    phi: float
    n_test: int | None
    freedom: int

    def variance(self, error: _Array) -> _Array:
        """(…) float64 for mean errors."""
        return np.maximum(self.tau2 + self.phi * _binomial(error, self.n_test), _LEAST)


def fit_noise(curves: Iterable[Curve], n_test: int | None = None) -> Noise:
    """Fit to all cells of some curves.

    Args:
        curves: Of one recipe and budget.
        n_test: Test examples; None: phi = 0.
    """
    from scipy.optimize import nnls

    found = [_cells(curve) for curve in curves]
    error, sample, freedom = (np.concatenate(part) for part in zip(*found, strict=True))
    total = int(freedom.sum())
    if not total:
        return Noise(0.0 if n_test else 1.0, 1.0 if n_test else 0.0, n_test, 0)
    design = np.stack([np.ones_like(error), _binomial(error, n_test)], axis=1)
    if not design[:, 1].any():
        design = design[:, :1]
    variance = np.full_like(error, max(_LEAST, np.average(sample, weights=freedom)))
    for _ in range(_ROUNDS):
        # A sample variance has the variance 2 v² / freedom.
        weight = np.sqrt(freedom) / variance
        parts, _ = nnls(design * weight[:, None], sample * weight)
        variance = np.maximum(design @ parts, _LEAST)
    tau2, phi = (*parts, 0.0)[:2]
    return Noise(float(tau2), float(phi), n_test, total)


def _cells(curve: Curve) -> tuple[_Array, _Array, _Array]:
    """Mean errors, relative sample variances and their degrees of freedom, cell by cell."""
    freedom = (curve.n_runs - 1).astype(np.float64)
    several = freedom > 0
    squares = np.nansum(curve.deviations**2, axis=0)[several]
    return curve.means[several], squares / freedom[several], freedom[several]


def _binomial(error: _Array, n_test: int | None) -> _Array:
    if n_test is None:
        return np.zeros_like(error)
    return np.asarray((1 - error) / (n_test * error), np.float64)

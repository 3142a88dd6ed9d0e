"""One curve: which law, with which parameters, and how sure.

The likelihood is Gaussian in the logarithm of the error, run by run: runs scatter about the mean of
their size as :mod:`tamis.scaling.noise` says, up to one factor that is fitted with the law, and
counted. AICc then is N log(Q / N) + 2 K + 2 K (K + 1) / (N − K − 1) for N runs and K parameters,
with Q the weighted squares about the law (Hurvich & Tsai 1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.curves import Curve
from tamis.scaling.estimates import Estimate, estimate, share
from tamis.scaling.fitting import fit_law
from tamis.scaling.laws import LAWS, Law, local_slope, log_error, size_of_error
from tamis.scaling.noise import Noise
from tamis.scaling.resampling import LEAST_SEEDS, Seeds, log_means, longer_tail

__all__ = ["LEAST_SIZES", "NO_LAW", "CurveStudy", "LawFit", "LocalSlope", "analyse", "analyse_end"]

_Array = NDArray[np.float64]

LEAST_SIZES = 3
"""Sizes that the smallest law asks for."""
NO_LAW = 0.01
"""Probability of a scatter about the chosen law below which no law is said to fit."""
_BEND_SIZES = 4
_LEAVING_OUT = 5  # sizes from which on each is left out in turn


@dataclass(frozen=True)
class LawFit:
    """A law on a curve.

    Attributes:
        law: Which one.
        theta: (1 + m, 4) parameters of the data and of m resamples: see :mod:`tamis.scaling.laws`.
        aicc: (1 + m,) the criterion of each; infinite with too few runs.
        weight: Akaike weight among the laws that could be fitted; NaN where none has a finite AICc.
        parameters: Those of the law's formula.
        held_out: log(predicted / measured error) at the largest size, fitted without it; None with
            too few sizes.
        left_out: Root mean square of the same over all sizes, each left out in turn; None with
            fewer than 5 sizes, or too few for the law.
    """

    law: Law
    theta: _Array
    aicc: _Array
    weight: float
    parameters: dict[str, Estimate]
    held_out: float | None
    left_out: float | None


@dataclass(frozen=True)
class LocalSlope:
    """−d log error / d log n between two neighbouring sizes."""

    n_low: float
    n_high: float
    slope: Estimate


@dataclass(frozen=True)
class CurveStudy:
    """What a curve says.

    Attributes:
        curve: The runs.
        centre: n0, the geometric mean of the sizes.
        log_means: (1 + m, k) logarithms of the mean errors: the data, then m resamples.
        fits: The laws that could be fitted.
        refused: Name of each other law → why not.
        choice: (1 + m,) which of ``fits`` has the least AICc; the first where none is finite.
        slopes: Between neighbouring sizes.
        end_slope: Of the chosen law at the largest size.
        bend: By how much the local slope grows with each factor of ten in n, of the parabola
            through the points in log–log axes; None with fewer than 4 sizes.
        bends: (1 + m,) the same of the data and the resamples, or None.
        end_bend: The same of the larger half of the sizes, four at least.
        misfit: Probability of a scatter about the chosen law that is as large, were it true; NaN
            where the scatter of runs is unknown or no size is left to tell.
        resampled: "seeds", "cells", "residuals" or "nothing": where the intervals come from.
    """

    curve: Curve
    centre: float
    log_means: _Array
    fits: tuple[LawFit, ...]
    refused: dict[str, str]
    choice: NDArray[np.int64]
    slopes: tuple[LocalSlope, ...]
    end_slope: Estimate
    bend: Estimate | None
    bends: _Array | None
    end_bend: Estimate | None
    misfit: float
    resampled: str

    @property
    def chosen(self) -> LawFit:
        """The law with the least AICc on the data."""
        return self.fits[int(self.choice[0])]

    def fit(self, name: str) -> LawFit | None:
        """The fit of a law; None where it was refused."""
        return next((fit for fit in self.fits if fit.law.name == name), None)

    def log_error(self, n_kept: _Array) -> _Array:
        """(1 + m, len(n_kept)) by the law that each resample chooses."""
        return log_error(self._theta(), np.log(n_kept / self.centre))

    def local_slope(self, n_kept: _Array) -> _Array:
        """As :meth:`log_error`, −d log error / d log n."""
        return local_slope(self._theta(), np.log(n_kept / self.centre))

    def n_kept(self, error: float) -> _Array:
        """(1 + m,) examples with which each resample's law reaches an error; NaN for never."""
        with np.errstate(over="ignore"):
            return np.asarray(self.centre * np.exp(size_of_error(self._theta(), error)), np.float64)

    def steeper(self) -> tuple[float, float]:
        """How much the laws that fall faster than any power law are better.

        Returns:
            The least AICc of both power laws minus that of the others, and the share of resamples
            in which it is above 0. NaN where either side is missing.
        """
        sides = [
            [fit.aicc for fit in self.fits if fit.law.is_power == power] for power in (True, False)
        ]
        if not all(sides):
            return math.nan, math.nan
        power, steep = (np.min(side, axis=0) for side in sides)
        if not (np.isfinite(power[0]) and np.isfinite(steep[0])):
            return math.nan, math.nan
        return float(power[0] - steep[0]), share(power > steep)

    def _theta(self) -> _Array:
        every = np.stack([fit.theta for fit in self.fits])
        return np.asarray(every[self.choice, np.arange(len(self.choice))], np.float64)


def analyse(curve: Curve, noise: Noise, draws: Seeds, laws: Sequence[Law] = LAWS) -> CurveStudy:
    """Fit the laws that a curve has sizes for.

    Args:
        curve: Of at least ``LEAST_SIZES`` sizes.
        noise: Of the sweep that it is a part of.
        draws: The resamples, shared by the sweep's curves.
        laws: To compare; the first one asks for no more than ``LEAST_SIZES`` sizes.
    """
    centre = float(np.exp(np.log(curve.n_kept).mean()))
    x = np.log(curve.n_kept / centre)
    variance = noise.variance(curve.means)
    y = log_means(curve, noise, draws)
    resampled = "seeds" if curve.n_runs.min() >= LEAST_SEEDS else "cells"
    weight = curve.n_runs / variance
    if len(y) == 1:
        y, resampled = _with_residuals(x, y, weight, noise, draws.generator(curve), draws)
    pure = float(np.nansum(curve.deviations**2 / variance))
    n_runs = int(curve.n_runs.sum())
    fits, refused = [], {}
    for law in laws:
        if len(x) > law.n_parameters:
            fits.append(_fit(law, x, y, weight, pure, n_runs, centre))
        else:
            refused[law.name] = (
                f"{len(x)} sizes; {law.n_parameters} parameters ask for {law.n_parameters + 1}"
            )
    fits = _weighed(fits)
    choice = np.argmin([fit.aicc for fit in fits], axis=0)
    bends = _bends(x, y, weight)
    half = slice(-max(_BEND_SIZES, math.ceil(len(x) / 2)), None)
    end_bends = _bends(x[half], y[:, half], weight[half])
    study = CurveStudy(
        curve, centre, y, tuple(fits), refused, choice,
        slopes=_neighbours(curve.n_kept, y),
        end_slope=Estimate(math.nan, math.nan, math.nan),
        bend=None if bends is None else estimate(bends),
        bends=bends,
        end_bend=None if end_bends is None else estimate(end_bends),
        misfit=_misfit(fits[choice[0]], x, y[0], weight, noise.freedom),
        resampled=resampled,
    )  # fmt: skip
    end = estimate(study.local_slope(curve.n_kept[-1:])[:, 0])
    return CurveStudy(**{**study.__dict__, "end_slope": end})


def analyse_end(study: CurveStudy, noise: Noise, draws: Seeds) -> CurveStudy:
    """The longest end of a curve that a law describes; the last four sizes where there is none.

    Curves with a knee follow a law beyond it: what comes before would only mislead a prediction.

    Args:
        study, noise, draws: Of :func:`analyse`.
    """
    while study.misfit < NO_LAW and len(study.curve.n_kept) > LEAST_SIZES + 1:
        rest = np.arange(len(study.curve.n_kept)) > 0
        study = analyse(study.curve.part(rest), noise, draws)
    return study


def _with_residuals(
    x: _Array,
    y: _Array,
    weight: _Array,
    noise: Noise,
    rng: np.random.Generator,
    draws: Seeds,
) -> tuple[_Array, str]:
    """Resamples where no cell has two runs: scatter as about the law that has the least."""
    best: tuple[float, int] | None = None
    for law in LAWS:
        freedom = len(x) - law.n_parameters
        if freedom > 0:
            variance = float(fit_law(law, x, y, weight).squares[0]) / freedom
            if best is None or variance < best[0]:
                best = (variance, freedom)
    if best is None:
        return y, "nothing"
    # What few test examples do is known, and cannot be less.
    variance = max(best[0], 1.0) if noise.n_test else best[0]
    spread = longer_tail(best[1]) * np.sqrt(variance / weight)
    moved = spread * rng.standard_normal((draws.n_resamples, len(x)))
    return np.concatenate([y, y + moved]), "residuals"


def _fit(
    law: Law, x: _Array, y: _Array, weight: _Array, pure: float, n_runs: int, centre: float
) -> LawFit:
    found = fit_law(law, x, y, weight)
    k = law.n_parameters + 1  # and the scatter
    squares = np.maximum(found.squares + pure, np.finfo(np.float64).tiny)
    spare = n_runs - k - 1
    aicc = n_runs * np.log(squares / n_runs) + 2 * k
    aicc += 2 * k * (k + 1) / spare if spare > 0 else np.inf
    natural = law.natural(found.theta, centre)
    parameters = {name: estimate(values) for name, values in natural.items()}
    held_out, left_out = _predicted(law, x, y[0], weight)
    return LawFit(law, found.theta, aicc, math.nan, parameters, held_out, left_out)


def _predicted(law: Law, x: _Array, y: _Array, weight: _Array) -> tuple[float | None, float | None]:
    """Errors at sizes that were left out: the largest, and all in turn."""
    if len(x) - 1 <= law.n_parameters:
        return None, None
    without = weight * (1 - np.eye(len(x)))
    theta = fit_law(law, x, np.tile(y, (len(x), 1)), without).theta
    off = np.diagonal(log_error(theta, x)) - y
    every = float(np.sqrt((off**2).mean())) if len(x) >= _LEAVING_OUT else None
    return float(off[-1]), every


def _weighed(fits: list[LawFit]) -> list[LawFit]:
    """With Akaike weights."""
    aicc = np.array([fit.aicc[0] for fit in fits])
    if not np.isfinite(aicc).any():
        return fits
    weights = np.exp(-0.5 * (aicc - aicc.min()))
    weights /= weights.sum()
    return [
        LawFit(**{**fit.__dict__, "weight": float(w)}) for fit, w in zip(fits, weights, strict=True)
    ]


def _neighbours(n_kept: _Array, y: _Array) -> tuple[LocalSlope, ...]:
    slopes = -np.diff(y, axis=1) / np.diff(np.log(n_kept))
    return tuple(
        LocalSlope(float(n_kept[i]), float(n_kept[i + 1]), estimate(slopes[:, i]))
        for i in range(len(n_kept) - 1)
    )


def _bends(x: _Array, y: _Array, weight: _Array) -> _Array | None:
    """Growth of the local slope per factor of ten, of weighted parabolas."""
    if len(x) < _BEND_SIZES:
        return None
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    root = np.sqrt(weight)
    parts = np.linalg.pinv(design * root[:, None]) @ (y * root).T
    return np.asarray(-2 * math.log(10) * parts[2], np.float64)


def _misfit(fit: LawFit, x: _Array, y: _Array, weight: _Array, freedom: int) -> float:
    from scipy.special import fdtrc

    spare = len(x) - fit.law.n_parameters
    if not freedom or spare < 1:
        return math.nan
    squares = float((weight * (y - log_error(fit.theta[:1], x)[0]) ** 2).sum())
    return float(fdtrc(spare, freedom, squares / spare))

"""What the mean errors of a curve might have been with other seeds.

With three seeds or more, seeds are drawn with replacement, the same ones for all sizes and all
curves, as runs of one seed share their order and their subsets. Deviations of a few seeds are too
small (by √((m − 1) / m)) and their tails too short (Student's, not Gauss's); both are made good by
one factor, with which a 95 % interval of a mean is that of Student's t. With fewer seeds,
deviations are Gaussian, independent, and as wide as all cells together say.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tamis.hashing import derived_seed
from tamis.scaling.curves import Curve
from tamis.scaling.noise import Noise

__all__ = ["LEAST_SEEDS", "Seeds", "log_means", "longer_tail", "widening"]

_Array = NDArray[np.float64]

LEAST_SEEDS = 3
"""From how many seeds on they are resampled themselves."""
_GAUSS = 1.959963984540054


class Seeds:
    """Draws of seeds that all curves share.

    Args:
        seeds: All of them, in any order.
        n_resamples: How many draws.
        seed: Makes the draws repeatable.
    """

    def __init__(self, seeds: NDArray[np.int64], n_resamples: int, seed: int = 0) -> None:
        self.seeds = np.unique(seeds)
        self.n_resamples, self.seed = n_resamples, seed
        m = len(self.seeds)
        rng = np.random.default_rng(derived_seed(seed, "seeds of scaling", m))
        self._counts = rng.multinomial(m, np.full(m, 1 / m), size=n_resamples).astype(np.float64)

    def counts(self, seeds: NDArray[np.int64]) -> _Array:
        """(n_resamples, m) how often each of some seeds was drawn."""
        return self._counts[:, np.searchsorted(self.seeds, seeds)]

    def generator(self, curve: Curve) -> np.random.Generator:
        """Random numbers of a curve's own, the same in every call."""
        return np.random.default_rng(derived_seed(self.seed, repr(curve.key), 0))


def widening(n_seeds: int) -> float:
    """The factor of deviations that makes percentiles of ``n_seeds`` ≥ 2 Student's interval."""
    return math.sqrt(n_seeds / (n_seeds - 1)) * longer_tail(n_seeds - 1)


def longer_tail(freedom: int) -> float:
    """How much wider Student's 95 % interval is than Gauss's."""
    from scipy.special import stdtrit  # scipy.stats has it, too, and takes a second to import

    return float(stdtrit(freedom, 0.975)) / _GAUSS


def log_means(curve: Curve, noise: Noise, draws: Seeds) -> _Array:
    """Logarithms of mean errors: the curve's own, then those of the resamples.

    Without any cell of two runs there is nothing to draw from, and the first row stands alone: see
    :func:`tamis.scaling.analysis.analyse` for what is done then.

    Returns:
        (1 + n_resamples, k) or (1, k) float64.
    """
    centre = np.log(curve.means)
    few = int(curve.n_runs.min())
    if few >= LEAST_SEEDS:
        counts = draws.counts(curve.seeds)
        there = np.isfinite(curve.errors).astype(np.float64)
        drawn = counts @ there
        # A cell none of whose seeds was drawn keeps its mean.
        shift = counts @ np.nan_to_num(curve.deviations) / np.maximum(drawn, 1)
        moved = widening(few) * shift
    elif noise.freedom:
        spread = np.sqrt(noise.variance(curve.means) / curve.n_runs)
        spread *= longer_tail(noise.freedom)
        rng = draws.generator(curve)
        moved = spread * rng.standard_normal((draws.n_resamples, len(centre)))
    else:
        return centre[None]
    return np.concatenate([centre[None], centre + moved])

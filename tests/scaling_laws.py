"""Sweeps whose law is known: of a formula, or of the theory's perceptron, with seed noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tamis.scaling.points import Point
from tamis.theory.curves import error_curves
from tamis.theory.domain import Side

__all__ = ["law_points", "perceptron_points"]

_PER_DIMENSION = 1000  # examples that stand for one per dimension


def law_points(
    law: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    sizes: Iterable[float],
    *,
    seeds: int = 5,
    noise: float = 0.05,
    rng: int = 0,
    metric: str = "full",
    keep: float = 1.0,
) -> list[Point]:
    """Runs whose error is the law of the kept examples times exp(noise × Gauss)."""
    random = np.random.default_rng(rng)
    kept = np.array(list(sizes), np.float64)
    errors = law(kept) * np.exp(noise * random.standard_normal((seeds, len(kept))))
    return [
        Point(
            n_kept=round(n), n_total=round(n / keep), keep=keep, metric=metric,
            side="full" if metric == "full" else "hard", seed=seed, error=float(errors[seed, i]),
            seconds=0.01 * n, steps=round(n / 10),
        )
        for i, n in enumerate(kept)
        for seed in range(seeds)
    ]  # fmt: skip


def perceptron_points(
    alpha_tot: Iterable[float],
    keeps: Iterable[float],
    theta: float = 0.0,
    side: Side = "hard",
    *,
    seeds: int = 5,
    noise: float = 0.02,
    rng: int = 0,
) -> list[Point]:
    """A sweep over the theory's exact errors; keep 1 is the unpruned curve."""
    stocks = np.array(list(alpha_tot), np.float64)
    points = []
    for number, keep in enumerate(keeps):
        kept = stocks[(stocks * keep >= 0.05) & (stocks * keep <= 200)] * keep
        exact = error_curves(kept, keep, theta, side)[0]
        sizes = kept * _PER_DIMENSION

        def law(
            n: NDArray[np.float64],
            sizes: NDArray[np.float64] = sizes,
            exact: NDArray[np.float64] = exact,
        ) -> NDArray[np.float64]:
            return np.interp(n, sizes, exact)

        metric = "full" if keep == 1 else "random" if side == "random" else "margin"
        found = law_points(
            law, sizes, seeds=seeds, noise=noise, rng=rng + number, metric=metric, keep=keep
        )
        ends = "full" if keep == 1 else side
        points += [replace(point, side=ends) for point in found]
    return points

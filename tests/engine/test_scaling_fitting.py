"""The five laws and their least squares, against scipy and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tamis.scaling.fitting import fit_law
from tamis.scaling.laws import (
    LAWS,
    POWER,
    Law,
    gradient,
    local_slope,
    log_error,
    size_of_error,
)

SIZES = np.geomspace(1000, 50_000, 6)
CENTRE = float(np.exp(np.log(SIZES).mean()))
X = np.log(SIZES / CENTRE)
# A, s, beta, c: power, saturating power, stretched, exponential with floor.
TRUTHS = [(-2, 0.5, 0, 0), (-2, 0.5, 0, 0.05), (-2, 0.5, 0.4, 0), (-2, 0.3, 1, 0.03)]
FORMULAS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "power": lambda n, a, nu: a * n**-nu,
    "saturating power": lambda n, a, nu, c: a * n**-nu + c,
    "exponential": lambda n, a, b: a * np.exp(-b * n),
    "exponential with floor": lambda n, a, b, c: a * np.exp(-b * n) + c,
    "stretched exponential": lambda n, a, b, beta: a * np.exp(-((b * n) ** beta)),
}


def law(name: str) -> Law:
    return next(one for one in LAWS if one.name == name)


@pytest.mark.parametrize("one", LAWS, ids=lambda one: one.name)
def test_natural_parameters_give_the_same_errors(one: Law) -> None:
    theta = np.array([[-1.5, 0.7, 0.6 if one.beta is None else one.beta, 0.04 * one.floor]])
    natural = {name: float(values[0]) for name, values in one.natural(theta, CENTRE).items()}
    assert len(natural) == one.n_parameters
    errors = FORMULAS[one.name](SIZES, **natural)
    np.testing.assert_allclose(np.exp(log_error(theta, X)[0]), errors, rtol=1e-12)


@pytest.mark.parametrize("truth", [*TRUTHS, (-1, 0.8, 1e-12, 0.01)])
def test_derivatives_are_those_of_differences(truth: tuple[float, ...]) -> None:
    theta = np.array([truth], np.float64)
    exact = gradient(theta, X, log_error(theta, X))[0]
    for i in range(4):
        # Of beta and c from within their bounds.
        step = np.zeros(4)
        step[i] = 1e-6
        after, before = log_error(theta + step, X), log_error(theta, X)
        np.testing.assert_allclose(exact[:, i], (after - before)[0] / 1e-6, rtol=1e-4)
    slopes = (log_error(theta, X - 1e-6) - log_error(theta, X + 1e-6)) / 2e-6
    np.testing.assert_allclose(local_slope(theta, X), slopes, atol=1e-7)


def test_sizes_of_errors_are_the_inverse() -> None:
    theta = np.array(TRUTHS, np.float64)
    for x in (-1.0, 0.3, 2.0):
        for row in theta:
            error = float(np.exp(log_error(row[None], np.array([x])))[0, 0])
            assert size_of_error(row[None], error)[0] == pytest.approx(x, abs=1e-9)
    assert np.isnan(size_of_error(theta, 0.02)).tolist() == [False, True, False, True]


def test_the_power_law_is_weighted_regression() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(20, 6))
    weight = rng.uniform(0.1, 5, size=(20, 6))
    found = fit_law(POWER, X, y, weight)
    for row in range(20):
        slope, level = np.polyfit(X, y[row], 1, w=np.sqrt(weight[row]))
        np.testing.assert_allclose(found.theta[row, :2], [level, -slope], rtol=1e-9)
        squares = (weight[row] * (y[row] - level - slope * X) ** 2).sum()
        assert found.squares[row] == pytest.approx(squares, rel=1e-9)


@pytest.mark.parametrize("one", LAWS, ids=lambda one: one.name)
@pytest.mark.parametrize("truth", TRUTHS)
def test_scipy_finds_nothing_better(one: Law, truth: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    y = log_error(np.array([truth], np.float64), X) + 0.03 * rng.normal(size=(6, 6))
    weight = rng.uniform(200, 2000, size=6)
    found = fit_law(one, X, y, weight)
    for row in range(6):
        best = _scipy(one, y[row], weight)
        assert found.squares[row] == pytest.approx(best, rel=1e-5)
        again = (weight * (y[row] - log_error(found.theta[row : row + 1], X)[0]) ** 2).sum()
        assert found.squares[row] == pytest.approx(again, rel=1e-12)


def _scipy(one: Law, y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The least of several starts."""
    free = np.array([True, True, one.beta is None, one.floor])
    bounded = 0.0 if one.n_parameters > 2 else -np.inf
    low, high = np.array([-np.inf, bounded, 0, 0]), np.array([np.inf, np.inf, 3, np.inf])
    costs = []
    for beta, floor in product(
        (0.1, 0.5, 1, 2) if one.beta is None else (one.beta,),
        (1e-4, 0.02, 0.9 * np.exp(y.min())) if one.floor else (0.0,),
    ):
        start = np.array([y.mean(), 0.5, beta, floor], np.float64)

        def residual(
            part: NDArray[np.float64], start: NDArray[np.float64] = start
        ) -> NDArray[np.float64]:
            theta = start.copy()
            theta[free] = part
            return np.asarray(np.sqrt(weight) * (y - log_error(theta[None], X)[0]))

        tight = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
        bounds = (low[free], high[free])
        costs.append(2 * least_squares(residual, start[free], bounds=bounds, **tight).cost)
    return float(min(costs))


@given(
    values=st.lists(st.floats(-6, -0.1), min_size=5, max_size=5),
    spread=st.floats(0.3, 3),
)
def test_richer_laws_fit_at_least_as_well(values: list[float], spread: float) -> None:
    x = spread * np.linspace(-1, 1, 5)
    y = np.array([values])
    weight = np.ones(5)
    squares = {one.name: float(fit_law(one, x, y, weight).squares[0]) for one in LAWS}
    falls = fit_law(POWER, x, y, weight).theta[0, 1] >= 0
    slack = 1e-6 * (1 + squares["power"])
    if falls:  # the richer laws do not rise
        assert squares["saturating power"] <= squares["power"] + slack
        assert squares["stretched exponential"] <= squares["power"] + slack
    if fit_law(law("exponential"), x, y, weight).theta[0, 1] >= 0:
        assert squares["exponential with floor"] <= squares["exponential"] + slack
        assert squares["stretched exponential"] <= squares["exponential"] + slack


def test_a_weight_of_zero_leaves_a_point_out() -> None:
    y = log_error(np.array([TRUTHS[1]], np.float64), X)
    wrong = y.copy()
    wrong[0, -1] += 1.0
    weight = np.array([1, 1, 1, 1, 1, 0.0])
    for one in LAWS:
        some = fit_law(one, X[:-1], y[:, :-1], weight[:-1])
        without = fit_law(one, X, wrong, weight)
        assert without.squares[0] == pytest.approx(some.squares[0], rel=1e-4, abs=1e-12)

"""Curves whose law is known: parameters, intervals, choice of the law, held-out sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from scaling_laws import law_points
from tamis.scaling import laws as scaling
from tamis.scaling.analysis import CurveStudy, analyse, analyse_end
from tamis.scaling.curves import Curve, CurveKey, make_curves
from tamis.scaling.noise import fit_noise
from tamis.scaling.points import Point
from tamis.scaling.resampling import Seeds, log_means, widening

Law = Callable[[NDArray[np.float64]], NDArray[np.float64]]

FIVE = np.geomspace(2000, 50_000, 5)
LAWS: dict[str, tuple[Law, dict[str, float]]] = {
    "power": (lambda n: 3 * n**-0.4, {"nu": 0.4}),
    "saturating power": (lambda n: 30 * n**-0.7 + 0.03, {"nu": 0.7, "c": 0.03}),
    "exponential": (lambda n: 0.4 * np.exp(-n / 15_000), {"b": 1 / 15_000}),
    "exponential with floor": (lambda n: 0.4 * np.exp(-n / 6000) + 0.05, {"c": 0.05}),
    "stretched exponential": (lambda n: np.exp(-((n / 3000) ** 0.5)), {"beta": 0.5}),
}


def study(
    points: list[Point], resamples: int = 100, seed: int = 0, only: str | None = None
) -> CurveStudy:
    curves = list(make_curves(points).values())
    draws = Seeds(np.array([p.seed for p in points]), resamples, seed)
    laws = [law for law in scaling.LAWS if only in (None, law.name)]
    return analyse(curves[0], fit_noise(curves), draws, laws)


@pytest.mark.parametrize("name", list(LAWS))
def test_known_laws_are_recovered_within_their_intervals(name: str) -> None:
    """Coverage of the 95 % intervals over 60 sweeps of five sizes and five seeds."""
    law, truth = LAWS[name]
    hits = dict.fromkeys(truth, 0)
    for rng in range(60):
        fit = study(law_points(law, FIVE, noise=0.03, rng=rng), seed=rng, only=name).chosen
        for parameter, value in truth.items():
            found = fit.parameters[parameter]
            hits[parameter] += found.low <= value <= found.high
    # Intervals that cover 95 % hold in 51 of 60 cases at least, but for one time in 1,300.
    assert all(51 <= count <= 60 for count in hits.values()), hits


def test_intervals_are_no_wider_than_they_must() -> None:
    """Of the power law: the standard error of regression, with Student's t of the seeds."""
    found = []
    for rng in range(60):
        one = study(law_points(LAWS["power"][0], FIVE, rng=rng), only="power")
        nu = one.chosen.parameters["nu"]
        found.append(nu.high - nu.low)
    x = np.log(FIVE)
    error = 0.05 / np.sqrt(5) / np.sqrt(((x - x.mean()) ** 2).sum())
    assert np.median(found) == pytest.approx(2 * stats.t.ppf(0.975, 4) * error, rel=0.25)


@pytest.mark.parametrize("name", list(LAWS))
def test_a_wide_range_shows_the_true_law(name: str) -> None:
    law = LAWS[name][0]
    top = 40_000 if name == "exponential" else 60_000
    chosen = [
        study(law_points(law, np.geomspace(500, top, 8), noise=0.02, rng=rng), 0).chosen.law.name
        for rng in range(10)
    ]
    assert chosen.count(name) >= 8, chosen


def test_weights_follow_from_the_criterion_and_the_criterion_from_its_definition() -> None:
    points = law_points(LAWS["saturating power"][0], FIVE)
    found = study(points)
    curve = next(iter(make_curves(points).values()))
    variance = fit_noise([curve]).variance(curve.means)
    # All 25 runs about the law, on the scale of relative deviations.
    runs = np.log(curve.means) + curve.errors / curve.means - 1
    aicc = []
    for fit in found.fits:
        law = {name: value.value for name, value in fit.parameters.items()}
        if fit.law.name == "power":
            about = law["a"] * curve.n_kept ** -law["nu"]
        elif fit.law.name == "saturating power":
            about = law["a"] * curve.n_kept ** -law["nu"] + law["c"]
        else:
            aicc.append(fit.aicc[0])
            continue
        squares = (((runs - np.log(about)) ** 2) / variance).sum()
        k = fit.law.n_parameters + 1
        aicc.append(25 * np.log(squares / 25) + 2 * k + 2 * k * (k + 1) / (25 - k - 1))
        assert fit.aicc[0] == pytest.approx(aicc[-1], rel=1e-9)
    weights = np.exp(-0.5 * (np.array(aicc) - min(aicc)))
    found_weights = [fit.weight for fit in found.fits]
    np.testing.assert_allclose(found_weights, weights / weights.sum(), rtol=1e-9)


def test_held_out_sizes_are_predicted_without_them() -> None:
    points = law_points(LAWS["power"][0], FIVE)
    found = study(points).fit("power")
    assert found is not None
    curve = next(iter(make_curves(points).values()))
    x, y = np.log(curve.n_kept), np.log(curve.means)
    weight = 1 / np.sqrt(fit_noise([curve]).variance(curve.means))
    off = []
    for left in range(5):
        rest = np.arange(5) != left
        off.append(np.polyval(np.polyfit(x[rest], y[rest], 1, w=weight[rest]), x[left]) - y[left])
    assert found.held_out == pytest.approx(off[-1], rel=1e-6)
    assert found.left_out == pytest.approx(float(np.sqrt(np.mean(np.square(off)))), rel=1e-6)
    # An exponential that was fitted to a power law promises too much beyond its sizes.
    exponential = study(points).fit("exponential")
    assert exponential is not None
    assert exponential.held_out is not None
    assert exponential.held_out < -0.2


def test_slopes_are_those_between_neighbours_and_of_the_law() -> None:
    found = study(law_points(LAWS["power"][0], FIVE, noise=1e-4))
    assert [s.slope.value for s in found.slopes] == pytest.approx([0.4] * 4, abs=1e-3)
    assert found.end_slope.value == pytest.approx(0.4, abs=1e-3)
    assert found.bend is not None
    assert found.bend.value == pytest.approx(0, abs=2e-3)
    # log ε = −(n / 3000)^½: the slope ½ (n / 3000)^½ grows by a factor of √10 with each ten.
    steep = study(law_points(LAWS["stretched exponential"][0], FIVE, noise=1e-4))
    assert steep.end_slope.value == pytest.approx(0.5 * np.sqrt(50 / 3), rel=1e-3)
    assert steep.bend is not None
    assert steep.bend.low > 0.5


def test_laws_with_too_few_sizes_are_refused_in_words() -> None:
    found = study(law_points(LAWS["power"][0], FIVE[:3]))
    assert [fit.law.name for fit in found.fits] == ["power", "exponential"]
    assert found.refused["saturating power"] == "3 sizes; 3 parameters ask for 4"
    assert all(fit.held_out is None for fit in found.fits)
    assert found.bend is None


def test_resamples_are_the_same_in_every_call_and_others_with_another_seed() -> None:
    points = law_points(LAWS["power"][0], FIVE)
    one, same, other = (study(points, seed=seed).chosen.parameters["nu"] for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert one.value == other.value


def test_seeds_are_drawn_for_all_sizes_and_curves_together() -> None:
    """A deviation that a seed has everywhere moves the level, not the slope."""
    points = [
        replace(p, error=0.2 * (p.n_kept / 2000) ** -0.5 * np.exp(0.1 * p.seed))
        for p in law_points(LAWS["power"][0], FIVE, noise=0)
    ]
    found = study(points).fit("power")
    assert found is not None
    nu, a = found.parameters["nu"], found.parameters["a"]
    assert nu.high - nu.low < 1e-6
    assert a.high / a.low > 1.2


@pytest.mark.parametrize("n_seeds", [3, 5, 20])
def test_the_interval_of_a_mean_is_student_s(n_seeds: int) -> None:
    """Over many curves the spread of the resamples is t / 1.96 standard errors."""
    rng = np.random.default_rng(0)
    errors = 0.2 * (1 + 0.05 * rng.standard_normal((n_seeds, 400)))
    key = CurveKey("", "", "full", "full", 1.0)
    n = np.arange(1.0, 401.0)
    curve = Curve(key, n, n, np.arange(n_seeds), errors)
    drawn = log_means(curve, fit_noise([curve]), Seeds(np.arange(n_seeds), 2000))
    error = errors.std(0, ddof=1) / errors.mean(0) / np.sqrt(n_seeds)
    expected = stats.t.ppf(0.975, n_seeds - 1) / stats.norm.ppf(0.975)
    assert np.median(drawn[1:].std(0) / error) == pytest.approx(expected, rel=0.05)
    factor = expected * np.sqrt(n_seeds / (n_seeds - 1))
    assert widening(n_seeds) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(("n_seeds", "resampled"), [(1, "residuals"), (2, "cells"), (3, "seeds")])
def test_few_seeds_are_made_good_by_other_scatter(n_seeds: int, resampled: str) -> None:
    hits = 0
    for rng in range(60):
        points = law_points(LAWS["power"][0], FIVE, seeds=n_seeds, rng=rng)
        found = study(points, only="power")
        assert found.resampled == resampled
        nu = found.chosen.parameters["nu"]
        hits += nu.low <= 0.4 <= nu.high
    assert hits >= 51


def test_one_run_a_size_and_no_spare_size_gives_no_interval() -> None:
    # A power law needs two of three sizes; the scatter about it has one degree of freedom.
    assert study(law_points(LAWS["power"][0], FIVE[:3], seeds=1)).resampled == "residuals"
    (curve,) = make_curves(law_points(LAWS["power"][0], FIVE[:2], seeds=1)).values()
    noise = fit_noise([curve])
    assert noise.freedom == 0
    assert len(log_means(curve, noise, Seeds(curve.seeds, 100))) == 1


def test_noise_has_a_part_of_the_trainings_and_one_of_the_test_set() -> None:
    rng = np.random.default_rng(0)
    n_test, tau = 10_000, 0.03
    curves = []
    for number in range(40):
        mean = np.geomspace(0.3, 0.002, 8)
        spread = np.sqrt(tau**2 + 0.5 * (1 - mean) / (n_test * mean))
        errors = mean * (1 + spread * rng.standard_normal((5, 8)))
        n = np.arange(1.0, 9.0)
        curves.append(Curve(CurveKey("", "", f"m{number}", "", 1), n, n, np.arange(5), errors))
    found = fit_noise(curves, n_test)
    assert found.freedom == 40 * 8 * 4
    assert np.sqrt(found.tau2) == pytest.approx(tau, rel=0.1)
    assert found.phi == pytest.approx(0.5, rel=0.15)
    alone = fit_noise(curves)
    assert alone.phi == 0
    assert alone.tau2 > found.tau2


def test_sizes_without_any_error_are_left_out_and_repeated_runs_averaged() -> None:
    points = law_points(LAWS["power"][0], FIVE, noise=0)
    points += [replace(points[0], n_kept=90_000, n_total=90_000, error=0.0)]
    points += [replace(points[0], error=points[0].error + 0.02)]
    # As many examples but for a damaged one stand in the same cell.
    points += [replace(points[1], n_kept=points[1].n_kept - 1, seed=9)]
    (curve,) = make_curves(points).values()
    assert len(curve.n_kept) == 5
    assert curve.errors[0, 0] == pytest.approx(points[0].error + 0.01)
    assert curve.n_runs.tolist() == [6, 5, 5, 5, 5]


def test_the_end_of_a_curve_with_a_knee_is_found() -> None:
    def knee(n: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(n < 8000, 0.4, 0.4 * (n / 8000) ** -1.0)

    points = law_points(knee, np.geomspace(500, 256_000, 10), noise=0.01)
    curves = list(make_curves(points).values())
    noise, draws = fit_noise(curves), Seeds(np.arange(5), 100)
    whole = analyse(curves[0], noise, draws)
    end = analyse_end(whole, noise, draws)
    assert whole.misfit < 1e-6
    assert end.misfit > 0.01
    assert end.curve.n_kept[0] == pytest.approx(8000, rel=0.01)
    assert end.fit("power").parameters["nu"].value == pytest.approx(1, abs=0.02)  # type: ignore[union-attr]

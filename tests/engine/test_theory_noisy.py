"""Ridge students with wrong labels: closed forms, simulation, and when to keep the easiest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import UsageError
from tamis.theory.domain import Side, as_points
from tamis.theory.noisy import Labels, best_ridge, solve_noisy
from tamis.theory.noisy_law import agreeing_share, second_moments
from tamis.theory.noisy_simulation import ridge_student, simulate_noisy
from tamis.theory.phases import crossover
from tamis.theory.simulation import Setting


def test_least_squares_on_everything_is_the_textbook_s() -> None:
    # y = √(2/pi) T·x + the rest, whose variance is 1 − 2/pi; OLS spreads it over all dimensions.
    for alpha in (1.5, 3.0, 20.0):
        left = (1 - 2 / np.pi) / (alpha - 1)
        R = np.sqrt(2 / np.pi) / np.sqrt(2 / np.pi + left)
        assert float(solve_noisy(alpha).R) == pytest.approx(R, rel=1e-12)
    assert float(solve_noisy(1.0).error) == 0.5  # double descent
    # A large penalty leaves the sum of the examples.
    R = np.sqrt(2 / np.pi) / np.sqrt(2 / np.pi + 1 / 0.7)
    assert float(solve_noisy(0.7, ridge=1e4).R) == pytest.approx(R, rel=1e-3)


def test_moments_are_those_of_a_drawn_sample() -> None:
    rng = np.random.default_rng(5)
    z, w = rng.standard_normal((2, 1_000_000))
    for keep, theta, side, noise, checked in (
        (0.3, 25.0, "hard", 0.2, False), (0.3, 25.0, "easy", 0.2, False),
        (0.3, 25.0, "hard", 0.2, True), (0.3, 25.0, "easy", 0.1, True),
        (0.5, 50.0, "random", 0.1, True), (0.4, 0.0, "hard", 0.3, True),
    ):  # fmt: skip
        angle = np.radians(theta)
        y = np.sign(np.cos(angle) * z + np.sin(angle) * w)
        y = np.where(rng.random(len(z)) < noise, -y, y)
        able = np.flatnonzero(y * z > 0) if checked else np.arange(len(z))
        share = len(able) / len(z)
        if checked:
            assert share == pytest.approx(
                float(agreeing_share(np.array(theta), np.array(noise))), abs=0.002
            )
        if side != "random":
            order = np.argsort(np.abs(z[able]))
            able = able[order if side == "hard" else order[::-1]]
        kept = able[: round(keep * len(z))]
        m = second_moments(as_points(10, keep, theta, side), np.array(noise), checked=checked)
        z_, w_, y_ = z[kept], w[kept], y[kept]
        for name, values in (
            ("yz", y_ * z_), ("yw", y_ * w_), ("zz", z_ * z_), ("zw", z_ * w_), ("ww", w_ * w_),
        ):  # fmt: skip
            assert float(getattr(m, name)) == pytest.approx(float(values.mean()), abs=0.01), name


@pytest.mark.parametrize(
    ("alpha_tot", "keep", "theta", "side", "noise", "ridge", "checked"),
    [
        (4, 0.5, 0, "hard", 0.1, 0.0, False),
        (6, 0.4, 20, "easy", 0.1, 0.1, False),
        (10, 0.2, 40, "hard", 0.3, 0.5, False),
        (1.2, 0.5, 20, "easy", 0.2, 0.0, False),
        (16, 0.3, 30, "hard", 0.0, 0.0, True),
        (8, 0.5, 10, "random", 0.1, 0.01, True),
        (8, 0.3, 60, "easy", 0.2, 1.0, True),
        (10, 0.2, 40, "hard", 0.3, 0.5, True),
    ],
)
def test_solved_and_simulated_agree(
    alpha_tot: float,
    keep: float,
    theta: float,
    side: Side,
    noise: float,
    ridge: float,
    checked: bool,
) -> None:
    point = (alpha_tot, keep, theta, side)
    solved = solve_noisy(*point, noise=noise, ridge=ridge, checked=checked)
    found = simulate_noisy(
        *point, Setting(trials=40, seed=3), noise=noise, ridge=ridge, checked=checked
    )
    for name in ("error", "R", "rho"):
        exact = float(getattr(solved, name))
        allowed = max(4 * getattr(found, f"{name}_se"), 0.04 * abs(exact), 0.004)
        assert abs(getattr(found, name) - exact) <= allowed, name
    assert np.isnan(found.kappa)


def test_the_ridge_student_is_a_stationary_point() -> None:
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((40, 15)), rng.standard_normal(40)
    w = ridge_student(inputs, labels, 0.3)
    np.testing.assert_allclose(inputs.T @ (labels - inputs @ w) / 40, 0.3 * w, atol=1e-12)
    short = ridge_student(inputs[:10], labels[:10], 0.0)
    np.testing.assert_allclose(inputs[:10] @ short, labels[:10])
    np.testing.assert_allclose(short, np.linalg.pinv(inputs[:10]) @ labels[:10])


@given(
    alpha=st.floats(0.05, 200),
    keep=st.floats(0.01, 1),
    theta=st.floats(0, 60),
    side=st.sampled_from(["hard", "easy", "random"]),
    noise=st.floats(0, 0.45),
    checked=st.booleans(),
)
def test_every_point_of_the_domain_is_solved(
    alpha: float, keep: float, theta: float, side: str, noise: float, checked: bool
) -> None:
    if checked:
        keep = min(keep, float(agreeing_share(np.array(theta), np.array(noise))))
    alpha_tot = alpha / keep
    best = best_ridge(alpha_tot, keep, theta, side, noise=noise, checked=checked)
    assert 0 < float(best.error) <= 0.5
    assert np.cos(np.pi * float(best.error)) == pytest.approx(float(best.R), abs=1e-12)
    for ridge in (0.0, 0.01, 1.0):
        found = solve_noisy(alpha_tot, keep, theta, side, noise=noise, ridge=ridge, checked=checked)
        assert 0 < float(found.error) <= 0.5
        if ridge == 0:
            assert float(best.error) <= float(found.error) + 1e-12


def test_wrong_labels_call_for_the_easiest_up_to_larger_sets() -> None:
    for theta in (0.0, 30.0):
        from_on = [float(crossover(0.3, theta, labels=Labels(p))) for p in (0.0, 0.1, 0.3)]
        assert from_on == sorted(from_on)
        assert from_on[2] > 1.05 * from_on[0]


def test_a_check_by_the_scorer_helps_where_labels_are_bad_and_the_scorer_is_not() -> None:
    def error(theta: float, noise: float, checked: bool) -> float:
        return float(best_ridge(20, 0.4, theta, "random", noise=noise, checked=checked).error)

    assert error(5, 0.3, True) < 0.7 * error(5, 0.3, False)
    assert error(50, 0.0, True) > 1.1 * error(50, 0.0, False)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"noise": 0.5}, "noise: expected 0 to 0.45, found 0.5"),
        ({"ridge": -1.0}, "ridge: expected 0 to 10000, found -1"),
        ({"noise": 0.2, "checked": True}, "at most 0.800, the share that the scorer agrees with"),
        ({"noise": [0.1, 0.2, 0.3], "ridge": [0.0, 1.0]}, "arrays whose shapes fit"),
    ],
)
def test_what_lies_outside_is_refused(more: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        solve_noisy(4, 0.9, **more)  # type: ignore[arg-type]

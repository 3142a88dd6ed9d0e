"""Exact students of finite sets, and the solver against them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from tamis.errors import UsageError, WorkFailedError
from tamis.theory.domain import Side
from tamis.theory.margin import max_margin
from tamis.theory.simulation import Setting, draw_kept, simulate
from tamis.theory.solver import solve


@pytest.mark.parametrize(("n", "n_dims", "theta"), [(30, 50, 0), (240, 40, 20), (600, 40, 50)])
def test_the_student_is_that_of_the_least_distance_problem(n: int, n_dims: int, theta: int) -> None:
    draw = draw_kept(2 * n / n_dims, 0.5, theta, "hard", Setting(n_dims=n_dims, seed=n), 0)
    signed = draw.inputs * draw.labels[:, None]
    student = max_margin(signed)
    # Lawson & Hanson: the shortest w with signed·w ≥ 1 is a residual of nonnegative least squares.
    target = np.append(np.zeros(n_dims), 1.0)
    weights = nnls(np.vstack([signed.T, np.ones(n)]), target, maxiter=100 * n)[0]
    residual = np.append(signed.T @ weights, weights.sum()) - target
    expected = residual[:-1] / np.linalg.norm(residual[:-1])
    np.testing.assert_allclose(student.weights, expected, atol=1e-8)
    assert student.kappa == pytest.approx(float((signed @ student.weights).min()), rel=1e-12)
    assert 0 <= student.gap <= 1e-9


def test_a_student_of_one_example_is_that_example() -> None:
    student = max_margin(np.array([[3.0, 4.0]]))
    np.testing.assert_allclose(student.weights, [0.6, 0.8])
    assert student.kappa == pytest.approx(5)


def test_examples_that_cannot_be_separated_are_refused() -> None:
    with pytest.raises(WorkFailedError, match="a relative duality gap"):
        max_margin(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))


def test_what_is_kept_is_what_was_asked_for() -> None:
    setting = Setting(n_dims=50)
    for keep, side in ((0.3, "hard"), (0.3, "easy"), (0.3, "random"), (1.0, "hard")):
        draw = draw_kept(20, keep, 30, side, setting, 4)
        assert draw.inputs.shape == (round(1000 * keep), 50)
        score = np.abs(draw.inputs[:, 0])
        # The 30 % quantiles of |z|: 0.385 from below, 1.036 from above.
        if side == "hard" and keep < 1:
            assert 0.3 < score.max() < 0.47
        if side == "easy":
            assert 0.95 < score.min() < 1.12
        if side == "random":
            assert score.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.15)
        np.testing.assert_array_equal(np.sign(draw.inputs @ draw.teacher), draw.labels)
        assert np.degrees(np.arccos(draw.teacher[0])) == pytest.approx(30)


def test_seeds_decide_and_workers_do_not() -> None:
    asked = (3.0, 0.5, 20.0, "hard")
    settings = [Setting(60, 5, seed, workers) for seed, workers in ((1, 1), (1, 4), (2, 4))]
    one, four, other = (simulate(*asked, setting) for setting in settings)  # type: ignore[arg-type]
    assert one == four
    assert one.error != other.error
    assert (one.n_total, one.n_kept, one.trials) == (180, 90, 5)


SMALL: list[tuple[float, float, float, Side]] = [
    (4, 1.0, 0, "hard"), (4, 0.5, 0, "hard"), (8, 0.2, 0, "easy"), (30, 0.1, 0, "hard"),
    (8, 0.5, 20, "hard"), (16, 0.2, 40, "easy"), (16, 0.5, 10, "easy"), (2, 0.2, 40, "hard"),
    (12, 0.5, 40, "random"),
]  # fmt: skip
FULL: list[tuple[float, float, float, Side]] = [
    (alpha_tot, keep, theta, side)
    for alpha_tot in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
    for keep in (1.0, 0.5, 0.2, 0.1)
    for theta in (0.0, 10.0, 20.0, 40.0)
    for side in ("hard", "easy")
]


@pytest.mark.parametrize("point", SMALL)
def test_solved_and_simulated_agree(point: tuple[float, float, float, Side]) -> None:
    compare(point)


@pytest.mark.slow
@pytest.mark.parametrize("point", FULL)
def test_solved_and_simulated_agree_on_the_whole_grid(
    point: tuple[float, float, float, Side],
) -> None:
    compare(point)


def compare(point: tuple[float, float, float, Side]) -> None:
    alpha_tot, keep, _, side = point
    simulated, solved = simulate(*point, Setting(n_dims=200, trials=40, seed=7)), solve(*point)
    error = float(solved.error)
    # Close to the sudden transition finite sets are spread over both of its sides.
    sudden = side == "hard" and keep <= 0.2 and 1.5 <= alpha_tot * keep <= 2.6
    allowed = max(4 * simulated.error_se, (0.3 if sudden else 0.04) * error, 0.004)
    assert abs(simulated.error - error) <= allowed
    for name in ("R", "rho", "kappa"):
        value, spread = getattr(simulated, name), getattr(simulated, f"{name}_se")
        exact = float(getattr(solved, name))
        allowed = max(4 * spread, (0.3 if sudden else 0.06) * abs(exact), 0.02)
        assert abs(value - exact) <= allowed, name


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"n_dims": 1}, "dim: expected at least 2, found 1"),
        ({"trials": 1}, "trials: expected at least 2, found 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"workers": 0}, "workers: expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Setting(**setting)


def test_sets_too_large_or_empty_are_refused() -> None:
    with pytest.raises(UsageError, match="lower dim"):
        simulate(150, setting=Setting(n_dims=2000))
    with pytest.raises(UsageError, match="raise dim"):
        simulate(0.06, setting=Setting(n_dims=5))

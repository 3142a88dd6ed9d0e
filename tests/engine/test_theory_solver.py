"""The solver against the replica equations of the paper, known limits, and its whole domain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate
from scipy.special import ndtr

from tamis.errors import UsageError
from tamis.theory.domain import threshold
from tamis.theory.plane_moments import bivariate_cdf, wedge_moments
from tamis.theory.solver import Solution, solve

Array = NDArray[np.float64]

LARGE = 0.5005  # alpha × error of the max-margin student of many examples


def upper_tail(x: Array) -> Array:
    return np.asarray(ndtr(-x), np.float64)


@pytest.mark.parametrize(("alpha_tot", "keep"), [(4, 0.5), (20, 0.1), (2, 0.8), (30, 0.3)])
def test_the_paper_s_equations_of_a_perfect_metric_hold(alpha_tot: float, keep: float) -> None:
    found = solve(alpha_tot, keep)
    R, kappa, a = float(found.R), float(found.kappa), alpha_tot * keep
    gamma, rest = float(threshold(keep, "hard")), 1 - R * R

    def gauss(t: float) -> float:
        return float(np.exp(-t * t / 2) / np.sqrt(2 * np.pi))

    def first(t: float) -> float:
        inner = 1 - np.exp(-gamma * (gamma - 2 * R * t) / (2 * rest))
        return float(gauss(t) * np.exp(-R * R * t * t / (2 * rest)) * inner * (kappa - t))

    def second(t: float) -> float:
        below = ndtr(R * t / np.sqrt(rest)) - ndtr((R * t - gamma) / np.sqrt(rest))
        return float(gauss(t) * below * (kappa - t) ** 2)

    ends = (kappa - 12 * max(np.sqrt(rest), 0.3), kappa)
    pull = integrate.quad(first, *ends, epsabs=1e-14, limit=500)[0]
    loss = integrate.quad(second, *ends, epsabs=1e-14, limit=500)[0]
    assert 2 * a / (keep * np.sqrt(2 * np.pi * rest)) * pull == pytest.approx(R, rel=1e-8)
    assert 2 * a / keep * loss == pytest.approx(rest, rel=1e-8)


@pytest.mark.parametrize("side", ["hard", "easy"])
@pytest.mark.parametrize(
    ("alpha_tot", "keep", "theta"), [(4, 0.5, 20), (6, 0.2, 40), (3, 0.8, 10), (1, 0.3, 60)]
)
def test_the_paper_s_equations_of_an_imperfect_metric_hold(
    alpha_tot: float, keep: float, theta: float, side: str
) -> None:
    found = solve(alpha_tot, keep, theta, side)
    R, rho, k = float(found.R), float(found.rho), float(found.kappa)
    a, angle = alpha_tot * keep, np.radians(theta)
    sin2, cos = np.sin(angle) ** 2, np.cos(angle)
    at, weights = np.polynomial.legendre.leggauss(400)
    gamma = float(threshold(keep, side))
    low, high = (0.0, gamma) if side == "hard" else (gamma, 9.0)
    half = low + (at + 1) / 2 * (high - low)
    z = np.concatenate([half, -half])[:, None]
    kept = np.tile(weights * (high - low) / 2, 2)[:, None] * np.exp(-z * z / 2) / keep
    t = k - (at + 1) / 2 * 10
    w = kept / np.sqrt(2 * np.pi) * weights * 5
    L = np.sqrt(sin2 - R * R - rho * rho + 2 * rho * R * cos)
    Gamma = z * (rho * R - cos) - t * (R - rho * cos)
    Delta = (
        z * z * (rho * rho + cos * cos - 2 * rho * R * cos)
        + 2 * t * z * (R * cos - rho)
        + t * t * sin2
    )
    p = np.exp(-((t - rho * z) ** 2) / (2 * (1 - rho**2))) / np.sqrt(2 * np.pi * (1 - rho**2))
    pH = p * upper_tail(Gamma / (np.sqrt(1 - rho**2) * L))
    edge = np.exp(-Delta / (2 * L * L)) * (k - t)
    first = a / (np.pi * L) * (w * edge).sum()
    second = 2 * a * (w * pH * (k - t) ** 2).sum()
    third = pH * (z - rho * t) / (1 - rho**2) * (k - t)
    third = third + edge / (2 * np.pi * L) * (rho * R - cos) / (1 - rho**2)
    assert first == pytest.approx((R - rho * cos) / sin2, abs=1e-8)
    assert second == pytest.approx(1 - (rho**2 + R**2 - 2 * rho * R * cos) / sin2, abs=1e-8)
    assert 2 * a * (w * third).sum() == pytest.approx((rho - R * cos) / sin2, abs=1e-8)


def test_the_two_rows_that_are_known() -> None:
    assert float(solve(4).error) == pytest.approx(0.1137, abs=5e-5)
    assert float(solve(4, 0.5).error) == pytest.approx(0.1361, abs=5e-5)
    # 16 examples per dimension can be halved for nothing.
    assert float(solve(16, 0.5).error) == pytest.approx(float(solve(16).error), rel=1e-5)


def test_with_everything_kept_the_probe_is_of_no_matter() -> None:
    thetas = np.array([0.0, 1e-6, 10, 33, 60])
    found = solve(3.0, 1.0, thetas[:, None], ["hard", "easy", "random"])
    assert np.ptp(found.error) == 0
    np.testing.assert_allclose(found.rho[:, 0], found.R[0, 0] * np.cos(np.radians(thetas)))
    nearly = solve(3.0, 1 - 1e-9, thetas[1:], "hard")  # by the equations of a tilted probe
    np.testing.assert_allclose(nearly.error, found.error[0, 0], rtol=1e-6)
    np.testing.assert_allclose(nearly.rho, found.rho[1:, 0], rtol=1e-6)


def test_the_ends_of_the_domain_may_be_rounded() -> None:
    found = solve(200 / 0.01 * (1 + 1e-12), [0.01 * (1 - 1e-12)], 60 * (1 + 1e-12))
    assert found.points.keep == 0.01
    rounded = float(solve(3, 1 + 1e-12, 20, "easy").error)
    assert rounded == pytest.approx(float(solve(3).error), rel=1e-10)


def test_random_examples_are_fewer_examples() -> None:
    pruned, fewer = solve(10, 0.3, 20, "random"), solve(3)
    assert float(pruned.error) == pytest.approx(float(fewer.error), rel=1e-12)


def test_many_examples_err_as_one_over_their_number() -> None:
    assert 200 * float(solve(200).error) == pytest.approx(LARGE, rel=1e-3)
    # Only the density at the teacher's boundary counts: B times that of random examples.
    for keep, theta in ((0.5, 10.0), (0.5, 40.0), (0.2, 30.0), (0.7, 60.0)):
        gamma = threshold(keep, "hard")
        B = (1 - 2 * upper_tail(gamma / np.sin(np.radians(theta)))) / keep
        assert 200 * float(solve(200 / keep, keep, theta).error) * B == pytest.approx(
            LARGE, rel=0.01
        )
        gamma = threshold(keep, "easy")
        B = 2 * upper_tail(gamma / np.sin(np.radians(theta))) / keep
        if 200 * B > 50:
            easy = float(solve(200 / keep, keep, theta, "easy").error)
            assert 200 * easy * B == pytest.approx(LARGE, rel=0.03)


def test_few_examples_teach_little() -> None:
    # One example in many dimensions: the student is their sum, R = √(2 alpha / pi).
    small = solve(0.05)
    assert float(small.R) == pytest.approx(np.sqrt(2 * 0.05 / np.pi), rel=0.03)
    assert float(small.kappa) == pytest.approx(1 / np.sqrt(0.05), rel=0.02)


def test_the_smallest_shares() -> None:
    # Only the part of the teacher that the probe misses is learnt: R = sin(theta) R(all kept).
    for a, theta in ((0.5, 30.0), (1.0, 60.0), (2.0, 45.0)):
        found, whole = solve(a / 0.01, 0.01, theta), solve(a)
        assert float(found.R) == pytest.approx(np.sin(np.radians(theta)) * float(whole.R), rel=0.02)
    # With a perfect metric nothing is, in proportion to the share.
    halves = solve(1 / np.array([0.01, 0.02]), [0.01, 0.02]).R
    assert halves[1] / halves[0] == pytest.approx(2, rel=0.01)


def test_more_examples_narrow_the_margin() -> None:
    sizes = np.geomspace(0.05, 200, 25)
    for keep, theta, side in ((1.0, 0.0, "hard"), (0.2, 15.0, "hard"), (0.1, 30.0, "easy")):
        found = solve(sizes / keep, keep, theta, side)
        assert (np.diff(found.kappa) < 0).all()
        assert (np.diff(found.error) < 0).all()
    # A worse probe is a worse probe; far off, 20 % of the hardest are much like a random 20 %.
    assert (np.diff(solve(40, 0.2, np.linspace(0, 45, 10)).error) > 0).all()


@settings(max_examples=150)
@given(
    alpha=st.floats(np.log(0.05), np.log(200)).map(np.exp),
    keep=st.floats(np.log(0.01), 0).map(np.exp),
    theta=st.one_of(st.floats(0, 60), st.floats(-9, 0).map(lambda e: 10.0**e)),
    side=st.sampled_from(["hard", "easy"]),
)
def test_every_point_of_the_domain_is_solved(
    alpha: float, keep: float, theta: float, side: str
) -> None:
    check(solve(np.clip(alpha, 0.05, 200) / keep, max(keep, 0.01), theta, side))


def test_the_corners_of_the_domain_are_solved() -> None:
    alpha = np.array([0.05, 1.9, 2.0, 2.1, 20, 200])[:, None, None, None]
    keep = np.array([0.01, 0.5, 0.999, 1 - 1e-9, 1])[:, None, None]
    theta = np.array([0, 1e-9, 1e-4, 0.1, 1, 5, 59.9, 60])[:, None]
    check(solve(alpha / keep, keep, theta, ["hard", "easy", "random"]))


def check(found: Solution) -> None:
    assert (found.residual <= 1e-8).all()
    assert ((found.error > 0) & (found.error < 0.5)).all()
    assert (found.kappa > 0).all()
    np.testing.assert_allclose(np.cos(np.pi * found.error), found.R, atol=1e-12)
    sin2 = np.sin(np.radians(found.points.theta)) ** 2
    cos = np.cos(np.radians(found.points.theta))
    # Teacher, probe and student are three vectors of length 1.
    assert (found.R**2 + found.rho**2 - 2 * found.R * found.rho * cos <= sin2 + 1e-9).all()


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ((4, 0.005, 0, "hard"), "keep: expected 0.01 to 1, found 0.005"),
        ((4, 1.5, 0, "hard"), "keep: expected 0.01 to 1, found 1.5"),
        ((4, 1, -1, "hard"), "theta: expected 0 to 60, found -1"),
        ((4, 1, 61, "hard"), "theta: expected 0 to 60, found 61"),
        ((4, [0.5, 0.01], 0, "hard"), "keep × alpha_tot: expected 0.05 to 200, found 0.04"),
        ((201, 1, 0, "hard"), "found 201"),
        ((float("nan"), 1, 0, "hard"), "found nan"),
        ((float("inf"), 1, 0, "hard"), "found inf"),
        ((4, 1, 0, "middle"), "expected hard, easy or random, found middle"),
        (([1, 2], [1, 1, 1], 0, "hard"), "arrays whose shapes fit"),
    ],
)
def test_points_outside_of_the_domain_are_refused(point: tuple[object, ...], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        solve(*point)  # type: ignore[arg-type]
    assert says in str(refused.value)


def test_a_point_is_the_same_alone_and_among_others() -> None:
    alpha, theta = np.linspace(1, 30, 200), np.linspace(0, 60, 200)
    many = solve(alpha, 0.3, theta, "easy")
    one = solve(alpha[150], 0.3, theta[150], "easy")
    assert float(one.error) == pytest.approx(float(many.error[150]), rel=1e-12)
    assert many.error.shape == (200,)


def test_moments_of_the_wedge_are_those_of_a_sum() -> None:
    nodes, share = np.polynomial.legendre.leggauss(40)
    xi = np.linspace(-9, 9, 20_001)
    for w0, depth, r, q in ((-0.4, 0.7, 1.3, 0.6), (0.5, -0.3, -0.8, 1.1), (-2.0, 1.5, 0.1, 2.0)):
        m = wedge_moments(*(np.array(v) for v in (w0, depth, r, q)))
        # For each xi, the w of the wedge lie between its two edges.
        edge = np.clip((depth - q * xi) / r, -9, 9)
        low = np.maximum(w0, edge if r < 0 else np.full_like(xi, -9))
        half = (np.maximum(low, edge if r > 0 else 9.0) - low)[:, None] / 2
        w = low[:, None] + half * (1 + nodes)
        mass = half * share * np.exp(-(w * w + xi[:, None] ** 2) / 2) / (2 * np.pi)
        mass *= xi[1] - xi[0]
        s = depth - r * w - q * xi[:, None]
        for name, values in (
            ("p", np.ones_like(s)), ("s", s), ("ss", s * s), ("w", w), ("ww", w**2),
            ("xi", xi[:, None]), ("wxi", w * xi[:, None]), ("xixi", xi[:, None] ** 2),
        ):  # fmt: skip
            assert float(getattr(m, name)) == pytest.approx(float((mass * values).sum()), abs=1e-6)
        assert float(m.edge - r * m.p) == pytest.approx(float((mass * s * w).sum()), abs=1e-6)


def test_the_bivariate_distribution_is_scipy_s() -> None:
    from scipy.stats import multivariate_normal

    for h, k, c in ((0.3, -0.7, 0.5), (0.0, 0.0, -0.9), (-1.2, 0.0, 0.2), (2.0, 1.0, 0.99)):
        exact = multivariate_normal([0, 0], [[1, c], [c, 1]]).cdf([h, k])
        ours = bivariate_cdf(*(np.array(v) for v in (h, k, c, np.sqrt(1 - c * c))))
        assert float(ours) == pytest.approx(float(exact), abs=1e-7)

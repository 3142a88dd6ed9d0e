"""Nats per example: limits, known values, and the derivative that they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate
from scipy.special import log_ndtr

from tamis.errors import UsageError
from tamis.theory.domain import threshold
from tamis.theory.information import gibbs_information, paper_information


def gauss(t: float) -> float:
    return float(np.exp(-t * t / 2) / np.sqrt(2 * np.pi))


def test_of_nothing_known_an_example_tells_one_bit() -> None:
    np.testing.assert_allclose(paper_information(1e-9, [1, 0.5, 0.1, 0.01]), np.log(2), rtol=1e-6)
    few = gibbs_information(0.05, [1, 0.5, 0.1]).information
    np.testing.assert_allclose(few, np.log(2), rtol=0.03)


def test_of_everything_known_an_example_tells_nothing() -> None:
    assert float(paper_information(1 - 2e-8)) < 2e-4
    assert float(paper_information(1 - 2e-8, 0.3)) < 1e-3


@pytest.mark.parametrize("R", [0.2, 0.7, 0.95])
def test_the_hardest_examples_tell_more_up_to_one_nat(R: float) -> None:
    # Examples at the teacher's boundary: −∫Ds log H(√R s).
    exact = integrate.quad(lambda s: -gauss(s) * float(log_ndtr(np.sqrt(R) * s)), -12, 12)[0]
    one, two = paper_information(R, [0.01, 0.02])
    assert 2 * one - two == pytest.approx(exact, rel=1e-3)  # the share's effect is linear
    by_share = paper_information(R, [1, 0.5, 0.2, 0.1, 0.01])
    assert (np.diff(by_share) > 0).all()
    assert by_share[-1] < 1


@pytest.mark.parametrize(("R", "keep"), [(0.6, 0.3), (0.9, 0.7), (0.99, 1.0)])
def test_the_formula_is_the_paper_s(R: float, keep: float) -> None:
    gamma, x = float(threshold(keep, "hard")), np.sqrt(R / (1 - R))

    def integrand(t: float) -> float:
        upper = np.exp(log_ndtr(-x * t))
        if keep < 1:
            upper -= np.exp(log_ndtr(-(gamma + np.sqrt(R) * t) / np.sqrt(1 - R)))
        return gauss(t) * float(upper) * float(log_ndtr(-x * t))

    exact = -2 / keep * integrate.quad(integrand, -9, 9, limit=400, points=[0])[0]
    assert float(paper_information(R, keep)) == pytest.approx(exact, rel=1e-8)


def test_the_known_values_with_two_overlaps() -> None:
    found = gibbs_information([1, 2, 4, 8], [[1.0], [0.5], [0.2]])
    known = [
        [0.507, 0.372, 0.227, 0.122], [0.837, 0.597, 0.246, 0.124], [1.061, 1.205, 0.255, 0.125],
    ]  # fmt: skip
    np.testing.assert_allclose(found.information, known, atol=6e-4)
    np.testing.assert_allclose(found.q[0], found.R[0], rtol=1e-8)  # the teacher is one of them
    np.testing.assert_allclose(found.information[0], paper_information(found.R[0]), rtol=1e-8)


def test_it_is_what_one_more_example_takes_from_the_entropy() -> None:
    def entropy(alpha: float, keep: float) -> float:
        s = gibbs_information(alpha, keep)
        q, R = float(s.q), float(s.R)
        volume = np.log1p(-q) / 2 + (q - R * R) / (2 * (1 - q))
        return float(volume - alpha * float(s.information))

    for alpha, keep in ((0.7, 1.0), (2.0, 0.5), (1.5, 0.1), (6.0, 0.3)):
        h = 1e-4 * alpha
        slope = (entropy(alpha + h, keep) - entropy(alpha - h, keep)) / (2 * h)
        assert -slope == pytest.approx(float(gibbs_information(alpha, keep).information), rel=1e-5)


def test_many_examples_share_one_dimension_s_worth() -> None:
    many = gibbs_information([50, 100, 200], [[1.0], [0.2], [0.01]])
    np.testing.assert_allclose(many.information * np.array([50, 100, 200]), 1, rtol=2e-3)
    # A student drawn at random errs as 0.625 / alpha.
    assert 200 * np.arccos(many.R[0, 2]) / np.pi == pytest.approx(0.625, rel=0.01)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: paper_information(1.0), "give an overlap"),
        (lambda: paper_information(0.0), "give an overlap"),
        (lambda: paper_information(0.5, 0.001), "keep: expected 0.01 to 1"),
        (lambda: gibbs_information(0.01), "alpha_prune: expected 0.05 to 200"),
    ],
)
def test_what_lies_outside_is_refused(call: object, says: str) -> None:
    assert callable(call)
    with pytest.raises(UsageError, match=says):
        call()

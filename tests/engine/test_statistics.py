"""Intervals, paired differences and rank correlations against scipy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tamis.statistics import (
    holm,
    mean_interval,
    paired_difference,
    paired_p_value,
    rank_correlation,
)


def test_the_interval_is_student_s() -> None:
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)


def test_one_value_has_no_interval_and_excludes_nothing() -> None:
    found = mean_interval([0.5])
    assert (found.mean, found.n) == (0.5, 1)
    assert math.isnan(found.half_width)
    assert not found.excludes_zero


def test_differences_are_paired_by_seed() -> None:
    # The seeds vary by 10 points, the difference is 1 point each time: unpaired it would drown.
    a = {0: 0.71, 1: 0.81, 2: 0.915, 7: 0.1}
    b = {0: 0.70, 1: 0.80, 2: 0.900, 9: 0.9}
    found = paired_difference(a, b)
    assert found is not None
    expected = stats.ttest_rel([a[s] for s in (0, 1, 2)], [b[s] for s in (0, 1, 2)])
    low, _ = expected.confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.n == 3
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_the_p_value_is_the_paired_t_test_s() -> None:
    a = {0: 0.71, 1: 0.81, 2: 0.915, 7: 0.1}
    b = {0: 0.72, 1: 0.80, 2: 0.900, 9: 0.9}
    expected = stats.ttest_rel([a[s] for s in (0, 1, 2)], [b[s] for s in (0, 1, 2)])
    assert paired_p_value(a, b) == pytest.approx(expected.pvalue)
    # One seed, and seeds that all say the same, are no evidence.
    assert math.isnan(paired_p_value({0: 0.5}, {0: 0.4}))
    assert math.isnan(paired_p_value({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5}))


@pytest.mark.parametrize("p", [[], [0.03], [0.01, 0.04, 0.03, 0.005], [0.2, 0.2, 0.001, 0.9]])
def test_holm_rejects_what_its_stepwise_rule_rejects(p: list[float]) -> None:
    corrected = holm(p)
    assert corrected.shape == (len(p),)
    for level in np.linspace(0.001, 0.999, 500):
        rejected = set()
        for step, place in enumerate(np.argsort(p, kind="stable")):
            if p[place] > level / (len(p) - step):
                break
            rejected.add(place)
        assert {i for i, value in enumerate(corrected) if value <= level} == rejected


def test_rank_correlation_is_spearman_s_with_ties() -> None:
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 6, (3, 50)).astype(np.float64)
    found = rank_correlation(columns)
    assert found == pytest.approx(stats.spearmanr(columns.T).statistic)

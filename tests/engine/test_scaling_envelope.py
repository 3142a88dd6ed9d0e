"""Envelopes and verdicts, on the theory's own curves and on laws that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scaling_laws import law_points, perceptron_points
from tamis.errors import UsageError
from tamis.scaling.curves import make_curves
from tamis.scaling.envelope import Envelope, make_envelope
from tamis.scaling.noise import Noise, fit_noise
from tamis.scaling.points import Point, PointSet
from tamis.scaling.studies import EnvelopeStudy, ScalingStudy, Settings, study_scaling
from tamis.theory.curves import best_keep

FEW = Settings(n_resamples=200)
QUIET = Noise(1e-6, 0.0, None, 100)


def study(points: list[Point], settings: Settings = FEW) -> ScalingStudy:
    return study_scaling(PointSet(tuple(points)), settings)


def verdict(points: list[Point], name: str) -> EnvelopeStudy:
    return next(one for one in study(points).envelopes if one.name == name)


def envelope(points: list[Point], n_total: float | None = None) -> Envelope:
    curves = list(make_curves(points).values())
    found = make_envelope(curves, fit_noise(curves), n_total)
    assert found is not None
    return found


# The theory's answers


def test_pruning_by_a_perfect_metric_is_better_than_a_power_law() -> None:
    points = perceptron_points(np.geomspace(0.25, 64, 17), (1, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05))
    found = verdict(points, "margin, hard")
    assert found.verdict.answer == "yes"
    assert found.verdict.words[0] == "yes, better than a power law is supported."
    assert found.verdict.share > 0.99
    assert found.verdict.more_bend is not None
    assert found.verdict.more_bend.low > 2
    # Beyond alpha_prune = 3.2 the stock of 64 limits the error.
    assert found.judged is not None
    assert found.judged.curve.n_kept[-1] == pytest.approx(3200, rel=0.01)


def test_the_unpruned_perceptron_follows_a_power_law() -> None:
    """From ten examples per dimension on; before, its slope still grows from 0.93 to 1."""
    found = verdict(perceptron_points(np.geomspace(10, 200, 8), [1]), "all")
    assert found.verdict.answer == "no"
    assert found.judged is not None
    power = found.judged.fit("power")
    assert power is not None
    assert power.parameters["nu"].value == pytest.approx(1, abs=0.03)
    assert "An exponential law is excluded" in " ".join(found.verdict.words)


def test_an_imperfect_metric_returns_to_a_power_law() -> None:
    points = perceptron_points(np.geomspace(5, 1000, 12), (1, 0.6, 0.4, 0.3, 0.2, 0.1), 20)
    found = study(points)
    unpruned, pruned = found.envelopes
    assert unpruned.verdict.answer != "yes"
    assert pruned.verdict.answer == "no"
    assert pruned.verdict.bend is not None
    assert pruned.verdict.bend.high < 0


def test_random_pruning_is_no_better_than_the_unpruned_curve() -> None:
    """Both bend near chance level; the envelope of random is the unpruned curve."""
    stocks = np.geomspace(0.5, 64, 12)
    points = perceptron_points(stocks, [1])
    points += perceptron_points(stocks, (0.5, 0.25), side="random", rng=10)
    found = verdict(points, "random")
    assert found.verdict.answer == "no"
    assert found.verdict.bend is not None
    assert found.verdict.bend.low > 0.1


def test_a_bend_that_all_examples_show_is_not_the_pruning_s() -> None:
    """Everything errs by one stretched exponential of what is kept."""

    def law(n: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.exp(-np.sqrt(n / 6000)), np.float64)

    sizes = np.geomspace(2000, 60_000, 7)
    points = law_points(law, sizes, noise=0.02)
    points += law_points(law, sizes / 2, noise=0.02, metric="m", keep=0.5, rng=1)
    found = {one.name: one.verdict.answer for one in study(points).envelopes}
    assert found == {"all": "yes", "m, hard": "no"}


def test_three_sizes_cannot_tell() -> None:
    found = study(perceptron_points([1, 2, 4], [1, 0.5]))
    assert {one.verdict.answer for one in found.envelopes} == {"cannot tell"}
    first = found.envelopes[0].verdict.words[0]
    assert first.startswith("cannot tell: 3 sizes, and 5 are needed; sizes over a factor of 4")


def test_noise_that_hides_the_law_cannot_tell() -> None:
    def exponential(n: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(0.3 * np.exp(-n / 100_000), np.float64)

    sizes = np.geomspace(4000, 60_000, 5)
    assert verdict(law_points(exponential, sizes, noise=0.3), "all").verdict.answer == "cannot tell"
    assert verdict(law_points(exponential, sizes, noise=0.005), "all").verdict.answer == "yes"


def test_few_verdicts_are_wrong_about_a_power_law() -> None:
    """Of 30 power laws in noise no more than two may be called better."""
    answers = []
    for rng in range(30):
        points = law_points(lambda n: 3 * n**-0.4, np.geomspace(2000, 50_000, 6), rng=rng)
        answers.append(verdict(points, "all").verdict.answer)
    assert answers.count("yes") <= 2
    assert answers.count("no") >= 20


# What an envelope is


def test_the_envelope_is_the_theory_s_within_its_grid() -> None:
    keeps = (1, 0.95, 0.88, 0.77, 0.6, 0.38)
    points = perceptron_points(np.geomspace(0.5, 8, 40), keeps, noise=0, seeds=1)
    found = envelope(points)
    inside = (found.frontier.n_kept > 1000) & (found.frontier.n_kept < 1800)
    exact = best_keep(found.frontier.n_kept[inside] / 1000, largest_alpha_tot=8)
    # The best fraction lies between those of the grid: a little more error, never less.
    ratio = found.frontier.means[inside] / exact.error
    assert ratio.min() > 1 - 1e-3
    assert np.median(ratio) < 1.02


@given(
    levels=st.lists(st.floats(0.02, 0.6), min_size=9, max_size=9),
    seeds=st.integers(1, 4),
)
def test_envelopes_fall_and_lie_below_every_curve(levels: list[float], seeds: int) -> None:
    errors = iter(levels)
    points = [
        Point(round(stock * keep), stock, keep, "full" if keep == 1 else "m", "hard", seed, error)
        for keep in (1.0, 0.5, 0.2)
        for stock in (1000, 2000, 4000)
        for error in [next(errors)]
        for seed in range(seeds)
    ]
    points = [replace(p, side="full") if p.keep == 1 else p for p in points]
    found = envelope(points)
    frontier = found.frontier
    assert (np.diff(frontier.n_kept) > 0).all()
    assert (np.diff(frontier.means) < 0).all()
    for n, error in zip(frontier.n_kept, frontier.means, strict=True):
        assert all(error <= p.error + 1e-12 for p in points if p.n_kept <= n)
    assert frontier.means.min() == pytest.approx(min(levels), rel=1e-9)


def test_errors_of_the_envelope_are_judged_by_seeds_that_did_not_choose() -> None:
    """Five equal curves: the least mean is too low, the envelope's is not."""
    low, honest = [], []
    for rng in range(200):
        points = []
        for number, keep in enumerate((1.0, 0.5, 0.25, 0.125, 0.0625)):
            metric = "full" if keep == 1 else "m"
            points += law_points(
                lambda n: 0.2 + 0 * n, [1000], noise=0.1, rng=5 * rng + number, keep=keep,
                metric=metric,
            )  # fmt: skip
        curves = list(make_curves(points).values())
        low.append(min(float(c.means[0]) for c in curves))
        found = make_envelope(curves, QUIET)
        assert found is not None
        honest.append(float(found.frontier.means[0]))
    assert np.mean(low) < 0.2 * 0.97
    assert np.mean(honest) == pytest.approx(0.2, rel=0.015)


def test_runs_that_are_missing_cost_no_others() -> None:
    points = perceptron_points(np.geomspace(1, 16, 5), (1, 0.5), noise=0.01)
    whole = envelope(points).frontier
    some = [p for p in points if not (p.seed == 2 and p.n_total == 4000)]
    part = envelope(some).frontier
    np.testing.assert_array_equal(part.n_kept, whole.n_kept)
    assert whole.n_runs.min() == 5
    assert sorted(set(part.n_runs.tolist())) == [4, 5]
    assert (part.n_runs == 5).sum() >= len(part.n_kept) - 2


def test_a_smaller_stock_leaves_larger_ones_out() -> None:
    points = perceptron_points(np.geomspace(1, 16, 5), (1, 0.5, 0.25), noise=0)
    found = envelope(points, 4000)
    assert found.frontier.n_total.max() <= 4000 * 1.01
    assert found.frontier.means.min() > envelope(points).frontier.means.min()
    curves = list(make_curves(points).values())
    assert make_envelope(curves, QUIET, 10) is None


def test_what_the_stock_limits_is_not_judged() -> None:
    """An error that falls to that of the whole stock and stays there."""
    points = law_points(lambda n: np.maximum(0.4 * n / 1000, 0.01) ** -0.0 * 0 + 0.1, [8000])
    points += law_points(
        lambda n: np.maximum(0.5 * (n / 500) ** -1.0, 0.102), np.geomspace(500, 6000, 6),
        metric="m", keep=0.5, noise=0.001,
    )  # fmt: skip
    found = envelope(points)
    assert found.exhausted.any()
    judged = found.judged(0)
    assert judged.n_kept[-1] == pytest.approx(2500, rel=0.5)
    assert found.frontier.means[~found.exhausted][-2] > 0.11


def test_what_cannot_be_studied_is_refused() -> None:
    points = law_points(lambda n: n**-0.5, [1000, 2000])
    with pytest.raises(
        UsageError, match=r"at least 3 set sizes, found at most 2; run a sweep with"
    ):
        study(points)
    with pytest.raises(UsageError, match="found at most 1"):
        study(points[:2])
    three = law_points(lambda n: n**-0.5, [1000, 2000, 4000], metric="el2n", keep=0.5)
    with pytest.raises(UsageError, match="--metric: expected el2n, found loss"):
        study(three, Settings(metric="loss"))


def test_a_metric_is_studied_beside_random_and_all() -> None:
    points = []
    for number, metric in enumerate(("full", "random", "el2n", "loss")):
        points += law_points(
            lambda n: n**-0.3, [1000, 2000, 4000], metric=metric, rng=number,
            keep=1.0 if metric == "full" else 0.5,
        )  # fmt: skip
    found = study(points, replace(FEW, metric="el2n"))
    assert [c.curve.key.metric for c in found.curves] == ["el2n", "full", "random"]


def test_curves_of_few_sizes_are_named_and_left_out() -> None:
    points = law_points(lambda n: n**-0.3, [1000, 2000, 4000])
    points += law_points(lambda n: n**-0.3, [500, 1000], metric="el2n", keep=0.5)
    found = study(points)
    assert len(found.curves) == 1
    assert {key.name: why for key, why in found.skipped.items()} == {
        "el2n, hard, keep 0.5": "2 sizes; laws ask for 3"
    }

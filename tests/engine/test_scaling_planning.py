"""Plans from pilots, against the theory's perceptron; costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from scaling_laws import law_points, perceptron_points
from tamis.errors import UsageError
from tamis.scaling.costs import fit_costs
from tamis.scaling.planning import Goal, Plan, make_plan
from tamis.scaling.points import Point, PointSet
from tamis.scaling.studies import Settings, study_scaling
from tamis.theory.solver import solve

KEEPS = (0.7, 0.5, 0.3)


def pilot(low: float, high: float, n: int = 6) -> list[Point]:
    stocks = np.geomspace(low, high, n)
    points = perceptron_points(stocks, (1, *KEEPS))
    points += perceptron_points(stocks, KEEPS, side="easy", rng=10)
    return points + perceptron_points(stocks, KEEPS, side="random", rng=20)


def plan(points: list[Point], goal: Goal | None = None, **scoring: float) -> Plan:
    study = study_scaling(PointSet(tuple(points)), Settings(n_resamples=200))
    return make_plan(study, goal, scoring_seconds=scoring)


@pytest.fixture(scope="module")
def scarce() -> Plan:
    return plan(pilot(0.5, 2))


@pytest.fixture(scope="module")
def abundant() -> Plan:
    return plan(pilot(4, 32), Goal(n_total=40_000))


def test_scarce_examples_call_for_the_easy_side(scarce: Plan) -> None:
    """The theory: at keep 0.5 the hard side wins from alpha_tot = 5 on."""
    assert scarce.chosen is not None
    assert scarce.chosen.side == "easy"
    assert all(one.hard_better < 0.05 for one in scarce.sides)
    assert "keep the easiest" in scarce.words[0]
    rivals = {choice.side: often for choice, often in scarce.rivals}
    assert rivals["hard"] > 0.95
    assert rivals["random"] > 0.95


def test_abundant_examples_call_for_the_hard_side(abundant: Plan) -> None:
    chosen = abundant.chosen
    assert chosen is not None
    assert chosen.side == "hard"
    assert all(one.hard_better > 0.95 for one in abundant.sides if one.keep == 0.3)
    assert chosen.extrapolation == pytest.approx(40 / 32, rel=1e-3)
    assert "1.2 times beyond the pilot's sizes" in " ".join(abundant.words)


def test_predictions_hold_the_theory_s_errors(abundant: Plan) -> None:
    """A quarter beyond the pilot; 0.03 of the error is what a law in place of the theory costs."""
    for choice in abundant.choices:
        side = "random" if choice.metric in ("full", "random") else choice.side
        exact = float(solve(40, choice.keep, 0, side).error)
        slack = 0.03 * exact
        assert choice.error.low - slack <= exact <= choice.error.high + slack, choice.name


def test_curves_with_knees_are_interpolated_where_no_law_describes_them() -> None:
    """The hardest 30 % of few: from chance level over a knee to a power law."""
    found = plan(perceptron_points(np.geomspace(1, 64, 13), [0.3]), Goal(n_total=5000))
    (choice,) = found.choices
    assert choice.law == "interpolated"
    stocks = np.geomspace(1, 64, 13)
    exact = solve(stocks, 0.3, 0, "hard").error
    between = np.exp(np.interp(np.log(5), np.log(stocks), np.log(exact)))
    assert choice.error.value == pytest.approx(between, rel=0.03)


def power(stocks: list[float], keep: float, level: float, metric: str, rng: int) -> list[Point]:
    """Error level × (kept / 1000)^−½, almost without noise."""
    sizes = [stock * keep for stock in stocks]
    return law_points(
        lambda n: level * (n / 1000) ** -0.5, sizes, noise=1e-4, rng=rng, keep=keep, metric=metric
    )


def known() -> list[Point]:
    """All: 0.2 at 1,000; at equal n the metric's keeps 0.5 and 0.25 err 0.8 and 1.2 times that."""
    stocks = [1000.0, 2000, 4000, 8000]
    points = power(stocks, 1, 0.2, "full", 0)
    return points + power(stocks, 0.5, 0.16, "m", 1) + power(stocks, 0.25, 0.24, "m", 2)


def test_targets_are_reached_as_cheaply_as_possible() -> None:
    # At 8,000: all 0.0707, keep 0.5 0.08, keep 0.25 0.1697.
    found = plan(known(), Goal(target_accuracy=0.915))
    assert found.chosen is not None
    assert (found.chosen.keep, found.reached) == (0.5, 1.0)
    assert found.chosen.error.value == pytest.approx(0.08, rel=1e-3)
    assert plan(known(), Goal(target_accuracy=0.925)).chosen.keep == 1  # type: ignore[union-attr]


def test_targets_out_of_reach_say_what_would_reach_them() -> None:
    found = plan(known(), Goal(target_accuracy=0.96))
    assert found.chosen is None
    assert found.needed is not None
    # 0.2 (n / 1000)^−½ = 0.04 at n = 25,000; keep 0.5 would take 32,000.
    assert found.needed.keep == 1
    assert found.needed.n_total.value == pytest.approx(25_000, rel=0.01)
    assert "3.1 times as many" in found.words[0]
    floor = law_points(lambda n: 20 * n**-0.7 + 0.05, [1000, 2000, 4000, 8000, 16_000], noise=0.002)
    never = plan(floor, Goal(target_accuracy=0.97))
    assert (never.chosen, never.needed) == (None, None)
    assert "nor does any larger stock" in never.words[0]


def test_budgets_are_used_as_well_as_possible() -> None:
    # 0.1 steps and 0.01 s an example.
    found = plan(known(), Goal(budget_steps=500))
    assert found.chosen is not None
    assert found.chosen.keep == 0.5
    assert found.chosen.steps == pytest.approx(400)
    assert plan(known(), Goal(budget_steps=900)).chosen.keep == 1  # type: ignore[union-attr]
    nothing = plan(known(), Goal(budget_steps=100))
    assert nothing.chosen is None
    assert "no choice keeps the budget: the cheapest" in nothing.words[0]
    with pytest.raises(UsageError, match="--budget-seconds: expected a pilot whose runs say their"):
        plan([replace(p, seconds=None) for p in known()], Goal(budget_seconds=5))


def test_scoring_is_shared_by_the_trainings() -> None:
    # 40 s of training at keep 0.5, 80 s of all; scoring the pilot's 8,000 takes 100 s.
    alone = plan(known(), Goal(budget_seconds=85), m=100.0)
    assert alone.chosen is not None
    assert alone.chosen.keep == 1
    found = plan(known(), Goal(budget_seconds=61, runs=5), m=100.0)
    assert found.chosen is not None
    assert found.chosen.keep == 0.5
    assert found.chosen.seconds_each == pytest.approx(60)
    assert "Scoring takes 100 s: with 5 trainings 60 s each." in found.words
    unknown = plan(known(), Goal(budget_seconds=61))
    assert "The cost of scoring by m is not known, and not counted." in unknown.words


def test_without_a_goal_the_fewest_examples_that_do_as_well_as_all() -> None:
    found = plan(known(), Goal(tolerance=0.15))
    assert found.chosen is not None
    assert found.chosen.keep == 0.5
    assert plan(known()).chosen.keep == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "basis", "steps"),
    [
        (lambda p: p.n_kept // 10, "n_kept", 400),
        (lambda p: p.n_total // 10, "n_total", 800),
        (lambda p: 300, "constant", 300),
    ],
)
def test_steps_are_proportional_to_what_the_pilot_shows(change, basis, steps) -> None:  # type: ignore[no-untyped-def]
    costs = fit_costs([replace(p, steps=change(p), seconds=0.5 * change(p)) for p in known()])
    assert costs.basis == basis
    assert costs.steps(4000, 8000) == pytest.approx(steps, rel=0.01)
    assert costs.seconds(4000, 8000) == pytest.approx(steps / 2, rel=0.01)
    assert costs.scoring_seconds("random", 8000) == 0
    assert costs.scoring_seconds("m", 8000) is None


def test_pilots_without_costs_count_examples() -> None:
    bare = [replace(p, steps=None, seconds=None) for p in known()]
    found = plan(bare, Goal(target_accuracy=0.915))
    assert found.chosen is not None
    assert (found.chosen.keep, found.chosen.steps, found.chosen.seconds) == (0.5, None, None)
    timed = fit_costs([replace(p, steps=None) for p in known()])
    assert timed.steps(1, 2) is None
    assert timed.seconds(4000, 8000) == pytest.approx(40, rel=0.01)


def test_a_pilot_of_two_budgets_must_be_told_which() -> None:
    both = [replace(p, budget=budget) for p in known() for budget in ("steps", "epochs")]
    with pytest.raises(UsageError, match="--budget: expected one of the pilot's: epochs, steps"):
        plan(both)
    with pytest.raises(UsageError, match="--budget: expected epochs, steps, found hours"):
        plan(both, Goal(budget="hours"))
    found = plan(both, Goal(budget="steps"))
    assert len(found.choices) == 3


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            {"target_accuracy": 95},
            "--target-accuracy: expected a share above 0 and below 1, found 95",
        ),
        (
            {"target_accuracy": 0.9, "budget_steps": 5},
            "--budget-steps: expected nothing with --target",
        ),
        ({"n_total": 0}, "--n-total: expected a number above 0, found 0"),
        ({"budget_seconds": math.nan}, "--budget-seconds: expected a number above 0, found nan"),
    ],
)
def test_impossible_goals_are_refused(goal: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Goal(**goal)  # type: ignore[arg-type]


def test_one_run_each_gives_words_without_shares() -> None:
    single = [p for p in known() if p.seed == 0]
    study = study_scaling(PointSet(tuple(single)), Settings(n_resamples=100))
    assert {c.resampled for c in study.curves} == {"residuals"}
    assert make_plan(study).chosen is not None


def test_a_bend_that_many_resamples_do_not_see_is_not_promised() -> None:
    """Of three seeds and five sizes a fast law fits the hard side by luck; random is safer.

    Errors as a sweep of digits gave them: 84 to 1,347 examples, keep 0.3.
    """
    sizes = [84, 168, 337, 674, 1347]
    hard = {0: [0.46, 0.33, 0.17, 0.12, 0.033], 1: [0.53, 0.35, 0.29, 0.18, 0.056]}
    hard[2] = [0.47, 0.34, 0.28, 0.15, 0.073]
    random = {0: [0.39, 0.28, 0.11, 0.07, 0.036], 1: [0.42, 0.30, 0.13, 0.09, 0.031]}
    random[2] = [0.38, 0.29, 0.12, 0.08, 0.036]
    points = [
        Point(round(0.3 * n), n, 0.3, metric, side, seed, errors[i])
        for metric, side, runs in (("el2n", "hard", hard), ("random", "random", random))
        for seed, errors in runs.items()
        for i, n in enumerate(sizes)
    ]
    found = plan(points, Goal(n_total=20_000))
    by_metric = {choice.metric: choice for choice in found.choices}
    # The law of the data promises less error, and the resamples contradict it.
    assert by_metric["el2n"].error.value < by_metric["random"].error.value
    assert by_metric["el2n"].expected > by_metric["random"].expected
    assert found.chosen is by_metric["random"]

"""Which side to keep, and how much, from a pilot's fits.

Every metric, side and keep fraction of the pilot is a choice. Its error is what its curve's law
predicts for the examples that it keeps; each resample predicts by the law that it would itself have
chosen, so that intervals hold the doubt about the law, too. Where no law describes a whole curve,
its end is taken as far as one does, and below that the straight lines between the measured sizes.
Choices are compared by the mean of the resamples' predictions: of a curve that may bend or may not,
the bend alone would promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis.scaling.analysis import NO_LAW, CurveStudy, analyse_end
from tamis.scaling.costs import Costs, fit_costs
from tamis.scaling.estimates import Estimate, estimate, share
from tamis.scaling.studies import ScalingStudy

__all__ = ["Choice", "Goal", "Needed", "Plan", "Sides", "make_plan"]

_Array = NDArray[np.float64]

_BEYOND = 1.01  # extrapolation that is worth a word


@dataclass(frozen=True)
class Goal:
    """What is asked; at most one of target and budgets.

    Attributes:
        n_total: The stock; None for the pilot's largest.
        target_accuracy: To be reached as cheaply as possible.
        budget_seconds, budget_steps: Of one training, its part of the scoring included; to be used
            as well as possible.
        runs: Trainings that share the cost of scoring.
        tolerance: Without target and budget, the fewest examples are kept whose expected error is
            at most this much above that of all, relative.
        recipe, budget: Those of the pilot, where it has several.
    """

    n_total: float | None = None
    target_accuracy: float | None = None
    budget_seconds: float | None = None
    budget_steps: float | None = None
    runs: int = 1
    tolerance: float = 0.05
    recipe: str | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        asked = ("target_accuracy", "budget_seconds", "budget_steps")
        given = [f"--{name.replace('_', '-')}" for name in asked if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                given[1],
                expected=f"nothing with {given[0]}",
                found="both",
                do="leave one of them out",
            )
        if self.target_accuracy is not None and not 0 < self.target_accuracy < 1:
            raise UsageError(
                "--target-accuracy",
                expected="a share above 0 and below 1",
                found=f"{self.target_accuracy:g}",
                do="write 0.95 for 95 %",
            )
        for name in ("n_total", "budget_seconds", "budget_steps", "runs"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    option, expected="a number above 0", found=f"{value:g}", do="change it"
                )


@dataclass(frozen=True)
class Choice:
    """A way to prune.

    Attributes:
        metric, side, keep: "full" and 1 for all examples.
        n_kept: Examples that it keeps.
        error: Predicted.
        law: By which, on the data; "interpolated" between measured sizes that no law describes.
        described: Whether a law describes the curve where it is used.
        extrapolation: By what factor n_kept lies beyond the curve's sizes; 1 within them.
        steps, seconds: Of one training; None where unknown.
        scoring_seconds: For the whole stock; None where unknown.
        seconds_each: Of one training with its part of the scoring; of unknown scoring without.
        samples: (1 + m,) predicted errors of the data and the resamples.
    """

    metric: str
    side: str
    keep: float
    n_kept: float
    error: Estimate
    law: str
    described: bool
    extrapolation: float
    steps: float | None
    seconds: float | None
    scoring_seconds: float | None
    seconds_each: float | None
    samples: _Array

    @property
    def name(self) -> str:
        """For people: ``the hardest 40 % by el2n``."""
        if self.metric == "full":
            return "all"
        if self.metric == "random":
            return f"{100 * self.keep:g} % at random"
        ends = {"hard": "the hardest", "easy": "the easiest"}
        how = ends.get(self.side, f"{self.side}:")
        return f"{how} {100 * self.keep:g} % by {self.metric}"

    @property
    def expected(self) -> float:
        """Mean of the predictions of all resamples, which a law that fits by luck does not rule."""
        return float(self.samples[1:].mean() if len(self.samples) > 1 else self.samples[0])

    def better_than(self, other: Choice) -> float:
        """Share of the resamples in which this one errs less; NaN without resamples."""
        rows = min(len(self.samples), len(other.samples))
        return share(self.samples[:rows] < other.samples[:rows])


@dataclass(frozen=True)
class Sides:
    """Hard against easy at one metric and keep; ``hard_better`` is a share of the resamples."""

    metric: str
    keep: float
    hard: Estimate
    easy: Estimate
    hard_better: float


@dataclass(frozen=True)
class Needed:
    """The stock with which a choice would reach the target."""

    metric: str
    side: str
    keep: float
    n_total: Estimate


@dataclass(frozen=True)
class Plan:
    """What the pilot recommends.

    Attributes:
        goal: What was asked.
        n_total: The stock.
        chosen: None where nothing reaches the target or keeps the budget.
        choices: All, fewest examples first.
        rivals: Choice that ``chosen`` is compared with → share of resamples in which it is better.
        sides: Hard against easy.
        reached: Share of the resamples in which ``chosen`` reaches the target; NaN without one.
        needed: Where nothing reaches it: the smallest stock with which a choice does, if any.
    """

    goal: Goal
    n_total: float
    chosen: Choice | None
    choices: tuple[Choice, ...]
    rivals: tuple[tuple[Choice, float], ...]
    sides: tuple[Sides, ...]
    reached: float
    needed: Needed | None

    @property
    def words(self) -> tuple[str, ...]:
        """The recommendation as sentences."""
        said = [self._advice()]
        if self.chosen is not None:
            said += [*self._compared(), *self._doubts(self.chosen), *self._cost(self.chosen)]
        return (*said, *self._which_side())

    def _advice(self) -> str:
        goal, start = self.goal, f"Of {self.n_total:,.0f} examples"
        if self.chosen is None:
            return f"{start} no choice {self._unmet()}"
        chosen = self.chosen
        why = f"the fewest within {goal.tolerance:.0%} of the expected error of all"
        if goal.target_accuracy is not None:
            sure = "" if math.isnan(self.reached) else f", in {self.reached:.0%} of the resamples"
            why = f"the cheapest that reaches an accuracy of {goal.target_accuracy:g}{sure}"
        elif goal.budget_seconds is not None or goal.budget_steps is not None:
            why = "the least expected error within the budget"
        return (
            f"{start} keep {chosen.name} ({chosen.n_kept:,.0f}), {why}:"
            f" predicted error {chosen.error.text()}."
        )

    def _unmet(self) -> str:
        goal = self.goal
        if goal.target_accuracy is None:
            least = min(self.choices, key=lambda c: _cost(c, goal))
            unit = "s" if goal.budget_seconds is not None else "steps"
            cost = f"{_cost(least, goal):,.3g} {unit}"
            return f"keeps the budget: the cheapest, {least.name}, takes {cost}."
        said = f"reaches an accuracy of {goal.target_accuracy:g}"
        if self.needed is None:
            return f"{said}, nor does any larger stock by these fits."
        one = self.needed
        name = next(c.name for c in self.choices if (c.metric, c.side, c.keep) == _way(one))
        return (
            f"{said}; by its fit, {name} does with {_count(one.n_total)} examples in all,"
            f" {one.n_total.value / self.n_total:.2g} times as many."
        )

    def _compared(self) -> list[str]:
        known = [(c, often) for c, often in self.rivals if not math.isnan(often)]
        if not known:
            return []
        parts = [f"{c.name} (error {c.error.value:.3g}) in {often:.0%}" for c, often in known]
        return ["It is better than " + ", ".join(parts) + " of the resamples."]

    def _doubts(self, chosen: Choice) -> list[str]:
        said = []
        if chosen.extrapolation > _BEYOND:
            said.append(
                f"That is {chosen.extrapolation:.2g} times beyond the pilot's sizes, by its"
                f" {chosen.law} law."
            )
        if not chosen.described:
            said.append("No law describes its curve, so that its interval is too narrow.")
        return said

    def _cost(self, chosen: Choice) -> list[str]:
        parts = []
        if chosen.steps is not None:
            parts.append(f"{chosen.steps:,.0f} steps")
        if chosen.seconds is not None:
            parts.append(f"{chosen.seconds:,.3g} s")
        said = [f"A training takes about {', '.join(parts)}."] if parts else []
        if chosen.scoring_seconds is None:
            said.append(f"The cost of scoring by {chosen.metric} is not known, and not counted.")
        elif chosen.scoring_seconds and chosen.seconds_each is not None:
            said.append(
                f"Scoring takes {chosen.scoring_seconds:,.3g} s: with {self.goal.runs} trainings"
                f" {chosen.seconds_each:,.3g} s each."
            )
        return said

    def _which_side(self) -> list[str]:
        said = []
        for metric in dict.fromkeys(one.metric for one in self.sides):
            known = [s for s in self.sides if s.metric == metric and not math.isnan(s.hard_better)]
            parts = [f"{s.hard_better:.0%} at keep {s.keep:g}" for s in known]
            if parts:
                said.append(
                    f"Of {metric} the hard side is better than the easy one in"
                    f" {', '.join(parts)} of the resamples."
                )
        return said


def make_plan(
    study: ScalingStudy,
    goal: Goal | None = None,
    *,
    scoring_seconds: Mapping[str, float] | None = None,
) -> Plan:
    """Recommend a metric, a side and a keep fraction.

    Args:
        study: Of the pilot.
        goal: See :class:`Goal`.
        scoring_seconds: Metric → seconds that scoring the pilot's largest stock took. Metrics that
            are not there count nothing, and the plan says so.

    Raises:
        UsageError: A pilot of several recipes or budgets of which none is named, or a budget in
            units that the pilot did not measure.
    """
    goal = goal or Goal()
    studies = _of_group(study, goal)
    first = studies[0].curve.key
    points = [
        p for p in study.points.points if (p.recipe, p.budget) == (first.recipe, first.budget)
    ]
    n_total = goal.n_total or float(max(p.n_total for p in points))
    costs = fit_costs(points, scoring_seconds)
    noise = study.noises[first.recipe, first.budget]
    ends = [analyse_end(s, noise, study.draws) for s in studies]
    choices = sorted(
        (
            _choice(whole, end, n_total, costs, goal)
            for whole, end in zip(studies, ends, strict=True)
        ),
        key=lambda choice: choice.n_kept,
    )
    _refuse_unknown_units(choices, goal)
    chosen = _chosen(choices, goal)
    target = goal.target_accuracy
    reached = math.nan
    if chosen is not None and target is not None:
        reached = _reached(chosen, 1 - target)
    needed = None
    if chosen is None and target is not None:
        needed = _needed(ends, 1 - target)
    return Plan(
        goal, n_total, chosen, tuple(choices),
        rivals=() if chosen is None else _rivals(chosen, choices),
        sides=_sides(choices),
        reached=reached,
        needed=needed,
    )  # fmt: skip


def _of_group(study: ScalingStudy, goal: Goal) -> list[CurveStudy]:
    """The curves of one recipe and budget."""
    for option, wanted in (("recipe", goal.recipe), ("budget", goal.budget)):
        names = sorted({getattr(s.curve.key, option) for s in study.curves})
        if wanted is not None and wanted not in names:
            raise UsageError(
                f"--{option}", expected=", ".join(n or "none" for n in names), found=wanted,
                do="name one of these",
            )  # fmt: skip
        if wanted is None and len(names) > 1:
            raise UsageError(
                f"--{option}",
                expected=f"one of the pilot's: {', '.join(names)}",
                found="none named",
                do="name one",
            )
    return [
        s
        for s in study.curves
        if goal.recipe in (None, s.curve.key.recipe) and goal.budget in (None, s.curve.key.budget)
    ]


def _choice(whole: CurveStudy, end: CurveStudy, n_total: float, costs: Costs, goal: Goal) -> Choice:
    key, sizes = whole.curve.key, whole.curve.n_kept
    n_kept = key.keep * n_total
    if sizes[0] <= n_kept < end.curve.n_kept[0]:
        logs, law, described = _between(sizes, whole.log_means, n_kept), "interpolated", True
    else:
        logs, law = end.log_error(np.array([n_kept]))[:, 0], end.chosen.law.name
        described = not end.misfit < NO_LAW
    samples = np.exp(logs)
    seconds = costs.seconds(n_kept, n_total)
    scoring = costs.scoring_seconds(key.metric, n_total)
    each = None if seconds is None else seconds + (scoring or 0.0) / goal.runs
    beyond = float(max(1.0, n_kept / sizes[-1], sizes[0] / n_kept))
    return Choice(
        key.metric, key.side, key.keep, n_kept, estimate(samples), law, described, beyond,
        costs.steps(n_kept, n_total), seconds, scoring, each, samples,
    )  # fmt: skip


def _between(sizes: _Array, log_means: _Array, n_kept: float) -> _Array:
    """By a straight line in log–log axes."""
    after = int(np.searchsorted(sizes, n_kept, side="right"))
    low, high = np.log(sizes[after - 1 : after + 1])
    part = (math.log(n_kept) - low) / (high - low)
    return np.asarray((1 - part) * log_means[:, after - 1] + part * log_means[:, after], np.float64)


def _refuse_unknown_units(choices: list[Choice], goal: Goal) -> None:
    for name, value, known in (
        ("seconds", goal.budget_seconds, choices[0].seconds is not None),
        ("steps", goal.budget_steps, choices[0].steps is not None),
    ):
        if value is not None and not known:
            raise UsageError(
                f"--budget-{name}",
                expected=f"a pilot whose runs say their {name}",
                found="none that do",
                do=f"add the column {name}, or leave the budget out",
            )


def _cost(choice: Choice, goal: Goal) -> float:
    """In the goal's units; else in the best that are known."""
    if goal.budget_steps is not None:
        return choice.steps or 0.0
    for cost in (choice.seconds_each, choice.steps):
        if cost is not None:
            return cost
    return choice.n_kept


def _chosen(choices: list[Choice], goal: Goal) -> Choice | None:
    if goal.target_accuracy is not None:
        limit = 1 - goal.target_accuracy
        good = [c for c in choices if c.error.value <= limit and not _reached(c, limit) < 0.5]
        # Of those that cost the same, the one that errs least.
        return min(good, key=lambda c: (_cost(c, goal), c.expected), default=None)
    budget = goal.budget_seconds if goal.budget_steps is None else goal.budget_steps
    if budget is not None:
        paid = [c for c in choices if _cost(c, goal) <= budget]
        return min(paid, key=lambda c: c.expected, default=None)
    full = next((c for c in choices if c.metric == "full"), None)
    least = min(choices, key=lambda c: c.expected)
    limit = (full or least).expected * (1 + goal.tolerance)
    good = [c for c in choices if c.expected <= limit]
    fewest = min(c.keep for c in good)
    return min((c for c in good if c.keep == fewest), key=lambda c: c.expected)


def _reached(choice: Choice, limit: float) -> float:
    """Share of the resamples in which it errs at most so much; NaN without resamples."""
    return share(choice.samples <= limit)


def _rivals(chosen: Choice, choices: list[Choice]) -> tuple[tuple[Choice, float], ...]:
    """The other sides of the metric, random and all; at the same keep fraction."""
    others = [
        c
        for c in choices
        if c is not chosen
        and (
            c.metric == "full" or (c.keep == chosen.keep and c.metric in (chosen.metric, "random"))
        )
    ]
    return tuple((c, chosen.better_than(c)) for c in others)


def _sides(choices: list[Choice]) -> tuple[Sides, ...]:
    easy = {(c.metric, c.keep): c for c in choices if c.side == "easy"}
    pairs = [
        (c, easy[c.metric, c.keep])
        for c in choices
        if c.side == "hard" and (c.metric, c.keep) in easy
    ]
    return tuple(
        Sides(hard.metric, hard.keep, hard.error, other.error, hard.better_than(other))
        for hard, other in sorted(pairs, key=lambda pair: (pair[0].metric, pair[0].keep))
    )


def _needed(studies: list[CurveStudy], error: float) -> Needed | None:
    """The smallest stock with which a choice reaches an error."""
    found = [(s.curve.key, s.n_kept(error) / s.curve.key.keep) for s in studies]
    reaching = [(key, stock) for key, stock in found if np.isfinite(stock[0])]
    if not reaching:
        return None
    key, stock = min(reaching, key=lambda pair: float(pair[1][0]))
    # A resample that never gets there asks for infinitely many.
    unbounded = np.where(np.isfinite(stock), stock, np.inf)
    return Needed(key.metric, key.side, key.keep, estimate(unbounded))


def _way(one: Needed) -> tuple[str, str, float]:
    return one.metric, one.side, one.keep


def _count(number: Estimate) -> str:
    if math.isnan(number.low):
        return f"{number.value:,.0f}"
    high = f"{number.high:,.0f}" if math.isfinite(number.high) else "no number"
    return f"{number.value:,.0f} [{number.low:,.0f}, {high}]"

"""Curves, envelopes, crossovers, plans, tables and figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tamis.errors import UsageError
from tamis.theory.curves import best_keep, error_curves
from tamis.theory.figures import draw_figure
from tamis.theory.noisy import Labels
from tamis.theory.phases import crossover, phase_map, student_error
from tamis.theory.planning import make_plan
from tamis.theory.points import simulate_point, solve_point
from tamis.theory.simulation import Setting
from tamis.theory.solver import solve
from tamis.theory.tables import Grid, make_table


def test_curves_are_the_solver_s() -> None:
    found = error_curves([1, 2, 4], [1, 0.5], 20, "easy")
    assert found.shape == (2, 3)
    assert found[1, 2] == pytest.approx(float(solve(8, 0.5, 20, "easy").error), rel=1e-12)


def test_the_known_pareto_frontier() -> None:
    sizes = [1, 1.2, 1.4, 1.6, 1.8, 1.9, 1.95]
    best = best_keep(sizes)
    np.testing.assert_allclose(
        best.error, [0.2641, 0.2417, 0.2187, 0.1927, 0.1583, 0.1314, 0.1096], atol=6e-5
    )
    np.testing.assert_allclose(
        best.keep, [0.95, 0.879, 0.767, 0.607, 0.383, 0.234, 0.142], rtol=0.01
    )
    assert not best.at_limit.any()


def test_from_two_on_the_stock_is_the_limit() -> None:
    best = best_keep([3.0, 6.0], largest_alpha_tot=60)
    np.testing.assert_allclose(best.keep, [0.05, 0.1], rtol=1e-6)
    assert best.at_limit.all()
    np.testing.assert_allclose(best.error, 0.5005 / 60, rtol=0.1)
    everything = best_keep([4.0], largest_alpha_tot=4)
    assert (everything.keep[0], bool(everything.at_limit[0])) == (1, False)
    with pytest.raises(UsageError, match="largest_alpha_tot: expected at least the 6"):
        best_keep([3.0, 6.0], largest_alpha_tot=5)


def test_the_frontier_falls_faster_than_any_power_and_a_bad_probe_brings_it_back() -> None:
    sizes = np.array([0.5, 1, 1.5, 1.9])
    slope = np.diff(np.log(best_keep(sizes).error)) / np.diff(np.log(sizes))
    assert (np.diff(slope) < 0).all()
    assert slope[-1] < -1.5
    # B saturates at 1 / sin(theta): a power law of exponent −1 again.
    late = best_keep([50, 200], 30)
    exponent = np.log(late.error[1] / late.error[0]) / np.log(4)
    assert exponent == pytest.approx(-1, abs=0.1)
    assert late.error[1] * 200 > 0.5005 * np.sin(np.radians(30))


def test_the_best_share_is_the_minimum() -> None:
    found = best_keep([6, 20, 100], 20)
    np.testing.assert_allclose(found.keep, [0.3, 0.2, 0.1], rtol=0.1)  # to one digit
    exact = minimize_scalar(
        lambda f: float(solve(6 / f, f, 20).error), bounds=(0.1, 0.6), method="bounded"
    )
    assert found.error[0] == pytest.approx(exact.fun, rel=1e-4)


def test_the_known_crossovers() -> None:
    keep = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    known = [39.96, 20.11, 10.34, 7.21, 5.76, 5.05, 4.93, 6.14, 9.67, 19.87]
    np.testing.assert_allclose(crossover(keep), known, atol=0.006)
    keep = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    known = [1.93, 1.87, 1.76, 1.65, 1.45, 1.25, 0.97]
    np.testing.assert_allclose(crossover(keep, 0, "random") * keep, known, atol=0.006)


def test_the_phase_map_changes_sign_at_the_crossover() -> None:
    at = crossover([0.2, 0.6], 15)
    for keep, alpha_tot in zip((0.2, 0.6), at, strict=True):
        lead = phase_map([0.8 * alpha_tot, 1.25 * alpha_tot], keep, 15)
        assert lead[0, 0] > 0 > lead[0, 1]
    assert np.isnan(phase_map([1, 10], [0.02, 0.5])).tolist() == [[True, False], [False, False]]


def test_no_crossover_in_the_domain_is_none() -> None:
    assert np.isnan(crossover(0.02, 60))
    assert np.isfinite(crossover(0.5, 60))


def test_with_a_perfect_metric_the_easiest_beat_as_many_random_ones() -> None:
    kept, keep = np.geomspace(0.05, 120, 12), np.array([0.05, 0.3, 0.6, 0.9])[:, None]
    easy = solve(kept / keep, keep, 0, "easy").error
    assert (easy < solve(kept).error).all()


def test_a_plan_for_plenty_keeps_the_hardest_and_loses_nothing() -> None:
    plan = make_plan(16)
    assert plan.chosen.side == "hard"
    assert plan.chosen.keep * 16 == pytest.approx(3.0, abs=0.03)  # about three per dimension
    assert plan.chosen.error <= 1.0501 * plan.full.error
    assert [rival.side for rival in plan.rivals] == ["easy", "random"]
    assert "keep the hardest 18.8 % (3 per dimension)" in plan.words


def test_a_plan_for_little_keeps_the_easiest() -> None:
    plan = make_plan(2)
    assert plan.chosen.side == "easy"
    assert plan.best.side == "easy"
    assert plan.best.error < 0.95 * plan.full.error
    assert plan.words.startswith(
        "With 2 examples per dimension, a perfect scorer: keep the easiest 30.4 %"
    )
    given = make_plan(2, keep=0.5)
    assert (given.chosen.side, given.tolerance) == ("easy", None)
    assert given.chosen.error == pytest.approx(float(solve(2, 0.5, 0, "easy").error), rel=1e-9)


def test_a_plan_may_be_to_keep_everything() -> None:
    plan = make_plan(0.05)
    assert (plan.chosen.keep, plan.rivals) == (1.0, ())
    assert "keep everything" in plan.words
    assert make_plan(4, keep=1.0).chosen == make_plan(4).full


def test_plans_with_wrong_labels() -> None:
    plan = make_plan(16, 20, labels=Labels(0.2, checked=True))
    assert plan.full.error == pytest.approx(float(student_error(16, 1, 20, "random", Labels(0.2))))
    assert plan.best.error < make_plan(16, 20, labels=Labels(0.2)).best.error
    assert "20 % wrong labels, those the scorer contradicts dropped" in plan.words


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: make_plan(300), "alpha_tot: expected 0.05 to 200, found 300"),
        (lambda: make_plan(16, 70), "theta: expected 0 to 60, found 70"),
        (lambda: make_plan(16, keep=0.001), "keep: expected 0.01 to 1"),
        (lambda: make_plan(16, tolerance=-0.1), "tolerance: expected 0 to 1"),
        (lambda: crossover(1.0), "keep a share below 1"),
        (lambda: solve_point(4, ridge=1.0), "--ridge: expected --label-noise with it"),
        (lambda: Grid.of("crossover", sizes="1,2"), "--sizes: expected nothing for crossover"),
        (lambda: Grid.of("phase", side="easy"), "--side: expected nothing for phase"),
        (lambda: Grid.of("error", alpha_tot=3), "--alpha-tot: expected nothing for error"),
        (lambda: Grid.of("error", keep="half"), "--keep: expected numbers as 1,2,5"),
        (lambda: Grid.of("error", sizes="5:1:3"), "LOW:HIGH:COUNT with 0 ≤ LOW ≤ HIGH"),
        (lambda: make_table(Grid.of("error", keep="0")), "keep: expected 0.01 to 1, found 0"),
        (lambda: make_table(Grid.of("error", sizes="1:2:400000")), "at most a million rows"),
    ],
)
def test_what_lies_outside_is_refused(call: object, says: str) -> None:
    assert callable(call)
    with pytest.raises(UsageError) as refused:
        call()
    assert says in str(refused.value)


def test_tables_hold_what_the_functions_say() -> None:
    table = make_table(Grid.of("error", sizes="1,2", keep="0.5", theta="0,20", side="easy"))
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(row["theta"], row["alpha_prune"]) for row in rows] == [
        ("0", "1"), ("0", "2"), ("20", "1"), ("20", "2"),
    ]  # fmt: skip
    assert float(rows[3]["error"]) == pytest.approx(float(solve(4, 0.5, 20, "easy").error))
    noisy = make_table(Grid.of("error", sizes="2", keep="0.5", labels=Labels(0.1)))
    assert noisy.rows[0][-1] is None
    assert noisy.rows[0][4] == solve_point(4, 0.5, labels=Labels(0.1)).error
    crossing = make_table(Grid.of("crossover", keep="0.5", theta="0,60"))
    assert crossing.rows[0][2] == pytest.approx(5.048, abs=1e-3)
    assert (
        make_table(Grid.of("crossover", keep="0.02", theta="60")).csv().splitlines()[1][-1] == ","
    )
    phase = make_table(Grid.of("phase", sizes="2:200:3", keep="0.5"))
    assert [row[2] for row in phase.rows] == pytest.approx([2, 20, 200])
    envelope = make_table(Grid.of("envelope", sizes="4", alpha_tot=40))
    assert envelope.rows[0][3] == pytest.approx(0.1)
    facts = make_table(Grid.of("information", sizes="1", keep="0.5")).rows[0]
    assert facts[2] == pytest.approx(0.837, abs=1e-3)


def test_points_of_both_students_simulate_what_was_solved() -> None:
    for labels in (None, Labels(0.1), Labels(0.1, checked=True)):
        at = solve_point(6, 0.5, 10, labels=labels)
        found = simulate_point(at, Setting(n_dims=100, trials=10))
        assert found.error == pytest.approx(at.error, abs=max(5 * found.error_se, 0.01))
        assert (at.ridge is None) == (labels is None)


def test_figures_have_their_panels_and_dots(tmp_path: Path) -> None:
    from matplotlib.container import ErrorbarContainer

    for figure, dotted in (
        (draw_figure(1, Setting(n_dims=20, trials=2)), True),
        (draw_figure(2), False),
    ):
        panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
        assert "".join(axes.get_title(loc="left")[0] for axes in panels) == "ABCDEF"
        dots = [c for axes in panels for c in axes.containers if isinstance(c, ErrorbarContainer)]
        assert bool(dots) == dotted
        assert all(axes.get_ylabel() for axes in panels if axes.get_yticks().size)
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 50_000

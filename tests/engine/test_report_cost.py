"""What the report says of seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from report_sweep import SIZES, known_records
from tamis.report.cost import CostedCell, cost_sentences, costed_cells, pareto_front
from tamis.report.summary import summarise
from tamis.sweep.records import TrialRecord
from tamis.sweep.results import GivenUpCell


def records(budget: str = "epochs") -> list[TrialRecord]:
    return [
        replace(record, trial=replace(record.trial, budget=budget))  # type: ignore[arg-type]
        for record in known_records(SIZES)
    ]


def find(cells: list[CostedCell], metric: str, side: str, keep: float, size: float) -> CostedCell:
    (found,) = [
        cell
        for cell in cells
        if (cell.row.metric, cell.row.side, cell.keep, cell.table.size)
        == (metric, side, keep, size)
    ]
    return found


def test_scoring_is_shared_by_the_runs_that_chose_by_scores_of_that_size() -> None:
    # Both budgets use the same scores: 4 cells of 3 seeds twice.
    tables = summarise(records() + records("steps"))
    cells = costed_cells(tables, {1.0: 48.0})
    assert sum(cell.scoring_seconds or 0 for cell in cells) * 3 == pytest.approx(48)
    assert find(cells[:14], "el2n", "hard", 0.2, 1.0).scoring_seconds == pytest.approx(48 / 24)
    assert find(cells[:14], "random", "random", 0.2, 1.0).scoring_seconds == 0
    assert find(cells[:14], "full", "full", 1.0, 1.0).scoring_seconds == 0
    assert find(cells[:14], "el2n", "hard", 0.2, 0.5).scoring_seconds is None


def test_runs_of_cells_that_were_given_up_carry_their_part_of_scoring() -> None:
    all_of_them = records()
    lost = next(r.trial for r in all_of_them if r.trial.side == "hard" and r.trial.size == 1)
    others = [record for record in all_of_them if record.trial.cell != lost.cell]
    cells = [GivenUpCell(lost.cell, 1, 2, 3), GivenUpCell(replace(lost, side="random"), 3, 0, 3)]
    for given_up, runs in (([], 9), (cells[:1], 12), (cells, 12)):
        found = costed_cells(summarise(others), {1.0: 48.0}, given_up)
        shares = {one.scoring_seconds or 0.0 for one in found if one.table.size == 1}
        assert sorted(shares) == pytest.approx([0, 48 / runs])


def test_what_is_saved_counts_training_and_the_part_of_scoring() -> None:
    cells = costed_cells(summarise(records()), {1.0: 48.0})
    hard = find(cells, "el2n", "hard", 0.2, 1.0)
    # Three seeds of 10 · keep + seed seconds, and a twelfth of the scoring.
    assert hard.seconds == pytest.approx(2 + 1 + 4)
    assert hard.saved == pytest.approx(1 - 7 / 11)
    assert find(cells, "random", "random", 0.2, 1.0).saved == pytest.approx(1 - 3 / 11)
    assert find(cells, "full", "full", 1.0, 1.0).saved is None
    scoring, unknown, first, second = cost_sentences(cells, {1.0: 48.0})
    assert "of 1 of the set took 48 s" in scoring
    assert "an equal part, 4 s" in scoring
    assert "not recorded" in unknown
    assert "cheapest: random, keep 0.2, 3 s a run, which is 73% less than 11 s, at -15.00" in first
    assert "of 0.5 of the set: random, keep 0.2" in second


def test_the_cheapest_that_is_as_good_is_named() -> None:
    better = [
        replace(record, run={**record.run, "test_accuracy": 0.97})
        if (record.trial.metric, record.trial.keep) == ("el2n", 0.5)
        else record
        for record in records()
        if record.trial.size == 1
    ]
    _, sentence = cost_sentences(costed_cells(summarise(better), {}), {})
    assert "as accurate as the full set on average: el2n, " in sentence
    assert "keep 0.5, 6 s a run, which is 45% less than 11 s, at +2.00 points" in sentence


def test_nothing_is_said_to_be_saved_where_all_take_the_same_steps() -> None:
    sentences = cost_sentences(costed_cells(summarise(records("steps")), {}), {})
    assert sentences[-1].startswith("With the same optimizer steps")


def test_the_front_is_what_no_other_cell_beats_in_both() -> None:
    cells = costed_cells(summarise(records()), {})
    points = {(cell.seconds, cell.cell.accuracy.mean) for cell in cells}
    beaten = {
        (seconds, accuracy)
        for seconds, accuracy in points
        for faster, better in points - {(seconds, accuracy)}
        if faster <= seconds and better >= accuracy
    }
    front = [(cell.seconds, cell.cell.accuracy.mean) for cell in pareto_front(cells)]
    assert front == sorted(points - beaten)
    assert 2 <= len(front) < len(points)

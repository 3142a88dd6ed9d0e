"""What accuracy costs: seconds of training, and of the scores that chose the examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tamis.report.summary import AccuracyTable, Cell, Row
from tamis.sweep.results import GivenUpCell
from tamis.units import duration_text

__all__ = ["CostedCell", "cost_sentences", "costed_cells", "pareto_front"]

_UNSCORED = ("random", "full")  # sides


@dataclass(frozen=True)
class CostedCell:
    """A cell of a table and what one of its runs costs.

    Attributes:
        table: Where it stands.
        row: Its metric and side.
        keep: Its keep fraction.
        cell: Its numbers.
        scoring_seconds: Its share of computing the scores of its initial set: one part for every
            run of the sweep that chose by scores of that set. 0 for random and full; None where
            nobody recorded what the scores took.
    """

    table: AccuracyTable
    row: Row
    keep: float
    cell: Cell
    scoring_seconds: float | None

    @property
    def seconds(self) -> float:
        """Training, and the share of scoring where it is known."""
        return self.cell.train_seconds + (self.scoring_seconds or 0.0)

    @property
    def saved(self) -> float | None:
        """Share of the full set's training seconds that is saved; negative where it costs more."""
        full = self.table.full
        if full is None or self.row.metric == "full" or not full.train_seconds:
            return None
        return 1 - self.seconds / full.train_seconds


def costed_cells(
    tables: Iterable[AccuracyTable],
    scoring: Mapping[float, float],
    given_up: Iterable[GivenUpCell] = (),
) -> list[CostedCell]:
    """Every cell of every table with its costs, table by table, random first and full last.

    Args:
        tables: Of one sweep: they share its scores.
        scoring: Size → seconds of computing its scores; a size that is missing was not recorded.
        given_up: Cells that are in no table; their runs chose by the scores, too.
    """
    cells = [(table, *entry) for table in tables for entry in table.cells]
    runs: dict[float, int] = {}
    for table, row, _, cell in cells:
        if _is_scored(row):
            runs[table.size] = runs.get(table.size, 0) + cell.accuracy.n
    for one in given_up:
        if one.cell.side not in _UNSCORED and one.cell.size in runs:
            runs[one.cell.size] += one.n_stopped + one.n_finished
    shares = {size: scoring[size] / n for size, n in runs.items() if size in scoring}
    return [
        CostedCell(*entry, shares.get(entry[0].size) if _is_scored(entry[1]) else 0.0)
        for entry in cells
    ]


def _is_scored(row: Row) -> bool:
    return row.side not in _UNSCORED


def pareto_front(cells: Iterable[CostedCell]) -> list[CostedCell]:
    """Those that no other one equals in fewer seconds, from the cheapest to the most accurate."""
    front: list[CostedCell] = []
    for cell in sorted(cells, key=lambda one: (one.seconds, -one.cell.accuracy.mean)):
        if not front or cell.cell.accuracy.mean > front[-1].cell.accuracy.mean:
            front.append(cell)
    return front


def cost_sentences(cells: list[CostedCell], scoring: Mapping[float, float]) -> list[str]:
    """How scoring is counted, and what was saved against the full set, in plain sentences.

    Args:
        cells: Of one recipe and budget, all sizes.
        scoring: As in :func:`costed_cells`.
    """
    sentences = []
    scored = [cell for cell in cells if _is_scored(cell.row)]
    known = {cell.table.size: cell for cell in scored if cell.scoring_seconds is not None}
    for size, cell in known.items():
        share = cell.scoring_seconds or 0.0
        of = f" of {size:g} of the set" if len({c.table.size for c in cells}) > 1 else ""
        sentences.append(
            f"Computing the scores{of} took {duration_text(scoring[size])}, once for all metrics;"
            f" each run that chose by them carries an equal part, {duration_text(share)}. Whoever"
            " trains once pays all of it."
        )
    if len(known) < len({cell.table.size for cell in scored}):
        sentences.append("What the scores took was not recorded, and is not counted.")
    if cells[0].table.budget == "steps":
        sentences.append(
            "With the same optimizer steps every run trains about equally long: what differs in"
            " seconds is chance. Pruning saves time where runs get the same epochs."
        )
        return sentences
    return sentences + [text for part in _by_size(cells) for text in _saved(part)]


def _by_size(cells: list[CostedCell]) -> list[list[CostedCell]]:
    sizes = dict.fromkeys(cell.table.size for cell in cells)
    return [[cell for cell in cells if cell.table.size == size] for size in sizes]


def _saved(cells: list[CostedCell]) -> list[str]:
    """Against the full set of one size."""
    full, pruned = cells[0].table.full, [cell for cell in cells if cell.row.metric != "full"]
    if full is None or not pruned:
        return []
    as_good = [cell for cell in pruned if cell.cell.accuracy.mean >= full.accuracy.mean]
    best = min(as_good or pruned, key=lambda cell: cell.seconds)
    change = 100 * (best.cell.accuracy.mean - full.accuracy.mean)
    saved = best.saved or 0.0
    of = f" of {best.table.size:g} of the set" if best.table.size < 1 else ""
    start = (
        "The cheapest that is as accurate as the full set on average"
        if as_good
        else "None was as accurate as the full set on average; the cheapest"
    )
    return [
        f"{start}{of}: {best.row.name}, keep {best.keep:g}, {duration_text(best.seconds)} a run,"
        f" which is {abs(saved):.0%} {'less' if saved >= 0 else 'more'} than"
        f" {duration_text(full.train_seconds)}, at {change:+.2f} points of accuracy."
    ]

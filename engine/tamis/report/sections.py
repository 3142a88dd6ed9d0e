"""The parts of a report: one for each recipe and compute budget, with a table for each size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tamis.report.cost import CostedCell, cost_sentences, costed_cells
from tamis.report.summary import AccuracyTable
from tamis.report.verdict import verdict
from tamis.sweep.results import GivenUpCell

__all__ = ["Section", "make_sections"]


@dataclass(frozen=True)
class Section:
    """What one recipe did with one compute budget.

    Attributes:
        title: For people.
        name: Of its plots' files; distinct in a report.
        tables: Of the sizes, the largest first.
        cells: All of theirs, with their costs.
        verdicts: What each table shows.
        costs: What the seconds show.
    """

    title: str
    name: str
    tables: tuple[AccuracyTable, ...]
    cells: tuple[CostedCell, ...]
    verdicts: tuple[list[str], ...]
    costs: list[str]

    @property
    def has_sizes_plot(self) -> bool:
        """Whether there are several sizes, and pruned sets among them."""
        return len(self.tables) > 1 and any(table.rows for table in self.tables)

    def table_name(self, table: AccuracyTable) -> str:
        """Of the plot of one of its tables."""
        return f"{self.name}-size{table.size:g}" if len(self.tables) > 1 else self.name


def make_sections(
    tables: Iterable[AccuracyTable],
    scoring: Mapping[float, float],
    given_up: Sequence[GivenUpCell] = (),
) -> list[Section]:
    """Group tables.

    Args:
        tables: As :func:`tamis.report.summary.summarise` returns them.
        scoring: Size → seconds of computing its scores, as far as they were recorded.
        given_up: Cells that are in no table.
    """
    cells = costed_cells(tables, scoring, given_up)
    parts: dict[tuple[str, str], list[CostedCell]] = {}
    for cell in cells:
        parts.setdefault((cell.table.recipe, cell.table.budget), []).append(cell)
    several_recipes = len({recipe for recipe, _ in parts}) > 1
    sections = []
    for (recipe, budget), own in parts.items():
        sizes = tuple({cell.table.size: cell.table for cell in own}.values())
        name = f"{recipe}-{budget}" if several_recipes else budget
        title = f"{recipe}, same {budget}" if len(parts) > 1 else ""
        verdicts = tuple(verdict(table) + _missing(table, given_up) for table in sizes)
        costs = cost_sentences(own, scoring)
        sections.append(Section(title, name, sizes, tuple(own), verdicts, costs))
    return sections


def _missing(table: AccuracyTable, given_up: Sequence[GivenUpCell]) -> list[str]:
    """What a table's verdict cannot speak of."""
    own = [
        str(one)
        for one in given_up
        if (one.cell.recipe, one.cell.budget, one.cell.size)
        == (table.recipe, table.budget, table.size)
    ]
    return [f"Given up, and so in no comparison: {'; '.join(own)}."] if own else []

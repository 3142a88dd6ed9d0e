"""The parts of a report: one for each recipe and compute budget, with a table for each size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tamis.report.cost import CostedCell, cost_sentences, costed_cells
from tamis.report.summary import AccuracyTable
from tamis.report.verdict import verdict

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

    def table_name(self, table: AccuracyTable) -> str:
        """Of the plot of one of its tables."""
        return f"{self.name}-size{table.size:g}" if len(self.tables) > 1 else self.name


def make_sections(tables: Iterable[AccuracyTable], scoring: Mapping[float, float]) -> list[Section]:
    """Group tables.

    Args:
        tables: As :func:`tamis.report.summary.summarise` returns them.
        scoring: Size → seconds of computing its scores, as far as they were recorded.
    """
    cells = costed_cells(tables, scoring)
    parts: dict[tuple[str, str], list[CostedCell]] = {}
    for cell in cells:
        parts.setdefault((cell.table.recipe, cell.table.budget), []).append(cell)
    several_recipes = len({recipe for recipe, _ in parts}) > 1
    sections = []
    for (recipe, budget), own in parts.items():
        sizes = tuple({cell.table.size: cell.table for cell in own}.values())
        name = f"{recipe}-{budget}" if several_recipes else budget
        title = f"{recipe}, same {budget}" if len(parts) > 1 else ""
        verdicts = tuple(verdict(table) for table in sizes)
        costs = cost_sentences(own, scoring)
        sections.append(Section(title, name, sizes, tuple(own), verdicts, costs))
    return sections

"""What commands print: one JSON object for programs, or tables for people; progress on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tamis.errors import printable
from tamis.progress import QUIET, Advance, Progress
from tamis.units import number_text

if TYPE_CHECKING:
    import rich.progress

    from tamis.loaders.batch import Skipped

__all__ = ["pairs", "print_json", "print_skipped", "print_table", "show_progress"]

_SECONDS_BETWEEN_LINES = 30.0


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on stdout; paths become text, numbers that JSON lacks become null."""
    print(json.dumps(_plain(values)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def print_table(headers: list[str], rows: Iterable[Iterable[object]], title: str = "") -> None:
    """A table on stdout; in a terminal its texts are wrapped between words, in a file not at all.

    Where not even the words fit beside each other, the terminal breaks the lines: nothing is lost.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    cells = [headers, *([printable(str(cell)) for cell in row] for row in rows)]
    columns = list(zip(*cells, strict=True))
    longest = [max(map(cell_len, column)) for column in columns]
    words = [max(map(cell_len, " ".join(column).split()), default=0) for column in columns]
    console = Console(highlight=False)
    # Rich itself drops columns and ends of words. Of its own it needs three characters a column.
    around = 3 * len(columns) + 1
    room = console.width - around if console.is_terminal else sum(longest)
    widths = _shared_out(room, words, longest)
    console.width = max(console.width, sum(widths) + around)
    sized = [Column(name, width=width) for name, width in zip(headers, widths, strict=True)]
    table = Table(*sized, title=title or None, box=SIMPLE_HEAD, title_justify="left")
    for row in cells[1:]:
        table.add_row(*map(escape, row))
    console.print(table)


def _shared_out(room: int, least: list[int], most: list[int]) -> list[int]:
    """Widths between ``least`` and ``most`` with a sum of ``room``, if those allow it."""
    widths = list(least)
    left = room - sum(least)
    # Who wants least comes first, so that the others share what it leaves.
    wanting = sorted(range(len(most)), key=lambda column: most[column] - least[column])
    for number, column in enumerate(wanting):
        fair = max(left, 0) // (len(wanting) - number)
        widths[column] += min(most[column] - least[column], fair)
        left -= widths[column] - least[column]
    return widths


def pairs(values: dict[str, object]) -> None:
    """Names and values on stdout, one a line."""
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"{name:<{width}}  {printable(str(value))}")


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """Damaged examples that were left out, on stdout, one a line."""
    for one in skipped:
        path = f" ({one.path})" if one.path else ""
        print(printable(f"skipped  example {one.example_id}{path}: {one.reason}"))


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Bars with rate and time left on stderr where that is a terminal, else a line now and then.

    Args:
        quiet: Nothing at all: of several processes one speaks.
    """
    if quiet:
        yield QUIET
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


class _Lines:
    """For logs: how far a task is, on stderr, every half minute; of short work nothing."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        start = shown = time.monotonic()
        done = 0

        def advance(units: int = 1, /) -> None:
            nonlocal done, shown
            done += units
            now = time.monotonic()
            if now - shown >= _SECONDS_BETWEEN_LINES:
                shown = now
                of = f"{done:,} of {total:,}" if total is not None else f"{done:,}"
                line = f"tamis: {description}: {of}, {number_text(done / (now - start))}/s"
                print(printable(line), file=sys.stderr, flush=True)

        yield advance


class _Bars:
    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        number = self._bars.add_task(description, total=total, rate="")

        def advance(units: int = 1, /) -> None:
            speed = self._bars.tasks[self._bars.task_ids.index(number)].speed
            self._bars.update(number, advance=units, rate=f"{speed:,.0f}/s" if speed else "")

        try:
            yield advance
        finally:
            self._bars.remove_task(number)

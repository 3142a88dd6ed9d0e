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
_WIDEST = 10_000  # columns of text in a file


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
    """A table on stdout: as wide as it needs to be in a file, folded into a narrow terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    columns = [Column(header, overflow="fold") for header in headers]
    table = Table(*columns, title=title or None, box=SIMPLE_HEAD, title_justify="left")
    for row in rows:
        table.add_row(*(escape(printable(str(cell))) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDEST)
        console.width = max(80, console.measure(table).maximum)
    console.print(table)


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

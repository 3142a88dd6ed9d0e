"""What becomes of measured rows: a line in a file of records, and plain text.

It needs the standard library alone, so that it serves machines with nothing but the kernels, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tamis.benchmarks.measuring import Row
from tamis.units import number_text

__all__ = ["HEADERS", "append_record", "cells", "found", "text"]

HEADERS = ("work", "tamis", "", "peer", "", "ratio", "goal", "achieved", "of ceiling")
"""Of :func:`cells`; the last two are empty where no ceiling was measured."""


def append_record(path: Path, rows: Sequence[Row], environment: dict[str, Any]) -> None:
    """Append rows, environment, time and command to a file, as one JSON line."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(argument).name for argument in sys.argv],
        **found(rows, environment),
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def found(rows: Sequence[Row], environment: dict[str, Any]) -> dict[str, Any]:
    """The object that is printed as JSON."""
    return {"rows": [asdict(row) for row in rows], "environment": environment}


def cells(row: Row) -> tuple[str, ...]:
    """A row of a table for people, under ``HEADERS``."""
    return (
        row.name,
        number_text(row.value),
        row.unit,
        row.peer or "",
        "" if row.peer_value is None else number_text(row.peer_value),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        _goal(row),
        "" if row.achieved is None else f"{number_text(row.achieved)} {row.achieved_unit}",
        ""
        if row.share is None or row.ceiling is None
        else f"{row.share:.0%} of {number_text(row.ceiling)}, {row.ceiling_name}",
    )


def text(rows: Sequence[Row], width: int) -> Iterator[str]:
    """Lines for people: a table where it fits the width, else a paragraph for each row."""
    lines = [HEADERS, *map(cells, rows)]
    used = [i for i in range(len(HEADERS)) if i < 7 or any(line[i] for line in lines[1:])]
    widths = {i: max(len(line[i]) for line in lines) for i in used}
    if sum(widths.values()) + 2 * (len(used) - 1) <= width:
        for line in lines:
            yield "  ".join(f"{line[i]:<{widths[i]}}" for i in used).rstrip()
        return
    for row in rows:
        yield from _paragraph(row)


def _paragraph(row: Row) -> Iterator[str]:
    _, value, unit, peer, peer_value, ratio, goal, achieved, share = cells(row)
    yield row.name
    yield f"    {value} {unit}" + (f"; goal {goal}" if goal and not ratio else "")
    if peer:
        against = f"{ratio} times {peer}" if ratio else f"against {peer}"
        yield f"    {against}, {peer_value} {unit}" + (f"; goal {goal}" if goal else "")
    if achieved:
        yield "    " + ", ".join(filter(None, (achieved, share)))


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = "≤ " if row.lower_is_better else ""
    return f"{sign}{number_text(row.goal)} {'✓' if row.met else 'missed'}"

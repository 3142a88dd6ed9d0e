"""What becomes of measured rows: a line in a file of records, and plain text.

It needs the standard library alone, so that it serves machines with nothing but the kernels, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tamis.benchmarks.measuring import Row
from tamis.errors import UsageError, first_line
from tamis.units import number_text

__all__ = [
    "FIGURE_HEADERS",
    "HEADERS",
    "Change",
    "append_record",
    "cells",
    "changes",
    "figure_cells",
    "found",
    "last_record",
    "text",
]

HEADERS = ("work", "tamis", "", "peer", "", "ratio", "goal", "achieved", "of ceiling")
"""Of :func:`cells`; the last two are empty where no ceiling was measured."""

FIGURE_HEADERS = ("loader", "mode", "images/s", "MB/s", "CPU s/1000", "first batch s", "MB held")
"""Of :func:`figure_cells`."""


def append_record(
    path: Path, rows: Sequence[Row], environment: dict[str, Any], **more: Any
) -> None:
    """Append rows, environment, time, command and ``more`` to a file, as one JSON line."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(argument).name for argument in sys.argv],
        **found(rows, environment),
        **more,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def found(rows: Sequence[Row], environment: dict[str, Any]) -> dict[str, Any]:
    """The object that is printed as JSON."""
    return {"rows": [asdict(row) for row in rows], "environment": environment}


@dataclass(frozen=True)
class Change:
    """A measurement now and in an earlier record.

    Attributes:
        name: What was done, and against whom.
        before: Ratio to the peer, or value where there is none, in the earlier record.
        now: The same now.
        better: By what factor now is better; 2 is twice as good.
    """

    name: str
    before: float
    now: float
    better: float


def last_record(path: Path) -> dict[str, Any]:
    """The last line of a file of records.

    Raises:
        UsageError: It holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        record = json.loads([line for line in lines if line.strip()][-1])
        if not isinstance(record, dict) or not isinstance(record["rows"], list):
            raise ValueError("another JSON")
        return record
    except (OSError, ValueError, LookupError, RecursionError) as error:
        raise UsageError(
            path,
            expected="a file of records, as --record writes them",
            found=first_line(error),
            do="give one of them",
        ) from error


def changes(rows: Sequence[Row], record: dict[str, Any]) -> list[Change]:
    """What rows have become since a record: ratios, or values where there is no peer."""
    earlier = {(one["name"], one.get("peer")): one for one in record["rows"]}
    found = []
    for row in rows:
        one = earlier.get((row.name, row.peer))
        if one is None:
            continue
        before = one["value"] if row.ratio is None else one.get("ratio")
        now = row.value if row.ratio is None else row.ratio
        if before and now:
            name = f"{row.name}, against {row.peer}" if row.peer else f"{row.name} ({row.unit})"
            better = before / now if row.lower_is_better else now / before
            found.append(Change(name, before, now, better))
    return found


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


def figure_cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """What was measured of one loader, under ``FIGURE_HEADERS``.

    Args:
        figures: The values of :class:`tamis.benchmarks.loaders.running.Figures`.
    """
    return (
        figures["loader"],
        figures["mode"],
        number_text(figures["images_per_second"]),
        number_text(figures["megabytes_per_second"]),
        number_text(figures["cpu_seconds"]),
        number_text(figures["first_batch"]),
        number_text(figures["memory"] / 1e6),
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

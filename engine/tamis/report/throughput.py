"""A record of ``tamis bench``, as the page shows it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.benchmarks.measuring import Row
from tamis.benchmarks.records import cells, figure_cells, last_record
from tamis.errors import UsageError, first_line

__all__ = ["BenchRow", "Throughput", "read_throughput"]


@dataclass(frozen=True)
class BenchRow:
    """A measurement.

    Attributes:
        row: Its numbers.
        texts: See :func:`tamis.benchmarks.records.cells`.
    """

    row: Row
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Throughput:
    """What a machine was found to do.

    Attributes:
        when: UTC, to the second.
        command: What measured it.
        machine: Processor, versions and the rest, one text.
        loaders: Cells under ``FIGURE_HEADERS`` of each loader that was measured.
        rows: Against peers and goals.
        left_out: What was not measured, and why.
    """

    when: str
    command: str
    machine: str
    loaders: tuple[tuple[str, ...], ...]
    rows: tuple[BenchRow, ...]
    left_out: tuple[str, ...]

    @property
    def has_ceilings(self) -> bool:
        """Whether some are compared with what the hardware does at most."""
        return any(one.row.achieved is not None for one in self.rows)


def read_throughput(path: Path) -> Throughput:
    """The last record of a file that ``tamis bench --record`` has written.

    Raises:
        UsageError: It holds none, or one of another version.
    """
    record = last_record(path)
    try:
        return _throughput(record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            path,
            expected="a record as this version writes them",
            found=first_line(error),
            do="measure again: tamis bench loaders BUNDLE --record RECORD.jsonl",
        ) from error


def _throughput(record: dict[str, Any]) -> Throughput:
    rows = [Row(**one) for one in record["rows"]]
    return Throughput(
        record["time"].replace("T", " "),
        shlex.join(record["command"]),
        ", ".join(f"{name} {value}" for name, value in record["environment"].items()),
        tuple(map(figure_cells, record.get("loaders") or ())),
        tuple(BenchRow(row, cells(row)) for row in rows),
        tuple(record.get("left_out") or ()),
    )

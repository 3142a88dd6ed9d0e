"""bench."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tamis.cli.options import Json
from tamis.cli.output import number_text, print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.benchmarks.measuring import Row

__all__ = ["bench"]


def bench(
    what: Annotated[
        Literal["bundles", "scale"],
        typer.Argument(help="bundles: convert, cut, verify; scale: up to ImageNet's size."),
    ],
    bundle: Annotated[
        Path | None, typer.Argument(help="Whose images to work on. Default: made-up pictures.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="A folder on the disk to measure. Default: this one.")
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Turns; the median counts.")] = 5,
    record: Annotated[
        Path | None, typer.Option(help="Append rows and environment to this file, one JSON line.")
    ] = None,
    json: Json = False,
) -> None:
    """What this machine does, as ratios to named peers within one run."""
    from tamis.benchmarks.bundles import BundleBench, bench_bundles
    from tamis.benchmarks.measuring import environment
    from tamis.benchmarks.scale import bench_scale

    where = folder or Path()
    with show_progress() as progress:
        if what == "bundles":
            size = BundleBench(repetitions=repetitions)
            rows = bench_bundles(bundle, where, size, progress=progress)
        else:
            rows = bench_scale(bundle, where, progress=progress)
    found: dict[str, Any] = {"rows": [asdict(row) for row in rows], "environment": environment()}
    if record:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [Path(argument).name for argument in sys.argv],
            **found,
        }
        with record.open("a", encoding="utf-8") as file:
            file.write(json_module.dumps(line) + "\n")
    if json:
        print_json(found)
    else:
        _print(rows, found["environment"])


def _print(rows: list[Row], environment: dict[str, object]) -> None:
    print_table(
        ["work", "tamis", "", "peer", "", "ratio", "goal"],
        [
            (
                row.name,
                number_text(row.value),
                row.unit,
                row.peer or "",
                "" if row.peer_value is None else number_text(row.peer_value),
                "" if row.ratio is None else f"{row.ratio:.2f}",
                _goal(row),
            )
            for row in rows
        ],
    )
    print(", ".join(f"{name} {value}" for name, value in environment.items()))


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{number_text(row.goal)} {'✓' if row.met else 'missed'}"

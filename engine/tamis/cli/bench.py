"""bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.options import Json
from tamis.cli.output import print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.benchmarks.measuring import Row
    from tamis.progress import Progress

__all__ = ["bench"]


def bench(
    what: Annotated[
        Literal["bundles", "kernels", "scale"],
        typer.Argument(
            help="bundles: convert, cut, verify; kernels; scale: up to ImageNet's size."
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Argument(help="Whose images to work on. Default: made-up pictures.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="A folder on the disk to measure. Default: this one.")
    ] = None,
    repetitions: Annotated[
        int | None, typer.Option(help="Turns; the median counts. Default: 5, of kernels 3.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Of kernels: one of them; may be given several times.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "gpu"], typer.Option(help="Of kernels: auto is both, where it can.")
    ] = "auto",
    record: Annotated[
        Path | None, typer.Option(help="Append rows and environment to this file, one JSON line.")
    ] = None,
    json: Json = False,
) -> None:
    """What this machine does, as ratios to named peers within one run."""
    from tamis.benchmarks.bundles import BundleBench, bench_bundles
    from tamis.benchmarks.measuring import environment
    from tamis.benchmarks.records import append_record, found
    from tamis.benchmarks.scale import bench_scale

    where = folder or Path()
    left_out: list[str] = []
    with show_progress() as progress:
        if what == "bundles":
            size = BundleBench(repetitions=repetitions or 5)
            rows = bench_bundles(bundle, where, size, progress=progress)
        elif what == "kernels":
            rows, left_out = _kernels(only, device, repetitions or 3, progress)
        else:
            rows = bench_scale(bundle, where, progress=progress)
    around = environment()
    if record:
        append_record(record, rows, around)
    if json:
        print_json({**found(rows, around), "left_out": left_out})
    else:
        _print(rows, left_out, around)


def _kernels(
    only: list[str] | None,
    device: Literal["auto", "cpu", "gpu"],
    turns: int,
    progress: Progress,
) -> tuple[list[Row], list[str]]:
    from tamis.benchmarks.kernels.running import STEMS, KernelBench, bench_kernels
    from tamis.errors import UsageError

    unknown = sorted(set(only or ()) - set(STEMS))
    if unknown:
        raise UsageError(
            "--only", expected=" or ".join(STEMS), found=unknown[0], do="leave it out for all"
        )
    with progress.task("bench kernels", None) as advance:
        return bench_kernels(KernelBench(only or tuple(STEMS), device, turns), advance=advance)


def _print(rows: list[Row], left_out: list[str], environment: dict[str, str | int]) -> None:
    from tamis.benchmarks.records import HEADERS, cells

    # Columns that no row fills are left out.
    lines = [cells(row) for row in rows]
    used = [i for i in range(len(HEADERS)) if i < 7 or any(line[i] for line in lines)]
    print_table([HEADERS[i] for i in used], [[line[i] for i in used] for line in lines])
    for missing in left_out:
        print(f"left out: {missing}")
    print(", ".join(f"{name} {value}" for name, value in environment.items()))

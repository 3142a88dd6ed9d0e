"""bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tamis.cli.options import Json
from tamis.cli.output import print_json, show_progress

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
        int | None,
        typer.Option(min=1, help="Turns; the median counts. Default: 5, of kernels 3."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Of kernels: row_scores, statistics, select_top, influence, nearest_prototype or "
            "kmeans; may be given several times."
        ),
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

    _refuse_odd_options(what, bundle, only, device, record)
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


def _refuse_odd_options(
    what: str, bundle: Path | None, only: list[str] | None, device: str, record: Path | None
) -> None:
    """Before minutes of work: options that would be ignored, a record that cannot be written."""
    from tamis.errors import UsageError

    of_kernels = what == "kernels"
    for option, value, odd in (
        ("BUNDLE", bundle, of_kernels and bundle is not None),
        ("--only", " ".join(only or ()), not of_kernels and only is not None),
        ("--device", device, not of_kernels and device != "auto"),
    ):
        if odd:
            raise UsageError(
                option, expected=f"nothing for {what}", found=str(value), do="leave it out"
            )
    if record and (record.is_dir() or not record.resolve().parent.is_dir()):
        raise UsageError(
            "--record",
            expected="a file in a folder that is there",
            found=str(record),
            do="make the folder first",
        )


def _kernels(
    only: list[str] | None,
    device: Literal["auto", "cpu", "gpu"],
    turns: int,
    progress: Progress,
) -> tuple[list[Row], list[str]]:
    from tamis.benchmarks.kernels.running import STEMS, KernelBench, bench_kernels, current_card
    from tamis.errors import UsageError

    unknown = sorted(set(only or ()) - set(STEMS))
    if unknown:
        raise UsageError(
            "--only", expected=" or ".join(STEMS), found=unknown[0], do="leave it out for all"
        )
    if device == "gpu" and current_card() is None:
        raise UsageError(
            "--device",
            expected="a CUDA device, torch and CuPy",
            found="not all of them",
            do="pass --device cpu, or run it where they are",
        )
    with progress.task("bench kernels", None) as advance:
        return bench_kernels(KernelBench(only or tuple(STEMS), device, turns), advance=advance)


def _print(rows: list[Row], left_out: list[str], environment: dict[str, str | int]) -> None:
    from rich.console import Console

    from tamis.benchmarks.records import text

    for line in text(rows, Console().width):
        print(line)
    for missing in left_out:
        print(f"left out: {missing}")
    print(", ".join(f"{name} {value}" for name, value in environment.items()))

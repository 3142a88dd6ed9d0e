"""bench."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tamis.cli.options import Json
from tamis.cli.output import print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.benchmarks.loaders.running import Figures
    from tamis.benchmarks.measuring import Row
    from tamis.benchmarks.records import Change
    from tamis.progress import Progress

__all__ = ["bench"]

_DEVICES = Literal["auto", "cpu", "gpu"]


@dataclass
class _Found:
    rows: list[Row] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    bundle: Path | None
    named_folder: Path | None
    repetitions: int | None
    only: list[str] | None
    device: _DEVICES
    side: int | None
    cold_gigabytes: float | None

    @property
    def folder(self) -> Path:
        return self.named_folder or Path()


def bench(
    what: Annotated[
        Literal["bundles", "loaders", "kernels", "training", "scale", "all"],
        typer.Argument(
            help="bundles: convert, cut, verify; loaders: images a second; kernels; training: the "
            "loop; scale: up to ImageNet's size; all of them."
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
            help="Some kernels (row_scores, statistics, select_top, influence, nearest_prototype, "
            "kmeans) or loaders (ffcv, dali, memory, 'plain FFCV', 'PIL DataLoader', WebDataset); "
            "may be given several times."
        ),
    ] = None,
    device: Annotated[
        _DEVICES,
        typer.Option(
            help="Of kernels: auto is both, where it can. Of loaders, where batches go: auto is a "
            "GPU, where there is one."
        ),
    ] = "auto",
    side: Annotated[
        int | None, typer.Option(min=1, help="Of loaders: pixels of the images. Default: 224.")
    ] = None,
    cold_gigabytes: Annotated[
        float | None,
        typer.Option(min=0, help="Of loaders: read from the disk; 0 for none. Default: 2."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Append rows and environment to this file, one JSON line.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios as a PNG.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show what has changed since this file's last record.")
    ] = None,
    json: Json = False,
) -> None:
    """What this machine does, as ratios to named peers within one run."""
    from tamis.benchmarks.measuring import environment
    from tamis.benchmarks.records import append_record, changes, found, last_record
    from tamis.errors import UsageError

    asked = _Asked(bundle, folder, repetitions, only, device, side, cold_gigabytes)
    _refuse_odd_options(what, asked)
    if what in ("loaders", "all"):
        _gpu_for_batches(asked)  # refuses before minutes of other work
    if not asked.folder.is_dir():
        raise UsageError(
            "--folder",
            expected="a folder that is there",
            found=str(folder),
            do="name one, or make it",
        )
    for option, path in (("--record", record), ("--plot", plot)):
        _refuse_unwritable(option, path)
    earlier = last_record(compare) if compare else None
    done = _Found()
    with show_progress() as progress:
        for part in _PARTS if what == "all" else (what,):
            _PARTS[part](asked, done, progress)
    around = environment()
    more: dict[str, Any] = {"left_out": done.left_out}
    if done.figures:
        more["loaders"] = [asdict(one) for one in done.figures]
    if record:
        append_record(record, done.rows, around, **more)
    if plot:
        from tamis.benchmarks.picture import draw

        draw(done.rows, plot)
    since = changes(done.rows, earlier) if earlier else []
    if json:
        if earlier:
            more["changes"] = [asdict(change) for change in since]
        print_json({**found(done.rows, around), **more})
        return
    _print(done, since, around)
    if earlier and not since:
        print(f"{compare}: no row of its last record was measured again")


def _refuse_odd_options(what: str, asked: _Asked) -> None:
    """Options that would be ignored."""
    from tamis.errors import UsageError

    on_disk = ("bundles", "loaders", "training", "scale", "all")
    for option, value, works in (
        ("BUNDLE", asked.bundle, ("bundles", "loaders", "scale", "all")),
        ("--folder", asked.named_folder, on_disk),
        ("--only", " ".join(asked.only or ()), ("kernels", "loaders")),
        ("--device", "" if asked.device == "auto" else asked.device, ("kernels", "loaders", "all")),
        ("--side", asked.side, ("loaders", "all")),
        ("--cold-gigabytes", asked.cold_gigabytes, ("loaders", "all")),
        ("--repetitions", asked.repetitions, ("bundles", "loaders", "kernels", "training", "all")),
    ):
        if value not in (None, "") and what not in works:
            raise UsageError(
                option, expected=f"nothing for {what}", found=str(value), do="leave it out"
            )


def _refuse_unwritable(option: str, path: Path | None) -> None:
    """Before minutes of work."""
    from tamis.errors import UsageError

    if path and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise UsageError(
            option,
            expected="a file in a folder that is there",
            found=str(path),
            do="make the folder first",
        )


def _bundles(asked: _Asked, done: _Found, progress: Progress) -> None:
    from tamis.benchmarks.bundles import BundleBench, bench_bundles

    size = BundleBench(repetitions=asked.repetitions or 5)
    done.rows += bench_bundles(asked.bundle, asked.folder, size, progress=progress)


def _scale(asked: _Asked, done: _Found, progress: Progress) -> None:
    from tamis.benchmarks.scale import bench_scale

    done.rows += bench_scale(asked.bundle, asked.folder, progress=progress)


def _loaders(asked: _Asked, done: _Found, progress: Progress) -> None:
    from tamis.benchmarks.loaders.contenders import CONTENDERS
    from tamis.benchmarks.loaders.running import LoaderBench, bench_loaders

    _refuse_unknown(asked.only, CONTENDERS)
    on_gpu = _gpu_for_batches(asked)
    cold = 2.0 if asked.cold_gigabytes is None else asked.cold_gigabytes
    size = LoaderBench(
        tuple(asked.only) if asked.only else None,
        asked.repetitions or 5,
        side=asked.side or 224,
        batch_size=256 if on_gpu else 64,
        cold_bytes=int(cold * 2**30),
        device="cuda" if on_gpu else "cpu",
        feed=on_gpu,
    )
    report = bench_loaders(asked.bundle, asked.folder, size, progress=progress)
    done.rows += report.rows
    done.figures += report.figures
    done.left_out += report.left_out


def _gpu_for_batches(asked: _Asked) -> bool:
    """Whether loaders are to bring their batches to a GPU."""
    import torch

    from tamis.errors import UsageError

    available = asked.device != "cpu" and torch.cuda.is_available()
    if asked.device == "gpu" and not available:
        raise UsageError("--device", expected="a CUDA device", found="none", do="pass --device cpu")
    if available and asked.cold_gigabytes:
        raise UsageError(
            "--cold-gigabytes",
            expected="loaders on a CPU",
            found="a GPU, which makes no difference to reading",
            do="pass --device cpu, or leave it out",
        )
    return available


def _kernels(asked: _Asked, done: _Found, progress: Progress) -> None:
    from tamis.benchmarks.kernels.running import STEMS, KernelBench, bench_kernels, current_card
    from tamis.errors import UsageError

    _refuse_unknown(asked.only, STEMS)
    if asked.device == "gpu" and current_card() is None:
        raise UsageError(
            "--device",
            expected="a CUDA device, torch and CuPy",
            found="not all of them",
            do="pass --device cpu, or run it where they are",
        )
    which = KernelBench(asked.only or tuple(STEMS), asked.device, asked.repetitions or 3)
    with progress.task("bench kernels", None) as advance:
        rows, left_out = bench_kernels(which, advance=advance)
    done.rows += rows
    done.left_out += left_out


def _training(asked: _Asked, done: _Found, progress: Progress) -> None:
    from tamis.benchmarks.training import bench_training
    from tamis.devices import resolve_device

    device = resolve_device()
    done.rows += bench_training(device, asked.folder, asked.repetitions or 5, progress=progress)


_PARTS = {
    "bundles": _bundles,
    "loaders": _loaders,
    "kernels": _kernels,
    "training": _training,
    "scale": _scale,
}


def _refuse_unknown(only: list[str] | None, known: dict[str, Any]) -> None:
    from tamis.errors import UsageError

    for name in only or ():
        if name not in known:
            raise UsageError(
                "--only", expected=", ".join(known), found=name, do="leave it out for all"
            )


def _print(done: _Found, since: list[Change], environment: dict[str, str | int]) -> None:
    from rich.console import Console

    from tamis.benchmarks.records import FIGURE_HEADERS, figure_cells, text

    if done.figures:
        print_table([*FIGURE_HEADERS], [figure_cells(asdict(one)) for one in done.figures])
    for line in text(done.rows, Console().width):
        print(line)
    if since:
        rows = [[c.name, f"{c.before:.3g}", f"{c.now:.3g}", f"{c.better:.2f}"] for c in since]
        print_table(["since the record", "then", "now", "times as good"], rows)
    for missing in done.left_out:
        print(f"left out: {missing}")
    print(", ".join(f"{name} {value}" for name, value in environment.items()))

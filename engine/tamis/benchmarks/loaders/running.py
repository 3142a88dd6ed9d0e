"""``tamis bench loaders``: images a second, memory, and time to the first batch."""

from __future__ import annotations

import statistics
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tamis.benchmarks.loaders.ceilings import copying, decoding, reading
from tamis.benchmarks.loaders.cold import cold_rows
from tamis.benchmarks.loaders.contenders import CONTENDERS, RESIDENT, Task
from tamis.benchmarks.loaders.scoring_pass import scoring_rows
from tamis.benchmarks.loaders.tiles import tile_rows
from tamis.benchmarks.loaders.worker import LoaderProcess, Turn, take_turns
from tamis.benchmarks.material import image_files, photographs, repeated
from tamis.benchmarks.measuring import Ceiling, Row
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.layout import JPEG_MODE
from tamis.bundles.opening import open_bundle
from tamis.devices import n_cores
from tamis.progress import QUIET, Advance, Progress

__all__ = ["Figures", "LoaderBench", "LoaderReport", "bench_loaders"]

_PICTURES = 300
_SMALL_SIDE = 64
_MOST_LARGE, _MOST_SMALL = 2000, 50_000  # images of a bundle that are used
_SHARDS = 4 * n_cores()  # several for each worker
_EPOCHS = 20  # of the row about memory
_OURS = ("ffcv", "dali", "memory")
_FED_SIDE = 160
_GPU_EXAMPLES = 8192  # of a bundle, or repeated from fewer

# (mode, ours, peer) → the least ratio that tamis aims at.
_GOALS = {
    ("score", "ffcv", "plain FFCV"): 1.3,
    ("score", "ffcv", "PIL DataLoader"): 2.0,
    ("score", "ffcv", "WebDataset"): 1.5,
    ("train", "ffcv", "plain FFCV"): 1.0,
    ("small", "memory", "plain FFCV"): 5.0,
}
_WORK = {
    "score": "centre crop",
    "train": "random resized crop, flip",
    "small": "shift, flip",
    "fed": "training step of ResNet-18, random resized crop, flip",
}


@dataclass(frozen=True)
class LoaderBench:
    """What is measured.

    Attributes:
        only: Names of contenders; None for all that are installed.
        repetitions: Epochs of each; the median counts.
        side: Of the images in pixels; of small images their own.
        batch_size: Examples.
        cold_bytes: Size of the bundle that is read from the disk; 0 leaves it out. So does a GPU,
            which makes no difference to it, or to restart tiles.
        device: Where batches go, ``cpu`` or ``cuda``.
        feed: Let each loader feed a training step of ResNet-18, too.
    """

    only: tuple[str, ...] | None = None
    repetitions: int = 5
    side: int = 224
    batch_size: int = 64
    cold_bytes: int = 2 << 30
    device: str = "cpu"
    feed: bool = False


@dataclass(frozen=True)
class Figures:
    """One contender in one mode; medians.

    Attributes:
        mode: ``score``, ``train``, ``small`` or ``fed``.
        loader: Its name.
        images_per_second: Of an epoch.
        megabytes_per_second: Of encoded records.
        cpu_seconds: For 1000 images, all processes.
        first_batch: Seconds from the start of the process.
        memory: Most bytes after an epoch, all processes.
    """

    mode: str
    loader: str
    images_per_second: float
    megabytes_per_second: float
    cpu_seconds: float
    first_batch: float
    memory: int


@dataclass(frozen=True)
class LoaderReport:
    """What was found.

    Attributes:
        rows: Ratios and goals.
        figures: Everything about each contender.
        left_out: What was not measured, and why.
    """

    rows: list[Row]
    figures: list[Figures]
    left_out: list[str]


def bench_loaders(
    bundle: Path | None,
    folder: Path,
    size: LoaderBench | None = None,
    *,
    progress: Progress = QUIET,
) -> LoaderReport:
    """Measure loaders on the same images, in turns, each in a process of its own.

    Args:
        bundle: Whose images; None makes pictures of 500 × 375.
        folder: A folder on the disk to be measured, with room for ``cold_bytes`` and the images
            three times, on a GPU 8,192 of them four times; nothing stays in it.
        size: What is measured.
        progress: Told of every epoch.
    """
    size = size or LoaderBench()
    with TemporaryDirectory(prefix=".tamis-bench-", dir=folder) as name:
        work = Path(name)
        images = _images(bundle, work, size.device)
        rows = images.metadata[f"f{images.image_field}"]
        sides = {*np.unique(rows["width"]).tolist(), *np.unique(rows["height"]).tolist()}
        small = len(sides) == 1 and max(sides) <= _SMALL_SIDE
        if small:
            size = replace(size, side=int(max(sides)), batch_size=512, cold_bytes=0)
        elif size.device == "cuda":
            images = _enlarged(images, work)
        task, left_out = _prepared(images, work, size)
        names = [name for name in size.only or CONTENDERS if _usable(name, task, left_out)]
        report = LoaderReport([], [], left_out)
        _epochs(_passes(task, size, small=small), names, images, size.repetitions, report, progress)
        if size.device == "cuda":
            left_out.append("a file that is not in memory, and restart tiles: no work of a GPU's")
        if small:
            if size.feed:
                left_out.append("training steps: of small images loading is no part of them")
            return report
        on_cpu = size.device == "cpu" and {"ffcv", "plain FFCV"} <= set(names)
        if on_cpu and size.cold_bytes:
            report.rows.extend(cold_rows(images, work, size.cold_bytes, size.repetitions, progress))
        if on_cpu and _all_jpeg(images):
            rows_of_tiles = tile_rows(images, task, work, size.repetitions, left_out, progress)
            report.rows.extend(rows_of_tiles)
        if "ffcv" in names:
            report.rows.extend(scoring_rows(images, size.side, size.device, progress))
    return report


def _passes(task: Task, size: LoaderBench, *, small: bool) -> dict[str, Task]:
    """What is gone through, by its name in ``_WORK``."""
    if small:
        return {"small": replace(task, mode="small")}
    passes = {"score": task, "train": replace(task, mode="train")}
    if size.feed:
        passes["fed"] = replace(task, mode="train", side=_FED_SIDE, feed=True)
    return passes


def _epochs(
    passes: dict[str, Task],
    names: list[str],
    images: Bundle,
    repetitions: int,
    report: LoaderReport,
    progress: Progress,
) -> None:
    """Every pass by every contender, and memory over many epochs of the last that only loads."""
    ours = "memory" if "small" in passes else "ffcv"
    total = (len(passes) * len(names) + ("fed" in passes)) * (repetitions + 1) + _EPOCHS
    with progress.task("bench loaders", total) as advance:
        ceilings = [reading(images), copying()]
        report.rows.extend(Row(c.name, c.rate, c.unit) for c in ceilings)
        top = decoding(images) if _all_jpeg(images) else None
        for mode, task in passes.items():
            asked = {name: (name, task) for name in (*names, *[RESIDENT] * task.feed)}
            turns = take_turns(asked, repetitions, advance)
            report.figures.extend(_figures(mode, turns, images))
            report.rows.extend(_rows(mode, turns, task, None if task.feed else top))
        if ours in names:
            watched = [task for task in passes.values() if not task.feed][-1]
            report.rows.append(_growth(ours, watched, advance))


def _all_jpeg(images: Bundle) -> bool:
    return bool((images.metadata[f"f{images.image_field}"]["mode"] == JPEG_MODE).all())


def _enlarged(images: Bundle, work: Path) -> Bundle:
    """The same images often enough that a GPU has something to do."""
    if images.n_examples >= _GPU_EXAMPLES:
        return images
    return repeated(images, work / "enlarged.beton", _GPU_EXAMPLES)


def _images(bundle: Path | None, work: Path, device: str) -> Bundle:
    images = open_bundle(bundle) if bundle else photographs(work / "made.beton", _PICTURES)
    rows = images.metadata[f"f{images.image_field}"]
    large = _GPU_EXAMPLES if device == "cuda" else _MOST_LARGE
    most = _MOST_SMALL if rows["width"].max() <= _SMALL_SIDE else large
    if images.n_examples <= most and images.rows is None:
        return images
    chosen = np.random.default_rng(0).permutation(images.n_examples)[:most]
    cut(images, work / "part.beton", images.example_ids[np.sort(chosen)])
    return open_bundle(work / "part.beton")


def _prepared(images: Bundle, work: Path, size: LoaderBench) -> tuple[Task, list[str]]:
    """The same images as files and as tar shards, for those who want them so."""
    paths, workers = (str(images.path), "", ""), n_cores()
    task = Task(*paths, "score", size.side, size.batch_size, workers, device=size.device)
    if not _all_jpeg(images):
        return task, ["PIL DataLoader and WebDataset: the bundle holds pixels, not files"]
    files = image_files(images, work / "files", images.n_examples)
    listing = work / "files.txt"
    lines = [f"{file} {int(file.parent.name)}" for file in files]
    listing.write_text("\n".join(lines), encoding="utf-8")
    for number in range(_SHARDS):
        with tarfile.open(work / f"shard-{number}.tar", "w") as tar:
            for i, file in enumerate(files[number::_SHARDS]):
                label = file.with_suffix(".cls")
                label.write_text(str(int(file.parent.name)), encoding="utf-8")
                tar.add(file, f"{i:06d}.jpg")
                tar.add(label, f"{i:06d}.cls")
    pattern = str(work / f"shard-{{0..{_SHARDS - 1}}}.tar")
    return replace(task, files=str(listing), shards=pattern), []


def _usable(name: str, task: Task, left_out: list[str]) -> bool:
    needs = {"dali": "nvidia.dali", "WebDataset": "webdataset", "plain FFCV": "ffcv"}.get(name)
    if needs and (find_spec(needs.split(".")[0]) is None or find_spec(needs) is None):
        left_out.append(f"{name}: {needs} is not installed")
        return False
    return bool(task.files) or name not in ("PIL DataLoader", "WebDataset")


def _median(turns: Sequence[Turn], value: Callable[[Turn], float]) -> float:
    return statistics.median(map(value, turns[1:]))


def _figures(mode: str, turns: dict[str, list[Turn]], images: Bundle) -> Iterator[Figures]:
    megabytes = images.extents[..., 1].sum() / 1e6
    for name, taken in turns.items():
        seconds, n_images = _median(taken, lambda turn: turn.seconds), taken[0].n_images
        yield Figures(
            mode,
            name,
            n_images / seconds,
            0.0 if name == RESIDENT else float(megabytes) / seconds,
            1000 * _median(taken, lambda turn: turn.cpu_seconds) / n_images,
            taken[0].first_batch,
            max(turn.memory for turn in taken),
        )


def _rows(
    mode: str, turns: dict[str, list[Turn]], task: Task, top: Ceiling | None
) -> Iterator[Row]:
    side, where = task.side, ", on a GPU" if task.device == "cuda" else ""
    rates = {
        name: taken[0].n_images / _median(taken, lambda turn: turn.seconds)
        for name, taken in turns.items()
    }
    for ours in _OURS:
        for peer in rates:
            if ours not in rates or peer in _OURS:
                continue
            yield Row(
                f"{ours}: {_WORK[mode]} to {side} px{where}",
                rates[ours],
                "images/s",
                peer,
                rates[peer],
                rates[ours] / rates[peer],
                _GOALS.get((mode, ours, peer)),
            )
    if top is not None and "ffcv" in rates:
        name = f"ffcv: {_WORK[mode]} to {side} px{where}"
        share = Row(name, rates["ffcv"], "images/s", top.name, top.rate, rates["ffcv"] / top.rate)
        yield share


def _growth(name: str, task: Task, advance: Advance) -> Row:
    with closing(LoaderProcess(name, task)) as process:
        held = []
        for _ in range(_EPOCHS - 1):
            held.append(process.turn().memory / 1e6)
            advance()
    # Allocators give and take some percent from epoch to epoch.
    early, late = statistics.median(held[:5]), statistics.median(held[-5:])
    return Row(
        f"{name}: memory after epochs {_EPOCHS - 4} to {_EPOCHS}",
        late,
        "MB",
        "after epochs 2 to 6",
        early,
        late / early,
        1.02,
        lower_is_better=True,
    )

"""What restart tiles and decoding at a fraction of the size save, and what they cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tamis.benchmarks.loaders.contenders import Task
from tamis.benchmarks.loaders.worker import take_turns
from tamis.benchmarks.measuring import Row
from tamis.bundles.assembly import Part
from tamis.bundles.bundle import Bundle
from tamis.bundles.opening import open_bundle
from tamis.bundles.tiling import write_tiled
from tamis.loaders.opening import open_loader
from tamis.manifest import Manifest
from tamis.progress import Progress
from tamis.tiles.transcoding import Tiler

__all__ = ["tile_rows"]

_PEER = "plain FFCV"
_TILED, _PLAIN, _PEER_TILED = "ffcv, tiles", "ffcv", "plain FFCV, tiles"
_THUMBNAIL = 64
_FFCV_SIDE = 500  # longest side of what FFCV's script makes of ImageNet
_GOAL_DB, _GOAL_RATE, _GOAL_SIZE = 37.0, 200.0, 1.01


@dataclass(frozen=True)
class _Work:
    """One of the tasks.

    Attributes:
        name: What is shown.
        task: Of the bundle as it is.
        goal: The least ratio to plain FFCV, with tiles.
    """

    name: str
    task: Task
    goal: float | None


def tile_rows(
    images: Bundle,
    task: Task,
    work: Path,
    repetitions: int,
    left_out: list[str],
    progress: Progress,
) -> Iterator[Row]:
    """Rewriting a bundle with tiles, and going through it with and without them.

    Args:
        images: JPEGs only.
        task: Of them, as the other loaders are given it.
        work: A folder with room for the images once more.
        repetitions: Epochs of each; the median counts.
        left_out: Told why nothing is measured, where the images have tiles or can have none.
        progress: Told of every epoch.
    """
    tiled = work / "tiled.beton"
    Tiler().tile(images.image_record(0)[3])  # compiled once
    start = time.perf_counter()
    part = Part(images, np.arange(images.n_examples))
    n_tiled = write_tiled(part, tiled, Manifest("cut"), workers=1, progress=progress)
    rate = images.n_examples / (time.perf_counter() - start)
    if 2 * n_tiled < images.n_examples:
        left_out.append(f"tiles: {n_tiled} of {images.n_examples} images could be given some")
        return
    yield Row("cut --tiles, one thread", rate, "images/s", goal=_GOAL_RATE)
    before, after = (int(b.extents[..., 1].sum()) for b in (images, open_bundle(tiled)))
    yield Row(
        "cut --tiles: size", after / 1e6, "MB", "before", before / 1e6, after / before, _GOAL_SIZE,
        lower_is_better=True,
    )  # fmt: skip
    for one in _tasks(images, task):
        yield from _compared(one, tiled, repetitions, progress)
    yield _fidelity(images)


def _tasks(images: Bundle, task: Task) -> Iterator[_Work]:
    rows = images.metadata[f"f{images.image_field}"]
    large = max(int(rows["width"].max()), int(rows["height"].max())) > _FFCV_SIDE
    goals = {224: 1.8 if large else 1.7, 128: None if large else 2.2}
    for side in dict.fromkeys((task.side, 128)):
        crop = replace(task, mode="train", side=side)
        yield _Work(f"random resized crop, flip to {side} px", crop, goals.get(side))
    thumbnails = replace(task, mode="score", side=_THUMBNAIL)
    yield _Work(f"thumbnails of {_THUMBNAIL} px", thumbnails, 2.0 if large else None)


def _compared(one: _Work, tiled: Path, repetitions: int, progress: Progress) -> Iterator[Row]:
    """Wall time and processor time against plain FFCV, with tiles and without."""
    opened = {
        _TILED: ("ffcv", replace(one.task, bundle=str(tiled))),
        _PLAIN: ("ffcv", one.task),
        _PEER: (_PEER, one.task),
        _PEER_TILED: (_PEER, replace(one.task, bundle=str(tiled))),
    }
    total = len(opened) * (repetitions + 1)
    with progress.task(f"bench loaders, {one.name}", total) as advance:
        turns = take_turns(opened, repetitions, advance)
    rates = {
        name: statistics.median(turn.n_images / turn.seconds for turn in taken[1:])
        for name, taken in turns.items()
    }
    cpu = {
        name: statistics.median(1000 * turn.cpu_seconds / turn.n_images for turn in taken[1:])
        for name, taken in turns.items()
    }
    for name in (_TILED, _PLAIN, _PEER_TILED):
        ratio = rates[name] / rates[_PEER]
        goal = one.goal if name == _TILED else None
        yield Row(f"{name}: {one.name}", rates[name], "images/s", _PEER, rates[_PEER], ratio, goal)
        yield Row(
            f"{name}: {one.name}, processor", cpu[name], "s per 1,000", _PEER, cpu[_PEER],
            cpu[name] / cpu[_PEER], 1 / goal if goal else None, lower_is_better=True,
        )  # fmt: skip


def _fidelity(images: Bundle) -> Row:
    """How far thumbnails are from those of whole images, as a ratio of signal to noise."""
    squares = []
    for exact in (True, False):
        loader = open_loader(
            images, backend="ffcv", batch_size=256, resolution=_THUMBNAIL, exact=exact
        )
        squares.append(np.concatenate([batch.images.numpy() for batch in loader]))
    error = np.mean((squares[0].astype(np.float32) - squares[1]) ** 2)
    decibels = float(10 * np.log10(255**2 / max(float(error), 1e-9)))
    return Row(f"thumbnails of {_THUMBNAIL} px against exact ones", decibels, "dB", goal=_GOAL_DB)

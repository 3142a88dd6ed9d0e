"""Choosing a loader for a bundle."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.arrays import n_repeated, positions_of
from tamis.bundles.bundle import Bundle
from tamis.errors import UsageError
from tamis.loaders.batch import Loader
from tamis.loaders.ffcv_loader import FFCVLoader
from tamis.loaders.memory_loader import ImageSet, MemoryLoader, load_image_set
from tamis.loaders.settings import Augmentation, LoaderSettings, OnError, Order, Resample
from tamis.progress import QUIET, Progress

__all__ = ["BACKENDS", "choose_backend", "choose_streaming", "fits_in_memory", "open_loader"]

BACKENDS = ("auto", "ffcv", "dali", "memory")


def fits_in_memory(n_examples: int, resolution: int, device: torch.device) -> bool:
    """Whether decoded images take less than a third of the free memory, of host and device.

    Processes that torchrun started share the host's.
    """
    import psutil

    free: int = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return n_examples * resolution * resolution * 3 < free / 3


def choose_backend(
    n_examples: int, resolution: int, device: torch.device, resample: Resample
) -> str:
    """What ``auto`` is: memory where the decoded set fits, else what streams."""
    if fits_in_memory(n_examples, resolution, device):
        return "memory"
    return choose_streaming(device, resample)


def choose_streaming(device: torch.device, resample: Resample) -> str:
    """DALI for a GPU, where it is installed and resizes as is asked for, else ffcv."""
    fits = device.type == "cuda" and resample == "antialias" and _has_dali()
    return "dali" if fits else "ffcv"


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def open_loader(
    source: Bundle | ImageSet,
    *,
    batch_size: int,
    resolution: int,
    backend: str = "auto",
    mode: Literal["score", "train"] = "score",
    order: Order | None = None,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    center_ratio: float = 1.0,
    shard: tuple[int, int] = (0, 1),
    selection: NDArray[np.int64] | None = None,
    on_error: OnError = "fail",
    resample: Resample = "antialias",
    exact: bool = False,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: Progress = QUIET,
) -> Loader:
    """Open a loader over a bundle, a virtual bundle, or a set that was decoded before.

    Args:
        source: The examples.
        batch_size: See :class:`tamis.loaders.settings.LoaderSettings`, as for all down to
            ``shard``.
        resolution: Side of the images in pixels.
        backend: ``memory`` decodes everything first; ``ffcv`` streams and decodes on the CPU;
            ``dali`` streams and decodes on the GPU (on a CPU where there is none); ``auto``
            chooses (:func:`choose_backend`).
        mode: ``score`` or ``train``.
        order: None for the mode's.
        seed: The order's.
        augmentation: Random changes, in train mode.
        center_ratio: Side of the centred square by the image's shorter side.
        shard: (i, n): the i-th of n parts.
        selection: (k,) int64 example ids, all others are left out; None for all.
        on_error: ``fail``, or ``skip`` damaged examples.
        resample: ``antialias`` or ``area``; DALI knows no areas.
        exact: Decode JPEGs at their full size, however small they are shown; DALI always does. Of a
            set that was decoded before, neither says how: that was decided then.
        device: Where batches go.
        workers: Threads that decode and augment; None takes all cores.
        progress: Told of decoding into memory.

    Raises:
        UsageError: An unknown backend, or settings that contradict each other.
        BundleError: A selected id that is not in the bundle; a damaged record (memory).
    """
    settings = LoaderSettings(
        batch_size,
        resolution,
        mode,
        order,
        seed,
        augmentation,
        center_ratio,
        shard,
        on_error,
        resample,
        exact,
    )
    device = torch.device(device)
    if backend not in BACKENDS:
        raise UsageError(
            "--loader", expected=", ".join(BACKENDS), found=backend, do="choose one of them"
        )
    chosen = None if selection is None else _positions(source, selection)
    if isinstance(source, ImageSet):
        return MemoryLoader(source, settings, positions=chosen, workers=workers)
    if backend == "auto" and settings.traversal == "quasi_random":
        backend = choose_streaming(device, resample)
    if backend == "auto":
        n_examples = source.n_examples if chosen is None else len(chosen)
        backend = choose_backend(n_examples, resolution, device, resample)
    if backend == "ffcv":
        return FFCVLoader(source, settings, device, positions=chosen, workers=workers)
    if backend == "dali":
        from tamis.loaders.dali_loader import DALILoader

        return DALILoader(source, settings, device, positions=chosen, workers=workers)
    image_set = load_image_set(
        source,
        resolution,
        device,
        positions=chosen,
        center_ratio=center_ratio,
        on_error=on_error,
        resample=resample,
        exact=exact,
        workers=workers,
        progress=progress,
    )
    return MemoryLoader(image_set, replace(settings, center_ratio=1.0), workers=workers)


def _positions(source: Bundle | ImageSet, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    if repeated := n_repeated(ids):
        raise UsageError(
            "selection",
            expected="each id once",
            found=f"{len(ids)} ids, of which {len(ids) - repeated} differ",
            do="leave the repeated ones out",
        )
    if isinstance(source, Bundle):
        return source.positions(ids)
    positions, missing = positions_of(ids, source.example_ids)
    if missing.any():
        raise UsageError(
            "selection",
            expected="ids of the decoded examples",
            found=str(ids[missing][0]),
            do="decode them, too",
        )
    return positions

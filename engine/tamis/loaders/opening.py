"""Choosing a loader for a bundle."""

from __future__ import annotations

import torch

from tamis.bundles.bundle import Bundle
from tamis.errors import UsageError
from tamis.loaders.batch import Augmentation, Loader
from tamis.loaders.ffcv_loader import FFCVLoader
from tamis.loaders.memory_loader import ImageSet, MemoryLoader, load_image_set
from tamis.progress import QUIET, Progress

__all__ = ["fits_in_memory", "open_loader"]


def fits_in_memory(bundle: Bundle, resolution: int, device: torch.device) -> bool:
    """Whether the decoded set takes less than a third of the device's free memory."""
    needed = bundle.n_examples * resolution * resolution * 3
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        import psutil

        free = psutil.virtual_memory().available
    return needed < free / 3


def open_loader(
    source: Bundle | ImageSet,
    *,
    backend: str = "auto",
    batch_size: int,
    resolution: int,
    device: torch.device | str = "cpu",
    order_seed: int | None = None,
    augmentation: Augmentation | None = None,
    progress: Progress = QUIET,
) -> Loader:
    """Open a loader: score mode by default, train mode with an order seed and an augmentation.

    Args:
        source: A bundle, or a set that was decoded before.
        backend: ``memory`` decodes everything first, ``ffcv`` streams, ``auto`` takes memory
            where the decoded set fits (:func:`fits_in_memory`).
        batch_size: Examples in a batch.
        resolution: Side of the images in pixels.
        device: Where batches go.
        order_seed: Shuffle with this seed, or None for the bundle's order.
        augmentation: Random changes, the same with every backend.
        progress: Told of decoding.

    Raises:
        UsageError: An unknown backend.
        BundleError: A record that does not decode (memory backend).
    """
    device = torch.device(device)
    if backend not in ("auto", "ffcv", "memory"):
        raise UsageError(
            "--loader", expected="auto, ffcv or memory", found=backend, do="choose one of them"
        )
    if isinstance(source, Bundle):
        in_memory = backend == "auto" and fits_in_memory(source, resolution, device)
        if not (in_memory or backend == "memory"):
            return FFCVLoader(
                source,
                batch_size,
                resolution,
                order_seed=order_seed,
                augmentation=augmentation,
                device=device,
            )
        source = load_image_set(source, resolution, device, progress=progress)
    return MemoryLoader(source, batch_size, order_seed=order_seed, augmentation=augmentation)

"""Changes of whole batches on their device: shifts, cutout, crops of decoded images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.hashing import example_uniform
from tamis.loaders.settings import Augmentation, Resample

__all__ = ["GREY", "cut_out", "draw_cutouts", "draw_shifts", "resize", "shift"]

GREY = 128
"""What a cutout is filled with."""


def draw_shifts(
    example_ids: NDArray[np.int64], augmentation: Augmentation, epoch: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By how many pixels each image is moved up and to the left, (b,) int64 each."""
    reach = min(augmentation.translate, side - 1)
    if not reach:
        return np.zeros(len(example_ids), np.int64), np.zeros(len(example_ids), np.int64)
    rows, columns = (
        example_uniform(example_ids, augmentation.seed, purpose, epoch)
        for purpose in ("shift rows", "shift columns")
    )
    up, left = (
        np.floor(drawn * (2 * reach + 1)).astype(np.int64) - reach for drawn in (rows, columns)
    )
    return up, left


def draw_cutouts(
    example_ids: NDArray[np.int64], augmentation: Augmentation, epoch: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row and column of the square that covers each image, (b,) int64 each."""
    if not augmentation.cutout:
        return np.zeros(len(example_ids), np.int64), np.zeros(len(example_ids), np.int64)
    rows, columns = (
        example_uniform(example_ids, augmentation.seed, purpose, epoch)
        for purpose in ("cutout row", "cutout column")
    )
    top, left = (
        np.floor(drawn * side).astype(np.int64) - augmentation.cutout // 2
        for drawn in (rows, columns)
    )
    return top, left


def shift(
    images: Tensor, example_ids: NDArray[np.int64], augmentation: Augmentation, epoch: int
) -> Tensor:
    """Shift each image by whole pixels, with reflected edges: one gather.

    Args:
        images: (b, side, side, 3) uint8, on any device.
        example_ids: (b,) int64.
        augmentation: How far.
        epoch: Counted from 0.

    Returns:
        A tensor like ``images``.
    """
    side = images.shape[1]
    if not min(augmentation.translate, side - 1):
        return images
    grids = []
    for by in draw_shifts(example_ids, augmentation, epoch, side):
        index = _from(by, images.device, side).abs()
        grids.append(torch.where(index >= side, 2 * (side - 1) - index, index))
    rows, columns = grids
    each = torch.arange(len(images), device=images.device)
    return images[each[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_out(
    images: Tensor, example_ids: NDArray[np.int64], augmentation: Augmentation, epoch: int
) -> Tensor:
    """Cover a square of each image with grey; its centre is uniform over the image.

    Args:
        images: (b, side, side, 3) uint8, on any device.
        example_ids: (b,) int64.
        augmentation: How large.
        epoch: Counted from 0.

    Returns:
        A tensor like ``images``.
    """
    side, size = images.shape[1], augmentation.cutout
    if not size:
        return images
    inside = []
    for first in draw_cutouts(example_ids, augmentation, epoch, side):
        at = _from(-first, images.device, side)
        inside.append((at >= 0) & (at < size))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], GREY)


def _from(first: NDArray[np.int64], device: torch.device, side: int) -> Tensor:
    """(b, side) int64: each number and those that follow it.

    Counted on the device: copies of up to 64 KB, of 8,192 numbers, wait for none of its work.
    """
    begin = torch.from_numpy(first).to(device, non_blocking=True)
    return begin[:, None] + torch.arange(side, device=device)


def resize(
    images: Tensor,
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    side: int,
    how: Resample,
) -> Tensor:
    """Resize a box of each image.

    What :func:`tamis.loaders.resample.resample_into` does, as two batched products.

    Args:
        images: (b, h, w, 3) uint8, on any device.
        boxes: (b, 4) int64: top, left, height, width.
        flips: (b,) bool, which to mirror.
        side: Of the result.
        how: By triangles or by areas.

    Returns:
        (b, side, side, 3) uint8 on the same device.
    """
    sent = torch.from_numpy(boxes).to(images.device, non_blocking=True)
    top, left, height, width = sent.float().T
    by_row = _weights(top, height, images.shape[1], side, how)
    by_column = _weights(left, width, images.shape[2], side, how)
    mirrored = torch.from_numpy(flips).to(images.device, non_blocking=True)[:, None, None]
    by_column = torch.where(mirrored, by_column.flip(1), by_column)
    # A caller who trains in bfloat16 does not want its rounding here.
    with torch.autocast(images.device.type, enabled=False):
        rows = torch.bmm(by_row, images.flatten(2).float())
        rows = rows.reshape(len(images), side, *images.shape[2:])
        pixels = torch.einsum("bxw,bywc->byxc", by_column, rows)
    return (pixels + 0.5).clamp_(0, 255).to(torch.uint8).contiguous()


def _weights(start: Tensor, extent: Tensor, n_in: int, n_out: int, how: Resample) -> Tensor:
    """(b, n_out, n_in) float32, each row of sum 1."""
    out = torch.arange(n_out, device=start.device, dtype=torch.float32)
    pixel = torch.arange(n_in, device=start.device, dtype=torch.float32)
    scale = (extent / n_out)[:, None]
    low, high = start[:, None] + out * scale, start[:, None] + (out + 1) * scale
    inside = (pixel >= start[:, None, None]) & (pixel < (start + extent)[:, None, None])
    centre = ((low + high) / 2 - 0.5)[..., None]
    support = scale.clamp(min=1)[..., None]
    weights = (1 - (centre - pixel).abs() / support).clamp(min=0) * inside
    weights = weights / weights.sum(-1, keepdim=True)
    if how == "antialias":
        return weights
    reached = torch.minimum(high[..., None], pixel + 1) - torch.maximum(low[..., None], pixel)
    return torch.where(scale[..., None] >= 1, reached.clamp(min=0) / scale[..., None], weights)

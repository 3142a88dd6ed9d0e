"""Which part of each image is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.hashing import example_uniform, example_uniforms
from tamis.loaders.settings import Augmentation, LoaderSettings, RandomResizedCrop

__all__ = ["center_boxes", "draw_flips", "image_boxes", "random_boxes"]

_TRIES = 10  # torchvision's


def center_boxes(
    heights: NDArray[np.int64], widths: NDArray[np.int64], ratio: float = 1.0
) -> NDArray[np.int64]:
    """The centred square of ``ratio`` times the shorter side, as FFCV's centre crop.

    Args:
        heights: (n,) int64 pixels.
        widths: (n,) int64.
        ratio: At most 1; 224 / 256 is ImageNet's usual one.

    Returns:
        (n, 4) int64: top, left, height, width.
    """
    side = np.maximum(1, (ratio * np.minimum(heights, widths)).astype(np.int64))
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def random_boxes(
    example_ids: NDArray[np.int64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    crop: RandomResizedCrop,
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Random resized crops, each drawn from (seed, epoch, example id).

    torchvision's way: area uniform in ``scale``, aspect uniform in the logarithm of ``ratio``, the
    first of ten that fits, else the largest centred part whose aspect is allowed.

    Args:
        example_ids: (n,) int64.
        heights: (n,) int64 pixels.
        widths: (n,) int64.
        crop: Scale and ratio.
        seed: The augmentation's.
        epoch: Counted from 0.

    Returns:
        (n, 4) int64: top, left, height, width.
    """
    boxes = _central_boxes(heights, widths, crop.ratio)
    left_over = np.arange(len(example_ids))
    # Most find theirs at once; of a small batch, one more round is cheaper than nine.
    for attempts in (range(1), range(1, _TRIES)):
        ids, high, wide = example_ids[left_over], heights[left_over], widths[left_over]
        tried, fits = _tries(ids, high, wide, crop, seed, epoch, attempts)
        found = fits.any(axis=0)
        boxes[left_over[found]] = tried[fits.argmax(axis=0)[found], np.flatnonzero(found)]
        left_over = left_over[~found]
    return boxes


def _tries(
    example_ids: NDArray[np.int64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    crop: RandomResizedCrop,
    seed: int,
    epoch: int,
    attempts: range,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What each attempt draws, (attempts, n, 4) int64, and whether it fits into the image."""
    uses = [(f"crop {of}", epoch, k) for of in ("area", "aspect", "top", "left") for k in attempts]
    draws = example_uniforms(example_ids, seed, uses).reshape(4, len(attempts), -1)
    least, largest = crop.scale
    area = heights * widths * (least + (largest - least) * draws[0])
    low, top = np.log(crop.ratio)
    aspect = np.exp(low + (top - low) * draws[1])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (w <= widths) & (h > 0) & (h <= heights)
    y = (draws[2] * (heights - h + 1)).astype(np.int64)
    x = (draws[3] * (widths - w + 1)).astype(np.int64)
    return np.stack([y, x, h, w], axis=2), fits


def _central_boxes(
    heights: NDArray[np.int64], widths: NDArray[np.int64], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    aspect = widths / heights
    tall, wide = aspect < ratio[0], aspect > ratio[1]
    h = np.where(tall, np.rint(widths / ratio[0]).astype(np.int64), heights)
    w = np.where(wide, np.rint(heights * ratio[1]).astype(np.int64), widths)
    h, w = np.clip(h, 1, heights), np.clip(w, 1, widths)
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)


def draw_flips(
    example_ids: NDArray[np.int64], augmentation: Augmentation | None, epoch: int
) -> NDArray[np.bool_]:
    """Which images are mirrored, (n,) bool."""
    if augmentation is None or not augmentation.flip:
        return np.zeros(len(example_ids), np.bool_)
    if augmentation.alternating:
        first = example_uniform(example_ids, augmentation.seed, "flip", 0) < 0.5
        return first ^ bool(epoch % 2)
    return example_uniform(example_ids, augmentation.seed, "flip", epoch) < 0.5


def image_boxes(
    example_ids: NDArray[np.int64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    settings: LoaderSettings,
    epoch: int,
) -> NDArray[np.int64]:
    """What the settings show of images of those sizes, (n, 4) int64."""
    augmentation = settings.augmentation
    if augmentation is not None and augmentation.crop is not None:
        return random_boxes(
            example_ids, heights, widths, augmentation.crop, augmentation.seed, epoch
        )
    return center_boxes(heights, widths, settings.center_ratio)

"""Resizing of boxes, on a CPU and as torch's operations, against its definition and its models."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sample_images import picture
from tamis.loaders.augment import resize
from tamis.loaders.resample import resample_into
from tamis.loaders.settings import Resample

HOW: tuple[Resample, ...] = ("antialias", "area")
Box = tuple[float, float, float, float]


def weights(n_in: int, begin: float, extent: float, n_out: int, how: Resample) -> NDArray[Any]:
    """(n_out, n_in): triangles; of areas that shrink, overlaps of intervals."""
    edges, pixel = begin + np.linspace(0, extent, n_out + 1), np.arange(n_in)
    scale = extent / n_out
    if how == "area" and scale >= 1:
        inside = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.asarray(np.clip(inside, 0, None) / scale)
    distance = np.abs((edges[1:] + edges[:-1])[:, None] / 2 - (pixel + 0.5))
    looked_at = (pixel >= np.floor(begin)) & (pixel < np.ceil(begin + extent))
    triangles = np.clip(1 - distance / max(scale, 1), 0, None) * looked_at
    return np.asarray(triangles / triangles.sum(1, keepdims=True))


def defined(
    image: NDArray[np.uint8], box: Box, flip: bool, side: int, how: Resample
) -> NDArray[np.float64]:
    (height, width), (top, left, h, w) = image.shape[:2], box
    rows, columns = weights(height, top, h, side, how), weights(width, left, w, side, how)
    out = np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(float))
    return np.asarray(out[:, ::-1] if flip else out)


def resized(
    image: NDArray[np.uint8], box: Box, side: int, how: Resample = "antialias", flip: bool = False
) -> NDArray[np.uint8]:
    # Between other bytes, which nothing may touch.
    data = np.concatenate([np.full(7, 99, np.uint8), image.ravel(), np.full(9, 77, np.uint8)])
    out = np.full((3, side, side, 3), 55, np.uint8)
    resample_into(data.view(np.int8), 7, image.shape[:2], box, flip, how == "area", out[1])
    assert (out[[0, 2]] == 55).all()
    pixels: NDArray[np.uint8] = out[1]
    return pixels


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.booleans(), st.sampled_from(HOW),
    st.data(),
)  # fmt: skip
def test_both_resamplers_follow_the_definition(
    height: int, width: int, side: int, flip: bool, how: Resample, data: st.DataObject
) -> None:
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    box = (float(top), float(left), float(h), float(w))
    expected = defined(image, box, flip, side, how)
    # Rounded to the nearest; float32 may decide ties the other way.
    assert np.abs(resized(image, box, side, how, flip) - expected).max() < 0.501
    boxes, flips = np.array([[top, left, h, w]]), np.array([flip])
    batched = resize(torch.from_numpy(image)[None], boxes, flips, side, how).numpy()
    assert np.abs(batched[0] - expected).max() < 0.501


@given(st.sampled_from(HOW), st.sampled_from([2, 4, 8]), st.integers(1, 9), st.data())
def test_boxes_may_end_within_pixels(
    how: Resample, denominator: int, side: int, data: st.DataObject
) -> None:
    image = picture(50, 40, 3)
    # What is left of whole pixels of an image that was shrunk while it was decoded.
    h = data.draw(st.integers(2 * side * denominator, 40 * denominator)) / denominator
    w = data.draw(st.integers(2 * side * denominator, 50 * denominator)) / denominator
    top = data.draw(st.integers(0, round((40 - h) * denominator))) / denominator
    left = data.draw(st.integers(0, round((50 - w) * denominator))) / denominator
    box = (top, left, h, w)
    expected = defined(image, box, False, side, how)
    assert np.abs(resized(image, box, side, how) - expected).max() < 0.501


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (97, 64), (224, 300), (33, 1)]
)
@pytest.mark.parametrize("side", [224, 128, 64, 7])
def test_antialias_is_torchs(height: int, width: int, side: int) -> None:
    image = picture(width, height, 3)
    channels = torch.from_numpy(image).permute(2, 0, 1)[None]
    # The kernel that torchvision's resize calls; it rounds between its two passes.
    expected = torch.nn.functional.interpolate(
        channels, size=(side, side), mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    ours = resized(image, (0.0, 0.0, float(height), float(width)), side)
    assert np.abs(ours.astype(int) - expected.numpy()).max() <= 1


def test_area_is_opencvs_and_growing_its_linear() -> None:
    image = picture(301, 207, 3)
    for side, how in ((97, cv2.INTER_AREA), (64, cv2.INTER_AREA), (400, cv2.INTER_LINEAR)):
        expected = cv2.resize(image, (side, side), interpolation=how)
        ours = resized(image, (0.0, 0.0, 207.0, 301.0), side, "area")
        assert np.abs(ours.astype(int) - expected).max() <= 1


def test_what_keeps_its_size_is_copied() -> None:
    image = picture(50, 40, 3)
    part = image[3:23, 5:25]
    for how in HOW:
        assert np.array_equal(resized(image, (3.0, 5.0, 20.0, 20.0), 20, how), part)
        mirrored = resized(image, (3.0, 5.0, 20.0, 20.0), 20, how, flip=True)
        assert np.array_equal(mirrored, part[:, ::-1])

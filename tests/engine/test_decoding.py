"""Boxes and the checked decoding of records, against independent definitions."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import ks_2samp

from loading import jpeg_records
from sample_images import picture
from tamis.bundles.layout import RAW_MODE
from tamis.hashing import example_uniform
from tamis.images import decode_jpeg
from tamis.loaders.boxes import center_boxes, random_boxes
from tamis.loaders.decoding import Decoder, Records
from tamis.loaders.settings import RandomResizedCrop


def raw_records(images: list[NDArray[np.uint8]]) -> Records:
    sizes = np.array([image.size for image in images])
    return Records(
        np.concatenate([image.ravel() for image in images]).view(np.int8),
        np.cumsum(sizes) - sizes,
        sizes,
        np.full(len(images), RAW_MODE),
        np.array([image.shape[1] for image in images]),
        np.array([image.shape[0] for image in images]),
        proven=True,
    )


# ---- boxes


def test_centre_boxes() -> None:
    heights, widths = np.array([10, 375, 7, 1]), np.array([20, 500, 7, 9])
    assert center_boxes(heights, widths).tolist() == [
        [0, 5, 10, 10],
        [0, 62, 375, 375],
        [0, 0, 7, 7],
        [0, 4, 1, 1],
    ]
    assert center_boxes(heights, widths, 0.5).tolist()[:2] == [[2, 7, 5, 5], [94, 156, 187, 187]]


def torchvisions_box(
    height: int, width: int, crop: RandomResizedCrop, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params, as its documentation tells it."""
    for _ in range(10):
        area = height * width * rng.uniform(*crop.scale)
        aspect = np.exp(rng.uniform(*np.log(crop.ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return int(top), int(left), h, w
    in_ratio = width / height
    w, h = width, height
    if in_ratio < crop.ratio[0]:
        h = round(w / crop.ratio[0])
    elif in_ratio > crop.ratio[1]:
        w = round(h * crop.ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def measures(boxes: NDArray[np.int64], size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Areas, aspects, and where the boxes lie in the room that they have."""
    top, left, height, width = boxes.T.astype(float)
    return [
        height * width,
        width / height,
        top / np.maximum(1, size[0] - height),
        left / np.maximum(1, size[1] - width),
    ]


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (64, 64), (100, 900)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.35, 0.5)])
def test_random_boxes_are_distributed_as_torchvisions(
    size: tuple[int, int], scale: tuple[float, float]
) -> None:
    n, crop, rng = 4000, RandomResizedCrop(scale), np.random.default_rng(0)
    heights, widths = (np.full(n, side) for side in size)
    found = random_boxes(np.arange(n), heights, widths, crop, 1, 2)
    expected = np.array([torchvisions_box(*size, crop, rng) for _ in range(n)])
    for boxes in (found, expected):
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
        assert (boxes[:, 2:] >= 1).all()
    for a, b in zip(measures(found, size), measures(expected, size), strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3


def box_by_definition(
    example_id: int, size: tuple[int, int], crop: RandomResizedCrop, seed: int, epoch: int
) -> list[int]:
    """One example at a time, one attempt after the other."""
    height, width = size

    def draw(purpose: str, attempt: int) -> float:
        values = example_uniform(np.array([example_id]), seed, purpose, epoch, attempt)
        return float(values[0])

    least, largest = crop.scale
    low, high = np.log(crop.ratio)
    for attempt in range(10):
        area = height * width * (least + (largest - least) * draw("crop area", attempt))
        aspect = np.exp(low + (high - low) * draw("crop aspect", attempt))
        w, h = int(np.rint(np.sqrt(area * aspect))), int(np.rint(np.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            top = int(draw("crop top", attempt) * (height - h + 1))
            return [top, int(draw("crop left", attempt) * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < crop.ratio[0]:
        h = min(max(round(w / crop.ratio[0]), 1), height)
    elif width / height > crop.ratio[1]:
        w = min(max(round(h * crop.ratio[1]), 1), width)
    return [(height - h) // 2, (width - w) // 2, h, w]


def test_random_boxes_take_the_first_of_ten_that_fits() -> None:
    """Published runs hang on them."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 1 << 40, 200)
    heights, widths = rng.integers(1, 600, (2, 200))
    heights[:50] = rng.integers(1, 20, 50)  # wide and low: few crops fit, or none
    for crop in (RandomResizedCrop(), RandomResizedCrop((0.8, 1.0))):
        found = random_boxes(ids, heights, widths, crop, 7, 4)
        expected = [
            box_by_definition(*of, crop, 7, 4)
            for of in zip(
                ids.tolist(), zip(heights.tolist(), widths.tolist(), strict=True), strict=True
            )
        ]
        assert found.tolist() == expected


def test_random_boxes_belong_to_the_example() -> None:
    ids, crop = np.array([5, 99, 3]), RandomResizedCrop()
    heights, widths = np.array([100, 200, 300]), np.array([300, 200, 100])

    def boxes(order: list[int], seed: int = 0, epoch: int = 0) -> Any:
        drawn = random_boxes(ids[order], heights[order], widths[order], crop, seed, epoch)
        return drawn[np.argsort(order)].tolist()

    assert boxes([0, 1, 2]) == boxes([2, 0, 1])
    assert boxes([0, 1, 2]) != boxes([0, 1, 2], seed=1)
    assert boxes([0, 1, 2]) != boxes([0, 1, 2], epoch=1)


# ---- decoding


def encoded(image: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).convert(mode).save(sink, "JPEG", **options)
    return sink.getvalue()


KINDS: list[dict[str, Any]] = [
    {"quality": 95, "subsampling": 0},
    {"quality": 60, "subsampling": 1},
    {"quality": 75, "subsampling": 2},
    {"progressive": True},
    {"mode": "L"},
    {"restart_marker_blocks": 4},
]


def decoded_whole(data: bytes, width: int, height: int, *, proven: bool = True) -> Any:
    """Failures, and the pixels at their own size (of square images)."""
    out = np.empty((1, height, width, 3), np.uint8)
    records = jpeg_records([data], [(width, height)], proven=proven)
    box = np.array([[0, 0, height, width]])
    return Decoder().decode(records, box, np.zeros(1, np.bool_), out), out[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_jpegs_decode_as_pillow_decodes_them(kind: dict[str, Any]) -> None:
    data = encoded(picture(70, 53, 1), **kind)
    failures, pixels = decoded_whole(data, 70, 53, proven=False)
    assert failures == []
    with Image.open(io.BytesIO(data)) as image:
        assert np.abs(pixels.astype(int) - np.asarray(image.convert("RGB"))).max() <= 1
    assert np.array_equal(pixels, decode_jpeg(np.frombuffer(data, np.uint8)))


def test_what_is_refused() -> None:
    data = encoded(picture(70, 53, 1))
    for width, height in ((69, 53), (70, 54), (53, 70), (700, 530)):
        (failure,), _ = decoded_whole(data, width, height)
        assert failure.reason == "a JPEG of 70 × 53 pixels"
    for damaged in (data[:200], b"", bytes(100), b"\xff\xd8" + bytes(80), b"\x89PNG" + data):
        (failure,), _ = decoded_whole(damaged, 70, 53)
        assert failure.reason == "no JPEG, or one without a readable header"
    cmyk = encoded(picture(70, 53, 1), "CMYK")
    (failure,), _ = decoded_whole(cmyk, 70, 53)
    assert failure.reason.startswith("a JPEG that does not decode (")
    # Bytes that the decoder only warns of belong to an image that is known to be whole.
    doubtful = data[:-2] + bytes(50) + data[-2:]
    assert decoded_whole(doubtful, 70, 53, proven=True)[0] == []
    assert len(decoded_whole(doubtful, 70, 53, proven=False)[0]) == 1
    (failure,), _ = decoded_whole(data, 20_000, 20_000)
    assert failure.reason == "more than 100,000,000 pixels"
    records = replace(raw_records([picture(9, 9, 0)]), widths=np.array([8]))
    out, box = np.empty((1, 4, 4, 3), np.uint8), np.array([[0, 0, 8, 8]])
    (failure,) = Decoder().decode(records, box, np.zeros(1, np.bool_), out)
    assert failure.reason == "243 bytes of pixels"


def test_pixels_of_no_size_are_refused() -> None:
    empty = np.empty((0, 5, 3), np.uint8)
    records = raw_records([empty, picture(5, 5, 0), empty.reshape(5, 0, 3)])
    out, boxes = np.empty((3, 2, 2, 3), np.uint8), np.tile([0, 0, 5, 5], (3, 1))
    failures = Decoder().decode(records, boxes, np.zeros(3, np.bool_), out)
    assert [(one.row, one.reason) for one in failures] == [
        (0, "0 bytes of pixels"),
        (2, "0 bytes of pixels"),
    ]


def test_failures_do_not_reach_their_neighbours() -> None:
    images = [picture(40, 40, i) for i in range(6)]
    data = [encoded(image) for image in images]
    for i in (0, 2, 3, 5):
        data[i] = data[i][: len(data[i]) // 3]
    records = jpeg_records(data, [(40, 40)] * 6, proven=False)
    out = np.empty((6, 40, 40, 3), np.uint8)
    boxes, flips = np.tile([0, 0, 40, 40], (6, 1)), np.zeros(6, np.bool_)
    failures = Decoder().decode(records, boxes, flips, out)
    assert [failure.row for failure in failures] == [0, 2, 3, 5]
    for i in (1, 4):
        assert np.array_equal(out[i], decode_jpeg(np.frombuffer(data[i], np.uint8)))


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_damaged_jpegs_end_nothing(
    kind: dict[str, Any], changes: list[tuple[int, int]], cut: int, whole: bool
) -> None:
    data = bytearray(encoded(picture(33, 47, 1), **kind))
    for at, value in changes:
        data[at % len(data)] = value
    if not whole:
        del data[cut % len(data) :]
    for proven in (True, False):
        failures, _ = decoded_whole(bytes(data), 33, 47, proven=proven)
        assert all("JPEG" in failure.reason for failure in failures)

"""Real ImageNet images, through tamis, into FFCV's own loader and the stock pipeline."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ffcv_reading import epoch
from tamis.bundles.convert import ConvertReport, convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.verify import verify
from tamis.sources.image_folder import ImageFolder, open_image_folder

pytestmark = pytest.mark.real_data

SIDE, RATIO = 64, 224 / 256


@dataclass(frozen=True)
class Sample:
    """500 images of 500 classes, so that a label says which image it is."""

    source: ImageFolder
    report: ConvertReport
    parent: Path
    child: Path
    kept: NDArray[np.int64]
    decoded: dict[int, NDArray[np.uint8]]  # label → what FFCV makes of the parent's record


def decoded_by_ffcv(path: Path, order: str, os_cache: bool) -> dict[int, NDArray[np.uint8]]:
    """Label → (64, 64, 3) pixels, with the pipelines of the stock ffcv-imagenet script."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import OrderOption
    from ffcv.transforms import Squeeze, ToTensor, ToTorchImage

    pipelines: dict[str, Any] = {
        "image": [CenterCropRGBImageDecoder((SIDE, SIDE), RATIO), ToTensor(), ToTorchImage()],
        "label": [IntDecoder(), ToTensor(), Squeeze()],
    }
    found: dict[int, NDArray[np.uint8]] = {}
    for example in epoch(
        path, pipelines, batch_size=25, order=OrderOption[order], os_cache=os_cache
    ):
        label = int(example["label"])
        assert label not in found, "an image that came twice"
        found[label] = example["image"].transpose(1, 2, 0)
    return found


@pytest.fixture(scope="module")
def sample(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("imagenet")
    source = open_image_folder(real_data / "imagenet-sample")
    report = convert(source, folder / "parent.beton")
    kept = np.sort(np.random.default_rng(0).permutation(500)[:250])
    cut(open_bundle(folder / "parent.beton"), folder / "child.beton", kept)
    decoded = decoded_by_ffcv(folder / "parent.beton", "SEQUENTIAL", True)
    return Sample(source, report, folder / "parent.beton", folder / "child.beton", kept, decoded)


def test_the_conversion_passes_every_jpeg_through(sample: Sample) -> None:
    assert (sample.report.n_examples, sample.report.n_passed_through) == (500, 500)
    bundle = open_bundle(sample.parent)
    assert bundle.classes is not None
    assert len(bundle.classes) == 500
    for position, item in enumerate(sample.source.items()):
        assert bundle.image_record(position)[3].tobytes() == item.load()
    assert verify(bundle).ok


def test_ffcv_decodes_the_parent(sample: Sample) -> None:
    assert sorted(sample.decoded) == list(range(500))
    # A failed decode would leave another image's pixels behind: all are different images…
    assert len({pixels.tobytes() for pixels in sample.decoded.values()}) == 500
    # …and the right ones, but for the fast DCT.
    for item in list(sample.source.items())[::25]:
        data = item.load()
        assert isinstance(data, bytes)
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width = pixels.shape[:2]
        edge = int(RATIO * min(height, width))
        top, left = (height - edge) // 2, (width - edge) // 2
        square = pixels[top : top + edge, left : left + edge]
        expected = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(sample.decoded[item.label] - expected).mean() < 2


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ["SEQUENTIAL", "RANDOM", "QUASI_RANDOM"])
def test_a_cut_bundle_decodes_to_the_same_bits(sample: Sample, order: str, os_cache: bool) -> None:
    found = decoded_by_ffcv(sample.child, order, os_cache)
    assert sorted(found) == sample.kept.tolist()
    different = [
        label
        for label, pixels in found.items()
        if not np.array_equal(pixels, sample.decoded[label])
    ]
    assert different == []
    # The order is FFCV's own: the bundle's, or another one.
    assert (list(found) == sample.kept.tolist()) == (order == "SEQUENTIAL")


def test_the_cut_bundle_is_sound_and_small(sample: Sample) -> None:
    parent, child = open_bundle(sample.parent), open_bundle(sample.child)
    assert np.array_equal(child.example_ids, sample.kept)
    assert child.manifest is not None
    assert child.manifest.full_examples == 500
    assert verify(child).ok
    payload = int(parent.extents[sample.kept, 0, 1].sum())
    # Pages of 8 MiB hold some 75 images each: what is lost at their ends is little.
    assert payload < sample.child.stat().st_size < 1.05 * payload + 100_000

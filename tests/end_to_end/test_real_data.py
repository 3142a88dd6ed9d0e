"""Real CIFAR-10 and real ImageNet images through every stage."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from loading import images_of, memory_loader
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.verify import verify
from tamis.errors import UsageError
from tamis.loaders.memory_loader import load_image_set
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import Augmentation, RandomResizedCrop
from tamis.metrics.campaign import score
from tamis.metrics.registry import get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.score_table import unscored_table
from tamis.selection.selecting import select
from tamis.selection.settings import SelectionSettings
from tamis.sources.opening import open_source
from tamis.training.recipes import get_recipe
from tamis.training.runs import RunOptions, train_on_bundle
from tamis.training.selfsup import SelfsupSettings

pytestmark = pytest.mark.real_data
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cifar10(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("cifar10") / "test.beton"
    done = convert(open_source(str(real_data / "cifar10" / "test.parquet")), path)
    assert (done.n_examples, done.n_passed_through) == (10_000, 10_000)
    return open_bundle(path)


@pytest.fixture(scope="module")
def imagenet(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("imagenet") / "sample.beton"
    done = convert(open_source(str(real_data / "imagenet-sample")), path)
    assert (done.n_examples, done.n_passed_through) == (500, 500)
    return open_bundle(path)


def test_cifar10_keeps_its_bytes_labels_and_class_names(cifar10: Bundle, real_data: Path) -> None:
    rows = pq.read_table(real_data / "cifar10" / "test.parquet")
    assert cifar10.labels.tolist() == rows["label"].to_pylist()
    assert cifar10.classes is not None
    assert cifar10.classes[0] == "airplane"
    for position in (0, 4321, 9999):
        expected = rows["image"][position].as_py()
        assert cifar10.image_record(position)[3].tobytes() == expected["bytes"]
        assert cifar10.paths is not None
        assert cifar10.paths[position].as_py() == expected["path"]
    assert verify(cifar10, deep=True).ok


def test_imagenet_keeps_its_bytes_in_torchvision_s_order(imagenet: Bundle, real_data: Path) -> None:
    root = real_data / "imagenet-sample"
    files = sorted(root.glob("*/*"), key=lambda path: (path.parent.name, path.name))
    assert imagenet.paths is not None
    assert imagenet.paths.to_pylist() == [str(path.relative_to(root)) for path in files]
    for position, path in enumerate(files):
        assert imagenet.image_record(position)[3].tobytes() == path.read_bytes()
    assert verify(imagenet, deep=True).ok


def test_imagenet_shrinks_to_max_side(real_data: Path, tmp_path: Path) -> None:
    settings = ConvertSettings(max_side=256)
    done = convert(open_source(str(real_data / "imagenet-sample")), tmp_path / "s.beton", settings)
    small = open_bundle(tmp_path / "s.beton")
    rows = small.metadata["f0"]
    assert max(rows["width"].max(), rows["height"].max()) == 256
    assert done.n_encoded > 450
    assert verify(small, deep=True).ok


def centre_by_pillow(bundle: Bundle, position: int, side: int) -> NDArray[np.uint8]:
    """As torchvision does: decode, crop, resize with antialiasing."""
    with Image.open(io.BytesIO(bundle.image_record(position)[3].tobytes())) as image:
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        square = image.convert("RGB").crop((left, top, left + edge, top + edge))
        return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR))


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def test_all_backends_show_the_same_centre(imagenet: Bundle) -> None:
    # The limit of the design is 4 of 255. Decoding agrees to the bit between ffcv and Pillow, so
    # what is measured there is the resampler alone: areas against Pillow's triangles.
    side = 224
    by_pillow = {i: centre_by_pillow(imagenet, i, side) for i in range(0, 500, 5)}
    chosen = np.array(list(by_pillow))
    shown = {
        backend: images_of(
            open_loader(imagenet, backend=backend, batch_size=32, resolution=side, selection=chosen)
        )
        for backend in ("ffcv", "dali", "memory")
    }
    for i in by_pillow:
        assert np.array_equal(shown["ffcv"][i], shown["memory"][i])
    means = {
        (backend, peer): np.mean([distance(pixels[i], other[i]) for i in by_pillow])
        for backend, pixels in shown.items()
        for peer, other in (*shown.items(), ("pillow", by_pillow))
        if backend != peer
    }
    assert max(means.values()) < 2, means
    # DALI takes the same triangles as Pillow.
    assert means["dali", "pillow"] < 0.5, means


def test_backends_augment_alike(imagenet: Bundle) -> None:
    augmentation = Augmentation(crop=RandomResizedCrop(), flip=True, seed=4)
    shown = []
    for backend in ("ffcv", "dali"):
        loader = open_loader(
            imagenet, backend=backend, mode="train", batch_size=64, resolution=128,
            augmentation=augmentation, selection=np.arange(0, 500, 5),
        )  # fmt: skip
        loader.set_epoch(3)
        shown.append(images_of(loader))
    ffcv, dali = shown
    assert list(ffcv) == list(dali)  # the same order
    # The same boxes and flips: images of other boxes are 40 levels apart.
    assert np.mean([distance(ffcv[i], dali[i]) for i in ffcv]) < 2
    assert max(distance(ffcv[i], dali[i]) for i in ffcv) < 8


@pytest.mark.parametrize("loader", ["memory", "ffcv", "dali"])
def test_cifar10_is_scored_cut_and_trained_on(cifar10: Bundle, tmp_path: Path, loader: str) -> None:
    part = select(unscored_table(cifar10), SelectionSettings(side="random", count=1500))
    cut(cifar10, tmp_path / "part.beton", part.example_ids)
    bundle = open_bundle(tmp_path / "part.beton")
    recipe = get_recipe("small", {"epochs": 1, "width": 8})
    campaign = CampaignSettings(recipe, models=1, selfsup=SelfsupSettings(epochs=1), loader=loader)
    table = score(bundle, get_metrics(["el2n", "selfsup-prototypes"]), campaign, CPU).table
    kept = select(table, SelectionSettings("el2n", keep=0.5, class_balance=0.5))
    cut(bundle, tmp_path / "pruned.beton", kept.example_ids)
    pruned = open_bundle(tmp_path / "pruned.beton")
    assert verify(pruned).ok
    assert len(pruned.lineage) == 3
    _, record = train_on_bundle(
        pruned,
        bundle,
        replace(recipe, epochs=4),
        RunOptions(full_examples=1500),
        loader=loader,
        device=CPU,
    )
    assert (record.n_examples, record.full_examples, record.steps) == (750, 1500, 4 * 24)
    # Half of these images are trained on: far above the chance of a tenth.
    assert record.test_accuracy > 0.2


def test_imagenet_is_scored_cut_and_trained_on(imagenet: Bundle, tmp_path: Path) -> None:
    recipe = get_recipe("small", {"epochs": 2, "width": 8})
    campaign = CampaignSettings(recipe, models=1, selfsup=SelfsupSettings(epochs=1))
    table = score(imagenet, get_metrics(["el2n", "selfsup-prototypes"]), campaign, CPU).table
    # One image of each of 500 classes: the prototypes must be fewer than the images.
    column = table.columns["selfsup-prototypes"]
    assert column.info["parameters"]["k"] == 50
    assert np.median(column.values) > 1e-4
    kept = select(table, SelectionSettings("selfsup-prototypes", keep=0.5))
    cut(imagenet, tmp_path / "cut.beton", kept.example_ids)
    half = open_bundle(tmp_path / "cut.beton")
    for position, example_id in enumerate(half.example_ids.tolist()):
        parent = imagenet.image_record(example_id)[3]
        assert half.image_record(position)[3].tobytes() == parent.tobytes()
    _, record = train_on_bundle(half, imagenet, recipe, loader="ffcv", device=CPU)
    assert (record.n_examples, record.full_examples) == (250, 500)
    assert np.isfinite(record.test_loss)
    assert record.examples_seen == record.steps * 64 - 4 * (64 - 250 % 64)


def test_metrics_that_cannot_tell_are_refused(imagenet: Bundle) -> None:
    campaign = CampaignSettings(get_recipe("small"))
    with pytest.raises(UsageError, match="expected classes of several examples"):
        score(imagenet, get_metrics(["prototypes"]), campaign, CPU)


def test_imagenet_decodes_into_memory(imagenet: Bundle) -> None:
    images = load_image_set(imagenet, 48)
    assert images.images.shape == (500, 48, 48, 3)
    batches = list(memory_loader(images, 128))
    assert [len(batch.labels) for batch in batches] == [128, 128, 128, 116]
    # Photographs, not constants: every image has some contrast.
    assert images.images.float().std(dim=(1, 2, 3)).min() > 5

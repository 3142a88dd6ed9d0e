"""Real CIFAR-10 and real ImageNet images through every stage."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from loading import images_of, jpeg_records, memory_loader
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.verify import verify
from tamis.errors import UsageError
from tamis.inference import infer
from tamis.loaders.boxes import random_boxes
from tamis.loaders.decoding import Decoder
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
from tamis.tiles.transcoding import Tiler
from tamis.training.loop import Seeds, train
from tamis.training.recipes import get_recipe
from tamis.training.runs import RunOptions, train_on_bundle
from tamis.training.selfsup import SelfsupSettings
from tamis_kernels import row_scores

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
    # what is measured there is the resampler alone: triangles of floats against those of integers,
    # and with "area" FFCV's areas against them.
    side = 224
    by_pillow = {i: centre_by_pillow(imagenet, i, side) for i in range(0, 500, 5)}
    chosen = np.array(list(by_pillow))
    ways: dict[str, dict[str, Any]] = {
        "ffcv": {"backend": "ffcv"},
        "dali": {"backend": "dali"},
        "memory": {"backend": "memory"},
        "area": {"backend": "ffcv", "resample": "area"},
    }
    shown = {
        name: images_of(
            open_loader(
                imagenet, batch_size=32, resolution=side, selection=chosen, exact=True, **options
            )
        )
        for name, options in ways.items()
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
    assert means["dali", "pillow"] < 0.5, means
    assert means["ffcv", "pillow"] < 0.2, means
    assert means["ffcv", "dali"] < 0.02, means
    assert means["area", "pillow"] > 1, means


def test_resizing_is_torchvisions(imagenet: Bundle) -> None:
    shown = images_of(
        open_loader(imagenet, backend="ffcv", batch_size=100, resolution=224, exact=True)
    )
    for position in range(imagenet.n_examples):
        whole = decode_image(imagenet, position)
        edge = min(whole.shape[:2])
        top, left = (whole.shape[0] - edge) // 2, (whole.shape[1] - edge) // 2
        square = torch.from_numpy(whole[top : top + edge, left : left + edge].copy())
        # What torchvision's resize of uint8 tensors calls.
        resized = torch.nn.functional.interpolate(
            square.permute(2, 0, 1)[None], size=(224, 224), mode="bilinear", antialias=True
        )
        expected = resized[0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(shown[position] - expected).max() <= 1


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


def test_every_box_of_tiles_is_the_crop_of_the_whole(imagenet: Bundle) -> None:
    tiler, decoder, rng = Tiler(), Decoder(exact=True), np.random.default_rng(0)
    n_tiled, before, after = 0, 0, 0
    for position in range(imagenet.n_examples):
        _, width, height, record = imagenet.image_record(position)
        tiled = tiler.tile(record)
        before, after = before + len(record), after + len(record if tiled is None else tiled)
        if tiled is None:
            continue
        n_tiled += 1
        whole = decode_image(imagenet, position)
        side = np.full(1, height), np.full(1, width)
        for draw in range(3):
            box = random_boxes(rng.integers(1 << 40, size=1), *side, RandomResizedCrop(), 0, draw)
            top, left, h, w = box[0].tolist()
            out = np.empty((1, h, w, 3), np.uint8)
            records = jpeg_records([tiled], [(width, height)], proven=True)
            assert decoder.decode(records, box, np.zeros(1, np.bool_), out) == []
            assert np.array_equal(out[0], whole[top : top + h, left : left + w])
    # The others are progressive, small, or of odd sampling.
    assert n_tiled > 0.95 * imagenet.n_examples
    assert after < 1.01 * before


def test_thumbnails_score_as_exact_ones(imagenet: Bundle) -> None:
    """By a network that was trained on exact ones: these, and those decoded at a quarter."""
    exact, fast = (load_image_set(imagenet, 64, exact=exact) for exact in (True, False))
    exact = replace(exact, labels=exact.labels // 100, n_classes=5)  # one image teaches nothing
    error = ((exact.images.float() - fast.images.float()) ** 2).mean((1, 2, 3))
    decibels = 10 * torch.log10(255**2 / error)
    assert 37 < decibels.median() < 60
    assert decibels.min() > 33
    recipe = get_recipe("small", {"epochs": 4, "width": 8, "resolution": 64})
    loader = memory_loader(exact, 64, seed=0)
    steps = recipe.epochs * len(loader)
    seeds = Seeds.from_one(0)
    model = train(loader, recipe, 5, steps=steps, seeds=seeds, device=CPU).model
    scores = []
    for images in (exact, fast):
        outputs = list(infer(model, memory_loader(images, 128), CPU))
        logits = torch.cat([one.logits for one in outputs])
        scores.append(row_scores(logits, exact.labels).el2n.numpy())
    assert scores[0].std() > 0.05
    assert spearmanr(*scores).statistic > 0.98

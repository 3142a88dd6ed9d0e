"""Training: what a run depends on, what it costs, and how it fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from loading import memory_loader
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import BundleError, UsageError, WorkFailedError
from tamis.hashing import shuffled_order
from tamis.loaders.memory_loader import ImageSet, load_image_set
from tamis.models.network import Network
from tamis.sources.opening import open_source
from tamis.training.checkpoints import load_checkpoint, write_run
from tamis.training.evaluation import evaluate
from tamis.training.loop import Seeds, augmentation_for, n_steps, train
from tamis.training.recipes import RECIPES, Recipe, get_recipe, scoring_recipe
from tamis.training.runs import RunOptions, train_on_bundle
from tamis.training.selfsup import SelfsupSettings, contrastive_loss, random_views, train_encoder

CPU = torch.device("cpu")
SHORT = replace(RECIPES["digits"], epochs=2, width=8)


@pytest.fixture(scope="module")
def training(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.fixture(scope="module")
def testing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("test") / "test.beton"
    convert(open_source("digits:test"), path)
    return open_bundle(path)


@pytest.fixture(scope="module")
def image_set(training: Bundle) -> ImageSet:
    return load_image_set(training, SHORT.resolution)


class Recorder:
    """Remembers which examples were shown when."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, NDArray[np.int64]]] = []
        self.epochs_ended: list[int] = []

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        assert logits.shape == (len(example_ids), 10)
        self.shown.append((epoch, example_ids))

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        self.epochs_ended.append(epoch)

    def epoch(self, number: int) -> list[int]:
        parts = [ids for epoch, ids in self.shown if epoch == number]
        shown: list[int] = np.concatenate(parts).tolist()
        return shown


def run(images: ImageSet, recipe: Recipe = SHORT, seed: int = 0, steps: int = 30) -> Network:
    seeds = Seeds.from_one(seed)
    augmentation = augmentation_for(recipe, seeds)
    loader = memory_loader(images, recipe.batch_size, seed=seed, augmentation=augmentation)
    return train(loader, recipe, 10, steps=steps, seeds=seeds, device=CPU).model


def weights(model: Network) -> NDArray[np.float32]:
    return np.concatenate([p.detach().numpy().ravel() for p in model.state_dict().values()])


def test_a_run_repeats_to_the_bit_and_depends_on_its_seed(image_set: ImageSet) -> None:
    first, again, other = (weights(run(image_set, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_run_leaves_the_caller_s_random_state_alone(image_set: ImageSet) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(image_set, steps=2)
    assert torch.equal(torch.rand(1), expected)


def test_a_pruned_bundle_trains_as_the_selection_of_its_parent(
    training: Bundle, testing: Bundle, tmp_path: Path
) -> None:
    ids = np.random.default_rng(0).permutation(training.example_ids)[:300]
    cut(training, tmp_path / "pruned.beton", ids)
    recipe = replace(SHORT, epochs=1)
    virtual, expected = train_on_bundle(training, testing, recipe, example_ids=ids, device=CPU)
    real, found = train_on_bundle(
        open_bundle(tmp_path / "pruned.beton"), testing, recipe, device=CPU
    )
    assert np.array_equal(weights(virtual.model), weights(real.model))
    assert found.test_accuracy == expected.test_accuracy
    assert found.full_examples == expected.full_examples == training.n_examples
    assert found.steps == math.ceil(training.n_examples / 64)


def test_every_kept_example_is_shown_in_every_epoch_in_the_full_run_s_order(
    image_set: ImageSet,
) -> None:
    part = image_set.subset(np.arange(0, 1347, 9))
    watched = []
    for images in (image_set, part):
        loader = memory_loader(images, 64, seed=3)
        recorder = Recorder()
        steps = 2 * len(loader)
        train(loader, SHORT, 10, steps=steps, seeds=Seeds(0, 3, 0), device=CPU, observer=recorder)
        assert recorder.epochs_ended == [0, 1]
        for epoch in (0, 1):
            assert sorted(recorder.epoch(epoch)) == images.example_ids.tolist()
        assert recorder.epoch(0) != recorder.epoch(1)
        watched.append(recorder.epoch(1))
    members = set(part.example_ids.tolist())
    assert [i for i in watched[0] if i in members] == watched[1]


@pytest.mark.parametrize(("budget", "expected"), [("steps", 10 * 16), ("epochs", 10 * 4)])
def test_budgets_hold_the_steps_or_the_epochs(budget: str, expected: int) -> None:
    recipe = replace(SHORT, epochs=10, batch_size=64)
    # 1000 examples are 15.6 batches of 64, 250 are 3.9: partial batches count.
    assert n_steps(250, 1000, recipe, budget) == expected  # type: ignore[arg-type]
    assert n_steps(1000, 1000, recipe, budget) == 160  # type: ignore[arg-type]


def test_an_unknown_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="expected steps or epochs, found time"):
        n_steps(1, 1, SHORT, "time")  # type: ignore[arg-type]


def test_training_learns(training: Bundle, testing: Bundle) -> None:
    _, record = train_on_bundle(training, testing, replace(SHORT, epochs=4), device=CPU)
    # Ten equal classes: chance is 10 %.
    assert record.test_accuracy > 0.8
    assert record.epoch_losses[-1] < 0.5 * record.epoch_losses[0]
    assert record.examples_seen == 4 * training.n_examples
    assert record.images_per_second == record.examples_seen / record.train_seconds


def test_evaluation_counts_as_a_loop_does(image_set: ImageSet) -> None:
    model = run(image_set, steps=20)
    part = image_set.subset(np.arange(100))
    found = evaluate(model, memory_loader(part, 32), 10, CPU)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=False):
        logits = model(part.images.permute(0, 3, 1, 2)).double()
    right = logits.argmax(1) == part.labels
    # bfloat16 may turn a few near-ties.
    assert found.accuracy == pytest.approx(right.float().mean().item(), abs=0.03)
    expected = torch.nn.functional.cross_entropy(logits, part.labels).item()
    assert found.loss == pytest.approx(expected, rel=0.05)
    counts = np.bincount(part.labels.numpy(), minlength=10)
    assert found.accuracy == pytest.approx((found.per_class * counts).sum() / 100)


def test_the_bar_counts_the_steps_of_the_budget(image_set: ImageSet) -> None:
    class Counting:
        total: int | None = 0
        done = 0

        @contextmanager
        def task(self, description: str, total: int | None) -> Iterator[Callable[..., None]]:
            self.total = total

            def advance(units: int = 1) -> None:
                self.done += units

            yield advance

    part, bar = image_set.subset(np.arange(100)), Counting()
    seeds = Seeds.from_one(0)
    # As many steps as a larger set would get, in many epochs; and broken off after the third.
    train(memory_loader(part, 32), SHORT, 10, steps=30, seeds=seeds, device=CPU, progress=bar)
    assert (bar.total, bar.done) == (30, 30)
    bar = Counting()
    done = train(
        memory_loader(part, 32), SHORT, 10, steps=30, seeds=seeds, device=CPU, stop_after=3,
        progress=bar,
    )  # fmt: skip
    assert (bar.total, bar.done, done.steps) == (12, 12, 12)


def test_a_diverging_run_stops_and_says_so(image_set: ImageSet) -> None:
    wild = replace(SHORT, learning_rate=1e30)
    with pytest.raises(WorkFailedError, match="expected a finite training loss") as caught:
        run(image_set, wild, steps=60)
    assert caught.value.exit_code == 1


def test_a_checkpoint_gives_the_same_network(
    training: Bundle, testing: Bundle, tmp_path: Path
) -> None:
    trained, record = train_on_bundle(training, testing, replace(SHORT, epochs=1), device=CPU)
    write_run(tmp_path / "run", record, trained.model)
    loaded = load_checkpoint(tmp_path / "run", CPU).model
    assert np.array_equal(weights(loaded), weights(trained.model))
    written = json.loads((tmp_path / "run" / "record.json").read_text())
    assert written["test_accuracy"] == record.test_accuracy
    assert written["recipe"]["epochs"] == 1


def test_checkpoints_load_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"config": Evil(), "state": {}}, tmp_path / "model.pt")
    with pytest.raises(BundleError, match=r"expected a run folder with the file model\.pt"):
        load_checkpoint(tmp_path, CPU)
    assert not (tmp_path / "ran").exists()


def test_other_classes_in_the_test_set_are_refused(training: Bundle, sample_bundle: Path) -> None:
    with pytest.raises(BundleError, match="expected the training bundle's 10 classes"):
        train_on_bundle(training, open_bundle(sample_bundle), SHORT, device=CPU)


@pytest.mark.parametrize(("width", "batch_size"), [(16, 100), (8, 400)])
def test_the_fast_recipe_learns_grey_images_at_any_width(
    training: Bundle, testing: Bundle, width: int, batch_size: int
) -> None:
    """Airbench's is for colour images, one width, and batches of 2000."""
    changes = {"resolution": 16, "epochs": 4, "translate": 0, "flip": False, "flip_test": False}
    recipe = get_recipe("cifar-fast", {**changes, "width": width, "batch_size": batch_size})
    record = train_on_bundle(training, testing, recipe, device=CPU)[1]
    assert record.test_accuracy > 0.9


def test_recipes_take_replacements_by_type() -> None:
    found = get_recipe("small", {"epochs": "3", "learning_rate": "1", "flip": "false"})
    assert (found.epochs, found.learning_rate, found.flip) == (3, 1.0, False)
    assert found.digest != get_recipe("small").digest
    assert (
        scoring_recipe("cifar-fast").label_smoothing == 0 < get_recipe("cifar-fast").label_smoothing
    )
    assert scoring_recipe("cifar-fast", {"label_smoothing": 0.1}).label_smoothing == 0.1
    assert scoring_recipe("small") == get_recipe("small")
    for wrong, message in (
        ({"epochs": "3.5"}, "type int, found '3.5'"),
        ({"epochs": "many"}, "type int, found 'many'"),
        ({"flip": 1}, "type bool, found 1"),
        ({"colour": "1"}, "expected one of network, "),
        ({"name": "x"}, "expected one of network, "),
        ({"epochs": "0"}, "setting epochs: expected more than 0, found 0"),
    ):
        with pytest.raises(UsageError, match=message):
            get_recipe("small", wrong)
    with pytest.raises(UsageError, match=r"expected small or digits or .*, found big"):
        get_recipe("big")


def test_the_contrastive_loss_is_simclr_s_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    views = torch.cat([a, b]).double().numpy()
    total = 0.0
    for i in range(10):
        partner = (i + 5) % 10

        def similarity(j: int, i: int = i) -> float:
            cosine = views[i] @ views[j] / np.linalg.norm(views[i]) / np.linalg.norm(views[j])
            return math.exp(cosine / 0.2)

        others = sum(similarity(k) for k in range(10) if k != i)
        total -= math.log(similarity(partner) / others)
    assert contrastive_loss(a, b, 0.2).item() == pytest.approx(total / 10, rel=1e-5)


def test_views_are_random_per_image_and_repeat_with_the_generator() -> None:
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    images = image.repeat(6, 1, 1, 1)
    first = random_views(images, True, torch.Generator().manual_seed(0))
    again = random_views(images, True, torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    assert len({view.numpy().tobytes() for view in first}) == 6
    assert 0 <= first.min() <= first.max() <= 255


def test_views_mirror_only_where_that_means_the_same() -> None:
    # Bright on the left: without mirroring the left stays brighter in every view.
    image = torch.zeros(64, 3, 8, 8)
    image[..., :4] = 200
    for flip, expected in ((False, 0), (True, 64)):
        views = random_views(image, flip, torch.Generator().manual_seed(1))
        brighter_right = (views[..., 4:].mean((1, 2, 3)) > views[..., :4].mean((1, 2, 3))).sum()
        assert int(brighter_right) == pytest.approx(expected / 2, abs=12 if flip else 0)


def test_the_encoder_never_sees_a_label(image_set: ImageSet) -> None:
    part = image_set.subset(np.arange(256))

    def encoder(labels: Iterator[int]) -> NDArray[np.float32]:
        shuffled = replace(part, labels=torch.tensor(list(labels)))
        loader = memory_loader(shuffled, 64, seed=0)
        return weights(train_encoder(loader, SHORT, SelfsupSettings(epochs=1), seed=0, device=CPU))

    assert np.array_equal(encoder(iter(part.labels.tolist())), encoder(iter([0] * 256)))


@pytest.mark.parametrize("loader", ["ffcv", "memory"])
def test_epochs_end_where_their_last_batch_is_damaged(
    digits_bundle: Path, testing: Bundle, tmp_path: Path, loader: str
) -> None:
    # In the bundle's order the last batch of 65 examples in batches of 64 holds one example.
    whole = open_bundle(digits_bundle)
    cut(whole, tmp_path / "x.beton", whole.example_ids[:65])
    data = bytearray((tmp_path / "x.beton").read_bytes())
    bundle = open_bundle(tmp_path / "x.beton")
    for position in range(65):
        order = shuffled_order(bundle.example_ids, 0, 0)
        if position == order[-1]:
            data[int(bundle.extents[position, 0, 0])] ^= 1
    (tmp_path / "one.beton").write_bytes(data)
    for position in range(65):
        if position != order[-1]:
            data[int(bundle.extents[position, 0, 0])] ^= 1
    (tmp_path / "all.beton").write_bytes(data)
    recipe = replace(SHORT, epochs=2)
    options: dict[str, Any] = {
        "loader": loader,
        "on_error": "skip",
        "options": RunOptions(budget="epochs"),
        "device": CPU,
    }
    _, record = train_on_bundle(open_bundle(tmp_path / "one.beton"), testing, recipe, **options)
    assert len(record.epoch_losses) >= 2
    assert record.n_examples == 64
    assert [one.example_id for one in record.skipped] == [int(bundle.example_ids[order[-1]])]
    with pytest.raises((WorkFailedError, UsageError), match="at least one"):
        train_on_bundle(open_bundle(tmp_path / "all.beton"), testing, recipe, **options)

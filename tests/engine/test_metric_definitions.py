"""Metrics of training dynamics against slow definitions, from a whole history of logits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loading import memory_loader
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.loaders.memory_loader import load_image_set
from tamis.metrics.acquisition import variation_ratio
from tamis.metrics.label_errors import class_thresholds, confident_elsewhere, label_doubt
from tamis.metrics.metric import RunShape, Snapshot
from tamis.metrics.presentations import forgetting_scores
from tamis.metrics.registry import METRICS
from tamis.metrics.tdds import TDDSTracker
from tamis.metrics.watching import RunWatch, column_name, snapshots
from tamis.metrics.windows import WindowTracker, early_part, window_length
from tamis.models.network import Network
from tamis.statistics import rank_correlation
from tamis.training.loop import Seeds, train
from tamis.training.recipes import RECIPES
from tamis_kernels import new_statistics, row_scores, score_and_update

Float = NDArray[np.float64]

CPU = torch.device("cpu")
EPOCHS = 9  # windows of three epochs, in the first five and in all nine
RECIPE = replace(RECIPES["digits"], epochs=EPOCHS, width=8)
WATCHED = [m for m in METRICS.values() if m.name in (
    "forgetting", "aum", "dynamic-uncertainty", "dual", "tdds"
)]  # fmt: skip
SNAPSHOTS = [m for m in METRICS.values() if isinstance(m.reading, Snapshot)]


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """300 digits whose ids are not their positions."""
    path = tmp_path_factory.mktemp("metrics") / "part.beton"
    cut(open_bundle(digits_bundle), path, np.arange(0, 1200, 4))
    return open_bundle(path)


class Recorder:
    """Keeps all logits as trained on, and hands everything on to the watch."""

    def __init__(self, bundle: Bundle, watch: RunWatch) -> None:
        self.place = {int(example_id): i for i, example_id in enumerate(bundle.example_ids)}
        self.logits = np.full((EPOCHS, bundle.n_examples, 10), np.nan)
        self.watch = watch

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        for row, example_id in enumerate(example_ids.tolist()):
            self.logits[epoch, self.place[example_id]] = logits[row].double().numpy()
        self.watch.on_batch(epoch, example_ids, labels, logits)

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        self.watch.on_epoch_end(epoch, model)


@pytest.fixture(scope="module")
def run(bundle: Bundle) -> tuple[dict[str, NDArray[np.float32]], Float, Network]:
    """What the watch found, all logits (epochs, n, 10), and the network."""
    images = load_image_set(bundle, 8)
    watch = RunWatch(WATCHED, bundle.example_ids, RunShape(bundle.n_examples, 10, EPOCHS, CPU))
    recorder = Recorder(bundle, watch)
    loader = memory_loader(images, 32, seed=0)
    trained = train(
        loader, RECIPE, 10, steps=EPOCHS * len(loader), seeds=Seeds.from_one(0), device=CPU,
        observer=recorder,
    )  # fmt: skip
    found = {name.partition("@")[0]: values for name, values in watch.finish().items()}
    assert not np.isnan(recorder.logits).any()
    return found, recorder.logits, trained.model


def softmax(logits: Float) -> Float:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Float = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def slow_forgetting(logits: Float, label: int) -> float:
    right = [int(row.argmax()) == label for row in logits]
    return sum(a and not b for a, b in itertools.pairwise(right)) if any(right) else len(right)


def slow_aum(logits: Float, label: int) -> float:
    return -float(np.mean([row[label] - max(np.delete(row, label)) for row in logits]))


def slow_uncertainty(logits: Float, label: int) -> float:
    p = [softmax(row)[label] for row in logits]
    size = window_length(EPOCHS)
    return float(np.mean([np.std(p[k : k + size], ddof=1) for k in range(len(p) - size + 1)]))


def slow_dual(logits: Float, label: int) -> float:
    p = [softmax(row)[label] for row in logits[: early_part(EPOCHS)]]
    size = window_length(EPOCHS)
    windows = [p[k : k + size] for k in range(len(p) - size + 1)]
    return float(np.mean([np.std(window, ddof=1) * (1 - np.mean(window)) for window in windows]))


def slow_tdds(logits: Float, label: int) -> float:
    """As the formula stands: every window afresh, and its weight by its age."""
    p = softmax(logits)[: early_part(EPOCHS)]
    size, total = window_length(EPOCHS), 0.0
    for k in range(len(p) - size + 1):
        moves = []
        for before, after in itertools.pairwise(p[k : k + size]):
            terms = [a * (math.log(a + 1e-8) - math.log(b + 1e-8)) for b, a in zip(before, after)]  # noqa: B905
            moves.append(sum(map(abs, terms)))
        away = math.sqrt(sum((move - np.mean(moves)) ** 2 for move in moves))
        total += 0.9 * 0.1 ** (len(p) - size - k) * away
    return total


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("forgetting", slow_forgetting),
        ("aum", slow_aum),
        ("dynamic-uncertainty", slow_uncertainty),
        ("dual", slow_dual),
        ("tdds", slow_tdds),
    ],
)
def test_dynamics_match_their_definitions(
    run: tuple[dict[str, NDArray[np.float32]], Float, Network],
    bundle: Bundle,
    name: str,
    slow: Callable[[Float, int], float],
) -> None:
    found, logits, _ = run
    expected = [slow(logits[:, i], int(label)) for i, label in enumerate(bundle.labels)]
    assert found[name] == pytest.approx(np.array(expected), rel=2e-4, abs=2e-6)
    assert np.std(expected) > 0


def forward(model: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            features = model.features(images.permute(0, 3, 1, 2)).float()
        return model.head(features).double(), features.double()


def test_snapshots_match_their_definitions(
    run: tuple[dict[str, NDArray[np.float32]], Float, Network],
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The same arithmetic on every machine, so that both sides see the same logits.
    monkeypatch.setattr("tamis.devices._cpu_has_bf16", lambda: True)
    _, _, model = run
    images = load_image_set(bundle, 8)
    read = [m for m in SNAPSHOTS if m.name != "grand-full"]
    loader = memory_loader(images, 512)
    found = {
        m.name: v for m, v in zip(read, snapshots(read, model, loader, CPU).values(), strict=True)
    }
    logits, features = forward(model, images.images)
    labels = torch.from_numpy(bundle.labels)
    p = logits.softmax(1)
    wrong_by = p - nn.functional.one_hot(labels, 10)
    el2n = wrong_by.norm(dim=1)
    for name in ("el2n", "el2n-1"):
        assert found[name] == pytest.approx(el2n.numpy(), rel=1e-5)
    # The gradient of the last layer as autograd gives it, example by example.
    for i in range(0, 300, 30):
        weight, bias = (part.detach().double().requires_grad_() for part in model.head.parameters())
        loss = nn.functional.cross_entropy(features[i] @ weight.T + bias, labels[i])
        parts = torch.autograd.grad(loss, (weight, bias))
        norm = math.sqrt(sum(float(part.square().sum()) for part in parts))
        assert found["grand"][i] == pytest.approx(norm, rel=1e-4)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    assert found["loss"] == pytest.approx(losses.numpy(), rel=1e-4, abs=1e-9)
    others = logits.scatter(1, labels[:, None], -torch.inf).max(1).values
    margin = logits.gather(1, labels[:, None])[:, 0] - others
    assert found["margin"] == pytest.approx(-margin.numpy(), rel=1e-5)
    assert found["entropy"] == pytest.approx((-(p * p.log()).sum(1)).numpy(), rel=1e-4)
    assert found["ddd"].tolist() == (logits.argmax(1) != labels).double().tolist()


def test_full_gradients_match_autograd(
    run: tuple[dict[str, NDArray[np.float32]], Float, Network], bundle: Bundle
) -> None:
    _, _, model = run
    images = load_image_set(bundle, 8)
    found = snapshots([METRICS["grand-full"]], model, memory_loader(images, 64), CPU)
    (values,) = found.values()
    for i in (0, 7, 120, 299):
        pixels = images.images[i : i + 1].permute(0, 3, 1, 2)
        loss = nn.functional.cross_entropy(model(pixels), images.labels[i : i + 1])
        parts = torch.autograd.grad(loss, list(model.parameters()))
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in parts))
        assert values[i] == pytest.approx(norm, rel=1e-3)
    # The last layer's part of it is no larger.
    last = snapshots([METRICS["grand"]], model, memory_loader(images, 64), CPU)
    assert (next(iter(last.values())) <= values * 1.02 + 1e-6).all()


def test_never_learned_examples_are_the_hardest() -> None:
    statistics, everyone = new_statistics(4, tracked=()), np.arange(4)
    # 0: always right; 1: right, wrong, right, wrong; 2: never right; 3: learned last.
    for right in ([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1]):
        logits = np.stack([np.zeros(4), np.where(right, 1, -1)], axis=1).astype(np.float32)
        score_and_update(logits, np.ones(4, np.int64), statistics, everyone)
    assert forgetting_scores(statistics, 4).tolist() == [0, 2, 4, 0]


def moving_logits(epochs: int, n: int, n_classes: int) -> Tensor:
    """Networks that learn: logits walk towards the label, each example at its own pace."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(n_classes, (n,), generator=generator)
    pace = torch.rand(n, generator=generator) * 2
    walk = torch.randn(epochs, n, n_classes, generator=generator).cumsum(0)
    walk[torch.arange(epochs)[:, None], torch.arange(n), labels] += (
        torch.arange(1, epochs + 1)[:, None] * pace
    )
    return walk


def tdds_of(logits: Tensor) -> Tensor:
    epochs, n, n_classes = logits.shape
    tracker = TDDSTracker(RunShape(n, n_classes, epochs, CPU))
    labels = torch.zeros(n, dtype=torch.int64)
    for epoch, rows in enumerate(logits):
        tracker.on_batch(epoch, torch.arange(n), rows, row_scores(rows, labels))
        tracker.on_epoch_end(epoch)
    return tracker.finish()["tdds"]


def test_tdds_of_many_classes_is_close_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = moving_logits(12, 1000, 100)
    exact = tdds_of(logits)
    monkeypatch.setattr("tamis.metrics.tdds._WHOLE_BYTES", 0)
    both = torch.stack([tdds_of(logits), exact]).numpy()
    assert 0.9 < rank_correlation(both)[0, 1] < 1


def test_the_state_of_all_trackers_fits_imagenet() -> None:
    shape = RunShape(1_281_167, 1000, 90, CPU)
    watch = RunWatch(WATCHED, np.arange(1_281_167), shape)
    assert 200e6 < watch.state_bytes < 300e6
    for tracker in (WindowTracker(shape), TDDSTracker(shape)):
        held = sum(part.nbytes for part in tensors_of(tracker))
        assert tracker.state_bytes == held


def tensors_of(thing: object) -> list[Tensor]:
    found = []
    for part in vars(thing).values():
        if isinstance(part, Tensor):
            found.append(part)
        elif type(part).__name__ == "_Distributions":
            found += tensors_of(part)
    return found


def test_a_short_training_has_no_windows() -> None:
    shape = RunShape(5, 3, 4, CPU)
    watch = RunWatch(WATCHED, np.arange(5), shape)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    watch.on_batch(0, np.arange(5), torch.zeros(5, dtype=torch.int64), logits)
    names = {name.partition("@")[0] for name in watch.finish()}
    assert names == {"forgetting", "aum"}
    assert {column_name(METRICS[name]) for name in names} == set(watch.finish())


@pytest.mark.parametrize("epochs", [5, 6, 8, 15, 90, 200])
def test_windows_end_within_the_early_part(epochs: int) -> None:
    assert 3 <= window_length(epochs) <= early_part(epochs) <= epochs
    assert window_length(200) == 10


def test_variation_ratio_is_one_minus_the_share_of_the_mode() -> None:
    votes = np.random.default_rng(0).integers(0, 4, (7, 200))
    expected = [1 - max(np.bincount(column)) / 7 for column in votes.T]
    assert variation_ratio(votes) == pytest.approx(np.array(expected))


def test_label_errors_match_a_confident_joint_by_loops() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 5)) * 2
    p = softmax(logits)
    labels = rng.integers(0, 4, 400)  # no example of class 4
    own = p[np.arange(400), labels]
    thresholds = [own[labels == j].mean() if (labels == j).any() else np.inf for j in range(5)]
    rows, given = torch.from_numpy(p).float(), torch.from_numpy(labels)
    found = class_thresholds(torch.from_numpy(own).float(), given, 5)
    assert found.numpy() == pytest.approx(np.array(thresholds), rel=1e-6)
    flags, doubt = confident_elsewhere(rows, given, found), label_doubt(rows, given, found)
    for i in range(400):
        confident = [j for j in range(5) if p[i, j] >= thresholds[j]]
        best = max(confident, key=lambda j: p[i, j], default=labels[i])
        assert bool(flags[i]) == (best != labels[i])
        above = [p[i, j] - min(thresholds[j], 1.0) for j in range(5)]
        others = max(above[j] for j in range(5) if j != labels[i])
        assert float(doubt[i]) == pytest.approx(others - above[labels[i]], abs=1e-6)
    assert 0 < int(flags.sum()) < 400

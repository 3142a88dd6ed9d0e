"""Every metric against an independent, slow definition on real training dynamics."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from loading import memory_loader
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import BundleError, ScoreTableError, UsageError
from tamis.loaders.memory_loader import load_image_set
from tamis.metrics.campaign import CampaignSettings, compute_embeddings, score
from tamis.metrics.dynamics import RunDynamics, forgetting_scores
from tamis.metrics.registry import METRICS, get_metrics
from tamis.models.small_resnet import SmallResNet
from tamis.prototypes import (
    class_prototype_distance,
    kmeans_prototypes,
    nearest_prototype_distance,
)
from tamis.statistics import rank_correlation
from tamis.training.loop import Seeds, train
from tamis.training.recipes import RECIPES
from tamis.training.selfsup import SelfsupSettings
from tamis_kernels import new_statistics, score_and_update

CPU = torch.device("cpu")
SHORT = replace(RECIPES["digits"], epochs=4, width=8)


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """400 digits whose ids are not their positions."""
    path = tmp_path_factory.mktemp("metrics") / "part.beton"
    cut(open_bundle(digits_bundle), path, np.arange(0, 1200, 3))
    return open_bundle(path)


class Recorder(RunDynamics):
    """Also writes every presentation down, and every network at the end of an epoch."""

    def __init__(self, bundle: Bundle, early: int) -> None:
        self.images = load_image_set(bundle, 8)
        super().__init__(bundle.example_ids, memory_loader(self.images, 512), early, CPU)
        self.history: dict[int, list[bool]] = {int(i): [] for i in bundle.example_ids}
        self.early_logits: Tensor | None = None

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        super().on_batch(epoch, example_ids, labels, logits)
        for row, example_id in enumerate(example_ids.tolist()):
            best = max(range(10), key=lambda j: float(logits[row, j]))
            self.history[example_id].append(best == int(labels[row]))

    def on_epoch_end(self, epoch: int, model: SmallResNet) -> None:
        super().on_epoch_end(epoch, model)
        if epoch == 1:
            self.early_logits = forward(model, self.images.images)


def forward(model: SmallResNet, images: Tensor) -> Tensor:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            features = model.features(images.permute(0, 3, 1, 2))
        logits: Tensor = model.head(features.float())
    model.train(was_training)
    return logits.double()


def test_dynamics_match_slow_definitions(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same arithmetic on every machine, so that both sides see the same logits.
    monkeypatch.setattr("tamis.devices._cpu_has_bf16", lambda: True)
    watch = Recorder(bundle, early=2)
    loader = memory_loader(watch.images, 32, seed=0)
    trained = train(
        loader, SHORT, 10, steps=4 * len(loader), seeds=Seeds.from_one(0), device=CPU,
        observer=watch,
    )  # fmt: skip
    found = watch.finish(trained.model)
    for position, example_id in enumerate(bundle.example_ids.tolist()):
        seen = watch.history[example_id]
        assert len(seen) == 4
        events = sum(a and not b for a, b in itertools.pairwise(seen))
        assert found["forgetting"][position] == (events if any(seen) else 4)
    assert found["forgetting"].max() >= 1
    labels = torch.from_numpy(bundle.labels)
    assert watch.early_logits is not None
    p = watch.early_logits.softmax(1)
    el2n = (p - torch.nn.functional.one_hot(labels, 10)).norm(dim=1)
    assert found["el2n"] == pytest.approx(el2n.numpy(), rel=1e-5)
    final = forward(trained.model, watch.images.images)
    loss = torch.nn.functional.cross_entropy(final, labels, reduction="none")
    assert found["loss"] == pytest.approx(loss.numpy(), rel=1e-4, abs=1e-9)
    others = final.scatter(1, labels[:, None], -torch.inf).max(1).values
    margin = final.gather(1, labels[:, None])[:, 0] - others
    assert found["margin"] == pytest.approx(-margin.numpy(), rel=1e-5)
    p = final.softmax(1)
    assert found["entropy"] == pytest.approx((-(p * p.log()).sum(1)).numpy(), rel=1e-4)


def test_never_learned_examples_are_the_hardest() -> None:
    statistics, everyone = new_statistics(4, tracked=()), np.arange(4)
    # 0: always right; 1: right, wrong, right, wrong; 2: never right; 3: learned last.
    for right in ([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1]):
        logits = np.stack([np.zeros(4), np.where(right, 1, -1)], axis=1).astype(np.float32)
        score_and_update(logits, np.ones(4, np.int64), statistics, everyone)
    assert forgetting_scores(statistics, 4).tolist() == [0, 2, 4, 0]


def test_scores_are_means_over_models(bundle: Bundle) -> None:
    metrics = get_metrics(["el2n", "forgetting"])
    settings = CampaignSettings(replace(SHORT, epochs=2), models=2, seed=5)
    both = score(bundle, metrics, settings, CPU).table
    single = [
        score(bundle, metrics, replace(settings, models=1, seed=seed), CPU).table for seed in (5, 6)
    ]
    for name in ("el2n", "forgetting"):
        mean = np.mean([table.columns[name].values for table in single], axis=0)
        assert both.columns[name].values == pytest.approx(mean, rel=1e-6)
        first, second = (table.columns[name].values for table in single)
        assert not np.array_equal(first, second)


def test_one_campaign_serves_all_metrics_and_says_how(bundle: Bundle) -> None:
    settings = CampaignSettings(
        replace(SHORT, epochs=2), models=1, selfsup=SelfsupSettings(epochs=2), k=7
    )
    done = score(bundle, get_metrics(["all"]), settings, CPU)
    assert list(done.table.columns) == list(METRICS)
    assert done.table.bundle_digest == bundle.digest
    assert done.table.example_ids.tolist() == bundle.example_ids.tolist()
    for name, column in done.table.columns.items():
        assert column.info["metric"] == name
        assert column.info["labels_used"] == METRICS[name].labels
        assert column.values.std() > 0
    assert done.table.columns["margin"].info["flipped"] is True
    assert done.table.columns["selfsup-prototypes"].info["parameters"]["k"] == 7
    assert set(done.seconds) == {"ids", "dynamics", "embeddings"}
    # Hard by one is hard by another: loss, margin and entropy of one network agree in rank.
    columns = [done.table.columns[name].values for name in ("loss", "margin", "entropy")]
    assert rank_correlation(np.stack(columns)).min() > 0.6


def test_the_self_supervised_metric_never_touches_labels(bundle: Bundle) -> None:
    metrics = get_metrics(["selfsup-prototypes"])
    settings = CampaignSettings(
        replace(SHORT, epochs=1), selfsup=SelfsupSettings(epochs=1), k=10, seed=1
    )
    expected = score(bundle, metrics, settings, CPU).table.columns["selfsup-prototypes"].values
    shuffled = replace(bundle)
    # The cached property of the copy, so that everything downstream reads wrong labels.
    object.__setattr__(shuffled, "labels", np.random.default_rng(0).permutation(bundle.labels))
    found = score(shuffled, metrics, settings, CPU).table.columns["selfsup-prototypes"].values
    assert np.array_equal(found, expected)


def test_random_scores_are_uniform_and_belong_to_the_ids(
    bundle: Bundle, digits_bundle: Path
) -> None:
    parent = open_bundle(digits_bundle)
    settings = CampaignSettings(SHORT)
    whole = score(parent, get_metrics(["random"]), settings, CPU).table.columns["random"].values
    part = score(bundle, get_metrics(["random"]), settings, CPU).table.columns["random"].values
    assert np.array_equal(part, whole[parent.positions(bundle.example_ids)])
    assert np.histogram(whole, 4, (0, 1))[0] == pytest.approx(1347 / 4, rel=0.15)


def blobs(n: int, k: int, d: int = 16) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, d)) * 5
    labels = rng.integers(0, k, n)
    return (centres[labels] + rng.normal(size=(n, d))).astype(np.float32), labels


def test_kmeans_finds_planted_prototypes() -> None:
    rows, labels = blobs(2000, 8)
    prototypes = kmeans_prototypes(rows, 8, seed=0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.linalg.norm(prototypes, axis=1) == pytest.approx(1, abs=1e-5)
    means = np.stack([unit[labels == label].mean(0) for label in range(8)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    # From a random start, faiss finds four of the eight.
    assert (means @ prototypes.T).max(axis=1).min() > 0.999
    assert np.array_equal(prototypes, kmeans_prototypes(rows, 8, seed=0))


def test_prototype_distances_match_a_loop() -> None:
    rows, labels = blobs(200, 5)
    prototypes = kmeans_prototypes(rows, 6, seed=1)
    nearest, own = (
        nearest_prototype_distance(rows, prototypes),
        class_prototype_distance(rows, labels),
    )
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    for i in range(200):
        cosines = [u @ unit[i] / np.linalg.norm(u) for u in prototypes.astype(np.float64)]
        assert nearest[i] == pytest.approx(1 - max(cosines), abs=1e-6)
        centre = unit[labels == labels[i]].mean(0)
        assert own[i] == pytest.approx(1 - centre @ unit[i] / np.linalg.norm(centre), abs=1e-6)


def test_embeddings_from_a_file_are_used_in_the_bundle_s_order(
    bundle: Bundle, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(bundle.n_examples, 12)).astype(np.float32)
    np.save(tmp_path / "e.npy", rows)
    settings = CampaignSettings(SHORT, encoder=f"npy:{tmp_path / 'e.npy'}")
    table = score(bundle, get_metrics(["prototypes"]), settings, CPU).table
    expected = class_prototype_distance(rows, bundle.labels)
    assert np.array_equal(table.columns["prototypes"].values, expected)
    np.save(tmp_path / "e.npy", rows[1:])
    with pytest.raises(ScoreTableError, match=r"found an array \(399, 12\) of float32"):
        score(bundle, get_metrics(["prototypes"]), settings, CPU)


def test_pixels_are_the_images_themselves(bundle: Bundle) -> None:
    found = compute_embeddings(bundle, CampaignSettings(SHORT, encoder="pixels"), CPU)
    images = load_image_set(bundle, 8).images.permute(0, 3, 1, 2).reshape(400, -1)
    assert found == pytest.approx(images.numpy() / 255)


@pytest.mark.parametrize("encoder", ["swav", "npy:", "tamis:", "pixels:x", ""])
def test_unknown_encoders_are_refused(bundle: Bundle, encoder: str) -> None:
    with pytest.raises(UsageError, match="expected selfsup, pixels, tamis:RUN_DIR or npy:FILE"):
        compute_embeddings(bundle, CampaignSettings(SHORT, encoder=encoder), CPU)


def test_a_missing_run_is_refused_as_an_encoder(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a run folder"):
        compute_embeddings(bundle, CampaignSettings(SHORT, encoder=f"tamis:{tmp_path}"), CPU)


def test_unknown_metrics_name_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"some of random, loss, .*found el3n"):
        get_metrics(["el2n", "el3n"])
    assert [metric.name for metric in get_metrics(["loss", "el2n", "loss"])] == ["loss", "el2n"]

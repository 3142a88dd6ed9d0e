"""Campaigns: what is trained for which metrics, what is kept, and what comes out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from loading import memory_loader
from tamis.agreement import compare_tables
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.devices import autocast
from tamis.errors import BundleError, ScoreTableError, UsageError
from tamis.hashing import derived_seed
from tamis.loaders.memory_loader import ImageSet, load_image_set
from tamis.metrics.campaign import ScoreReport, plan_campaign, score
from tamis.metrics.evidence import SubsetRuns
from tamis.metrics.metric import FromSubsets, Metric, Needs, Snapshot
from tamis.metrics.registry import METRICS, get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.metrics.subset_runs import subset_mask
from tamis.models.network import Network
from tamis.prototypes import class_prototype_distance
from tamis.statistics import rank_correlation
from tamis.training.loop import Seeds, train
from tamis.training.recipes import RECIPES
from tamis.training.selfsup import SelfsupSettings
from tamis.zcore import ZCoreSettings
from tamis_kernels import memorization

CPU = torch.device("cpu")
SHORT = replace(RECIPES["digits"], epochs=4, width=8)


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """400 digits whose ids are not their positions."""
    path = tmp_path_factory.mktemp("metrics") / "part.beton"
    cut(open_bundle(digits_bundle), path, np.arange(0, 1200, 3))
    return open_bundle(path)


def logits_of(model: Network, part: ImageSet) -> torch.Tensor:
    """(n, 10) float64, in the batches of an evaluation."""
    found = []
    for start in range(0, len(part.labels), 512):
        with torch.no_grad():
            with autocast(CPU):
                pixels = part.images[start : start + 512].permute(0, 3, 1, 2)
                features = model.features(pixels).float()
            found.append(model.head(features).double())
    return torch.cat(found)


def answers(model: Network, part: ImageSet) -> NDArray[np.bool_]:
    """(n,) whether the network is right."""
    return (logits_of(model, part).argmax(1) == part.labels).numpy()


def test_scores_are_means_over_models(bundle: Bundle) -> None:
    settings = CampaignSettings(replace(SHORT, epochs=2), models=2, seed=5)
    found = score(bundle, get_metrics(["loss"]), settings, CPU).table.columns["loss"].values
    images, recipe, losses = load_image_set(bundle, SHORT.resolution), settings.recipe, []
    for number in range(2):
        seeds = Seeds.from_one(derived_seed(5, "whole", number))
        loader = memory_loader(images, recipe.batch_size, seed=seeds.order)
        model = train(loader, recipe, 10, steps=2 * len(loader), seeds=seeds, device=CPU).model
        logits = logits_of(model, images)
        loss = torch.nn.functional.cross_entropy(logits, images.labels, reduction="none")
        losses.append(loss.numpy())
    assert found == pytest.approx(np.mean(losses, axis=0), rel=1e-4, abs=1e-6)
    assert np.abs(losses[0] - losses[1]).max() > 0.01


def test_campaigns_of_neighbouring_seeds_share_no_network(bundle: Bundle) -> None:
    """Network 1 of --seed 0 was network 0 of --seed 1."""
    metrics = get_metrics(["el2n"])
    short = CampaignSettings(replace(SHORT, epochs=1), models=3)
    one, other = (score(bundle, metrics, replace(short, seed=s), CPU).table for s in (0, 1))
    assert compare_tables(one, other)["el2n"].n_examples == bundle.n_examples


@pytest.fixture(scope="module")
def test_bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """60 other digits."""
    path = tmp_path_factory.mktemp("metrics-test") / "test.beton"
    cut(open_bundle(digits_bundle), path, np.arange(1, 1200, 20))
    return open_bundle(path)


BRIEF = CampaignSettings(
    replace(SHORT, epochs=5, width=4),
    models=2,
    subset_models=10,
    selfsup=SelfsupSettings(epochs=1),
)


def test_one_campaign_serves_all_metrics_and_says_how(
    bundle: Bundle, test_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = partial(ZCoreSettings, n_samples=5000)  # a million take eight seconds
    monkeypatch.setattr("tamis.metrics.distances.ZCoreSettings", fewer)
    metrics = get_metrics(["all", "grand-full"])
    done = score(bundle, metrics, replace(BRIEF, k=(7,)), CPU, test=test_bundle)
    assert set(done.table.columns) == set(METRICS)
    assert done.table.bundle_digest == bundle.digest
    assert done.table.example_ids.tolist() == bundle.example_ids.tolist()
    for name, column in done.table.columns.items():
        assert column.info["metric"] == name
        assert column.info["labels_used"] == METRICS[name].labels
        assert column.values.std() > 0
    columns = done.table.columns
    assert columns["margin"].info["flipped"] is True
    assert columns["selfsup-prototypes"].info["parameters"]["k"] == 7
    assert columns["influence-max"].info["parameters"]["test"] == test_bundle.digest
    assert len(set(columns["memorization"].info["parameters"]["networks"])) == 10
    assert len(columns["el2n"].info["parameters"]["networks"]) == 2
    assert len(columns["el2n-1"].info["parameters"]["networks"]) == 1
    assert columns["tdds"].info["parameters"]["classes_kept"] == "all"
    assert set(done.seconds) == set(Needs)
    # Hard by one is hard by another: loss, margin and entropy of one network agree in rank.
    alike = [columns[name].values for name in ("loss", "margin", "entropy")]
    assert rank_correlation(np.stack(alike)).min() > 0.6


def counted_trainings(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[str]:
    """The kinds of trainings from now on, in a list that grows; one of them may fail."""
    seen: list[str] = []

    def counting(*args: Any, **options: Any) -> Any:
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        stop, words = options["stop_after"], options["label"].split()
        kind = next((word for word in ("subset", "acquisition") if word in words), "whole")
        seen.append(f"{kind} {stop}" if stop else kind)
        return train(*args, **options)

    monkeypatch.setattr("tamis.metrics.context.train", counting)
    return seen


def columns_of(report: ScoreReport) -> dict[str, list[float]]:
    return {name: column.values.tolist() for name, column in report.table.columns.items()}


def test_a_campaign_that_was_broken_off_goes_on(
    bundle: Bundle, test_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["el2n", "forgetting", "memorization", "influence-max", "active-learning"]
    metrics, work = get_metrics(names), tmp_path / "work"
    undisturbed = score(bundle, metrics, BRIEF, CPU, test=test_bundle)
    with monkeypatch.context() as patch:
        seen = counted_trainings(patch, fail_at=5)
        with pytest.raises(KeyboardInterrupt):
            score(bundle, metrics, BRIEF, CPU, test=test_bundle, work=work)
    assert seen == ["whole"] * 2 + ["subset"] * 3
    plan = plan_campaign(bundle, metrics, BRIEF, CPU, test=test_bundle, work=work)
    assert [(part.n, part.n_done) for part in plan.work] == [(2, 2), (10, 3), (2, 0)]
    seen = counted_trainings(monkeypatch)
    resumed = score(bundle, metrics, BRIEF, CPU, test=test_bundle, work=work)
    assert seen == ["subset"] * 7 + ["acquisition"] * 2
    assert columns_of(resumed) == columns_of(undisturbed)


def test_metrics_that_are_added_later_use_what_is_there(
    bundle: Bundle, test_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = get_metrics(["grand-full", "aum", "dual", "loss", "label-doubt", "influence-sum-abs"])
    at_once = score(bundle, later, BRIEF, CPU, test=test_bundle)
    score(bundle, get_metrics(["forgetting", "memorization"]), BRIEF, CPU, work=tmp_path)
    asked = list(tmp_path.glob("answers-000[0-3]-*.npz"))
    assert len(asked) == 4
    for answers in asked:  # as if another version had asked: the networks are still there
        answers.unlink()
    seen = counted_trainings(monkeypatch)
    reused = score(bundle, later, BRIEF, CPU, test=test_bundle, work=tmp_path)
    assert seen == []
    assert columns_of(reused) == columns_of(at_once)
    # A third network is the only one that is new; another rate shares nothing.
    score(bundle, get_metrics(["forgetting"]), replace(BRIEF, models=3), CPU, work=tmp_path)
    assert seen == ["whole"]
    other = replace(BRIEF, recipe=replace(BRIEF.recipe, learning_rate=0.05))
    score(bundle, get_metrics(["forgetting"]), other, CPU, work=tmp_path)
    assert seen == ["whole"] * 3


def test_early_metrics_alone_train_no_further(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(BRIEF, early_epoch=2, early_models=3)
    whole = score(bundle, get_metrics(["el2n", "loss"]), settings, CPU)
    seen = counted_trainings(monkeypatch)
    early = score(bundle, get_metrics(["el2n", "grand"]), settings, CPU)
    assert seen == ["whole 2"] * 3
    assert columns_of(early)["el2n"] == columns_of(whole)["el2n"]
    seen.clear()
    score(bundle, get_metrics(["el2n-1"]), settings, CPU)
    assert seen == ["whole 2"]
    seen.clear()
    score(bundle, get_metrics(["el2n", "loss"]), settings, CPU)
    assert seen == ["whole", "whole", "whole 2"]


def test_a_damaged_result_is_named(bundle: Bundle, tmp_path: Path) -> None:
    metrics, settings = get_metrics(["forgetting"]), replace(BRIEF, models=1)
    score(bundle, metrics, settings, CPU, work=tmp_path)
    (path,) = tmp_path.glob("full-*.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ScoreTableError, match=r"a damaged file .*; have the run repeated: rm "):
        score(bundle, metrics, settings, CPU, work=tmp_path)
    path.unlink()
    score(bundle, metrics, settings, CPU, work=tmp_path)
    for network in tmp_path.glob("early-*.pt"):
        network.unlink()
    with pytest.raises(ScoreTableError, match=r"\.pt: .*no file.*: rm .*\.npz"):
        score(bundle, get_metrics(["grand-full"]), settings, CPU, work=tmp_path)


def test_a_plan_counts_what_is_missing(bundle: Bundle, test_bundle: Bundle) -> None:
    settings = replace(BRIEF, early_models=5)
    plan = plan_campaign(bundle, get_metrics(["all"]), settings, CPU, test=test_bundle)
    kinds = {part.kind: (part.n, part.n_done) for part in plan.work}
    assert kinds == {
        "on the whole set": (2, 0),
        "on the whole set, to epoch 2 of 5": (3, 0),
        "on random 70 %": (10, 0),
        "on a subset that grows": (2, 0),
        "encoder selfsup": (1, 0),
    }
    assert plan.trainings == pytest.approx(2 + 3 * 2 / 5 + 7 + 1)
    assert plan.seconds > 0
    assert plan.disk_bytes > 2 * 4 * 400 * 10
    assert plan.not_estimated == ("selfsup-prototypes", "semdedup", "zcore")
    for part in plan.work:
        assert part.seconds is not None
        assert part.seconds > 0


def test_what_a_plan_says_of_the_disk_is_what_is_written(bundle: Bundle, tmp_path: Path) -> None:
    metrics = get_metrics(["el2n", "loss", "memorization", "active-learning", "zcore"])
    settings = replace(BRIEF, early_models=3)
    plan = plan_campaign(bundle, metrics, settings, CPU, work=tmp_path)
    score(bundle, metrics, settings, CPU, work=tmp_path)
    written = sum(
        array.nbytes
        for file in tmp_path.glob("*.npz")
        for name, array in np.load(file).items()
        if name != "network"
    )
    written += sum(np.load(file).nbytes for file in tmp_path.glob("*.npy"))
    assert plan.disk_bytes == pytest.approx(written, rel=0.1)


def test_a_damaged_test_set_is_found_before_anything_is_trained(
    bundle: Bundle, test_bundle: Bundle, tmp_path: Path
) -> None:
    data = bytearray(test_bundle.path.read_bytes())
    data[int(test_bundle.extents[50, 0, 0])] ^= 1
    (tmp_path / "test.beton").write_bytes(data)
    broken = open_bundle(tmp_path / "test.beton")
    for loader in ("memory", "ffcv"):
        settings, work = replace(BRIEF, loader=loader), tmp_path / "work"
        with pytest.raises(BundleError, match=r"in example 1001 \("):
            score(bundle, get_metrics(["influence-max"]), settings, CPU, test=broken, work=work)
        assert not work.exists()


def test_what_would_fail_later_is_refused_first(bundle: Bundle, test_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"expected a test set, .* pass --test"):
        score(bundle, get_metrics(["influence-max"]), BRIEF, CPU)
    with pytest.raises(UsageError, match="--test: expected a metric that needs it"):
        score(bundle, get_metrics(["memorization"]), BRIEF, CPU, test=test_bundle)
    brief = replace(BRIEF, recipe=replace(SHORT, epochs=4))
    with pytest.raises(UsageError, match="dual: expected a recipe of at least 5 epochs, found 4"):
        score(bundle, get_metrics(["dual"]), brief, CPU)
    with pytest.raises(UsageError, match="--k: expected a metric of embeddings"):
        score(bundle, get_metrics(["loss"]), replace(BRIEF, k=(5,)), CPU)
    with pytest.raises(UsageError, match="--k: expected different numbers"):
        replace(BRIEF, k=(5, 5))
    with pytest.raises(UsageError, match="expected a multiple of ten"):
        replace(BRIEF, subset_models=15)
    with pytest.raises(UsageError, match=r"expected 0\.1, 0\.2"):
        replace(BRIEF, subset_share=0.65)


def test_every_example_is_left_out_equally_often() -> None:
    ids = np.random.default_rng(0).permutation(100_000)[:3000]
    masks = np.stack([subset_mask(ids, 0.7, 5, number) for number in range(20)])
    for block in (masks[:10], masks[10:]):
        assert (block.sum(axis=0) == 7).all()
    assert masks.sum(axis=1) == pytest.approx(2100, rel=0.05)
    # Two examples are together as often as two independent draws.
    together = (masks[:, :-1] == masks[:, 1:]).mean()
    assert together == pytest.approx(0.7**2 + 0.3**2, abs=0.01)
    assert not np.array_equal(masks[:10], masks[10:])
    # It belongs to the example's id, whatever the rest of the set is.
    assert np.array_equal(subset_mask(ids[::2], 0.7, 5, 3), masks[3, ::2])


def test_memorization_and_influence_count_networks_with_and_without(
    bundle: Bundle, test_bundle: Bundle
) -> None:
    names = ["memorization", "influence-max", "influence-sum-abs"]
    columns = score(bundle, get_metrics(names), BRIEF, CPU, test=test_bundle).table.columns
    recipe = BRIEF.recipe
    images = load_image_set(bundle, recipe.resolution)
    test_images = load_image_set(test_bundle, recipe.resolution)
    masks = [subset_mask(bundle.example_ids, 0.7, BRIEF.seed, number) for number in range(10)]
    right, right_test, p_label = [], [], []
    for number, mask in enumerate(masks):
        # A network of the same seed, on the subset as a set of its own.
        subset, seeds = (
            images.subset(np.flatnonzero(mask)),
            Seeds.from_one(derived_seed(0, "subset", number)),
        )
        loader = memory_loader(subset, recipe.batch_size, seed=seeds.order)
        model = train(
            loader, recipe, 10, steps=recipe.epochs * len(loader), seeds=seeds, device=CPU
        ).model
        logits = logits_of(model, images)
        right.append((logits.argmax(1) == images.labels).numpy())
        p_label.append(logits.softmax(1)[torch.arange(len(logits)), images.labels].numpy())
        right_test.append(answers(model, test_images))
    for i in range(bundle.n_examples):
        inside = [number for number in range(10) if masks[number][i]]
        outside = [number for number in range(10) if not masks[number][i]]
        own = np.mean([right[k][i] for k in inside]) - np.mean([right[k][i] for k in outside])
        # Examples that are alike in the counts go by the probability of their label.
        own += 1e-3 * (0.5 - np.mean([p_label[k][i] for k in outside]))
        assert columns["memorization"].values[i] == pytest.approx(own, abs=2e-6)
        with_i = np.mean([right_test[k] for k in inside], axis=0)
        influence = with_i - np.mean([right_test[k] for k in outside], axis=0)
        assert columns["influence-max"].values[i] == pytest.approx(influence.max(), abs=1e-6)
        total = np.abs(influence).sum()
        assert columns["influence-sum-abs"].values[i] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("n_models", [10, 30, 600])
def test_probabilities_break_ties_of_memorization_and_nothing_else(n_models: int) -> None:
    n, rng = 500, np.random.default_rng(0)
    masks = np.array([subset_mask(np.arange(n), 0.7, 0, k) for k in range(n_models)])
    correct = rng.random((n_models, n)) < np.where(masks, 0.95, rng.random(n).round(1))
    p_label = rng.random(n)
    runs = SubsetRuns(
        [np.packbits(mask) for mask in masks], [np.packbits(row) for row in correct],
        [], None, np.zeros(n), p_label, n, 0,
    )  # fmt: skip
    reading = METRICS["memorization"].reading
    assert isinstance(reading, FromSubsets)
    found = reading.read(runs)
    counted = memorization(masks, correct)
    assert len(np.unique(counted)) < n
    assert np.abs(found - counted).max() <= 5e-4
    expected = np.lexsort((-p_label, np.rint(counted * 21 * n_models).astype(int)))
    assert np.array_equal(np.argsort(found, kind="stable"), expected)


def test_the_ensemble_acquires_what_it_is_unsure_of(bundle: Bundle, tmp_path: Path) -> None:
    found = score(bundle, get_metrics(["active-learning"]), BRIEF, CPU, work=tmp_path)
    values = found.table.columns["active-learning"].values
    assert (values == 1).sum() == 320
    before = np.ones(400, np.bool_)
    for number, size in ((0, 240), (1, 320)):
        (path,) = tmp_path.glob(f"acquisition-{number:04d}-*.npz")
        with np.load(path) as kept:
            chosen = np.unpackbits(kept["chosen"], count=400).astype(np.bool_)
            unsure = kept["unsure"]
        assert chosen.sum() == size
        if number:
            acquired = chosen[~before]
            assert unsure[acquired].min() >= unsure[~acquired].max()
            assert unsure.std() > 0
        before = chosen


def test_other_weights_than_were_written_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    settings = replace(BRIEF, models=1)
    score(bundle, get_metrics(["loss"]), settings, CPU, work=tmp_path)
    (path,) = tmp_path.glob("early-*.pt")
    kept = torch.load(path, weights_only=True)
    kept["state"]["head.weight"] += 0.25
    torch.save(kept, path)
    with pytest.raises(ScoreTableError, match=r"other weights than were written"):
        score(bundle, get_metrics(["grand-full"]), settings, CPU, work=tmp_path)


def test_a_kept_encoder_is_not_trained_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = get_metrics(["selfsup-prototypes"])
    first = score(bundle, metrics, replace(BRIEF, k=(5, 9)), CPU, work=tmp_path)
    assert list(first.table.columns) == ["selfsup-prototypes", "selfsup-prototypes-k9"]
    for path in tmp_path.glob("embeddings-*.npy"):
        path.unlink()  # as if the kill had come before they were whole
    monkeypatch.setattr("tamis.metrics.embeddings.train_encoder", None)
    again = score(bundle, metrics, replace(BRIEF, k=(5, 9)), CPU, work=tmp_path)
    assert columns_of(again) == columns_of(first)
    assert first.table.columns["selfsup-prototypes"].info["labels_used"] is False


def test_a_plan_after_another_early_epoch_counts_right(bundle: Bundle, tmp_path: Path) -> None:
    metrics = get_metrics(["loss", "el2n"])
    score(bundle, metrics, BRIEF, CPU, work=tmp_path)
    changed = replace(BRIEF, early_epoch=1, early_models=3)
    plan = plan_campaign(bundle, metrics, changed, CPU, work=tmp_path)
    assert [(part.n, part.n_done) for part in plan.work] == [(2, 2), (3, 0)]
    assert plan.trainings == pytest.approx(3 / 5)


def test_a_metric_of_one_s_own_needs_no_more_than_its_lines(bundle: Bundle) -> None:
    own = Metric(
        "second-guess",
        "the runner-up is close",
        labels=False,
        reading=Snapshot(
            "end", lambda outputs, scores: outputs.logits.softmax(1).topk(2).values[:, 1]
        ),
        source="probability of the second class at the end of training",
    )
    columns = score(bundle, [own, *get_metrics(["entropy"])], BRIEF, CPU).table.columns
    values = columns["second-guess"].values
    assert (values > 0).all()
    assert (values <= 0.5).all()
    assert rank_correlation(np.stack([values, columns["entropy"].values]))[0, 1] > 0.6


def test_sets_too_small_for_subsets_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    cut(bundle, tmp_path / "two.beton", bundle.example_ids[:2])
    with pytest.raises(UsageError, match="expected subsets that keep some examples and leave"):
        score(open_bundle(tmp_path / "two.beton"), get_metrics(["memorization"]), BRIEF, CPU)


def test_the_self_supervised_metric_never_touches_labels(bundle: Bundle) -> None:
    metrics = get_metrics(["selfsup-prototypes"])
    settings = CampaignSettings(
        replace(SHORT, epochs=1), selfsup=SelfsupSettings(epochs=1), k=(10,), seed=1
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


def test_unknown_metrics_name_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"all, quick, paper, or some of random, el2n, .*found el3n"
    ):
        get_metrics(["el2n", "el3n"])
    assert [metric.name for metric in get_metrics(["loss", "el2n", "loss"])] == ["loss", "el2n"]
    paper = [metric.name for metric in get_metrics(["paper"])]
    assert len(paper) == 11  # its ten, and the random baseline
    assert set(paper) < {metric.name for metric in get_metrics(["all"])}
    assert not any(metric.needs is Needs.SUBSET_RUNS for metric in get_metrics(["quick"]))

"""SemDeDup against loops in float64, and what it finds of planted copies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from tamis import duplicates as module
from tamis.duplicates import duplicates, semdedup_scores
from tamis.errors import UsageError
from tamis.hashing import example_uniform
from tamis.prototypes import kmeans_prototypes


def clustered(n: int, d: int = 24, centres: int = 12) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    middle = rng.normal(size=(centres, d))
    rows = middle[rng.integers(0, centres, n)] + 0.5 * rng.normal(size=(n, d))
    return (rows * rng.uniform(0.1, 20, (n, 1))).astype(np.float32)


def with_copies(
    rows: NDArray[np.float32], n_copies: int, noise: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows in random order, half of the copies exact; and for each which row it comes from."""
    rng = np.random.default_rng(1)
    sources = rng.choice(len(rows), n_copies, replace=False)
    copies = rows[sources].astype(np.float64)
    spread = np.linalg.norm(copies, axis=1, keepdims=True) / np.sqrt(copies.shape[1])
    copies[::2] += noise * (spread * rng.normal(size=copies.shape))[::2]
    every = np.concatenate([rows, copies.astype(np.float32)])
    order = rng.permutation(len(every))
    return every[order], np.concatenate([np.arange(len(rows)), sources])[order]


def slowly(
    rows: NDArray[np.float32], ids: NDArray[np.int64], k: int, seed: int, overlap: int
) -> list[float]:
    prototypes = kmeans_prototypes(rows, k, seed=seed).astype(np.float64)
    unit = [row / np.sqrt((row**2).sum()) for row in rows.astype(np.float64)]
    ties = example_uniform(ids, seed, "duplicates")
    homes, places = [], []
    for i, row in enumerate(unit):
        cosines = [row @ p / np.sqrt((p**2).sum()) for p in prototypes]
        order = sorted(range(k), key=lambda c: -cosines[c])
        homes.append(set(order[:overlap]))
        places.append((-np.float32(1 - cosines[order[0]]), ties[i]))
    scores = []
    for i in range(len(rows)):
        before = [j for j in range(len(rows)) if homes[i] & homes[j] and places[j] < places[i]]
        scores.append(min([1 - unit[i] @ unit[j] for j in before], default=2.0))
    return scores


@pytest.mark.parametrize(("k", "overlap"), [(1, 1), (1, 2), (6, 1), (6, 2), (40, 2)])
def test_the_same_is_removed_as_by_loops(
    k: int, overlap: Literal[1, 2], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = with_copies(clustered(220), 40, noise=0.1)
    ids = np.random.default_rng(2).permutation(5 * len(rows))[: len(rows)]
    expected = np.array(slowly(rows, ids, k, 3, overlap))
    monkeypatch.setattr(module, "_COSINES", 100 * k)
    for block in (2048, 7):  # all of a cluster at once, and in parts
        monkeypatch.setattr(module, "_BLOCK", block)
        found = semdedup_scores(rows, ids, k, seed=3, overlap=overlap)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, abs=1e-6)
        for eps in (0.001, 0.02, 0.1, 0.4, 2.0):
            assert np.array_equal(duplicates(found, eps), expected < eps)
    assert (found == 2).sum() <= k


def test_of_exact_duplicates_one_stays() -> None:
    rows = np.repeat(clustered(60), np.arange(1, 61) % 4 + 1, axis=0)
    groups = np.repeat(np.arange(60), np.arange(1, 61) % 4 + 1)
    order = np.random.default_rng(0).permutation(len(rows))
    rows, groups = rows[order], groups[order]
    rows *= np.exp2(np.arange(len(rows)) % 5 - 2)[:, None].astype(np.float32)  # same direction
    found = semdedup_scores(rows, np.arange(len(rows)), 5, seed=0)
    for group in range(60):
        assert (found[groups == group] > 0).sum() == 1
    assert np.array_equal(duplicates(found, 1e-9), found == 0)


def test_which_copy_stays_does_not_depend_on_its_place() -> None:
    rows = np.repeat(clustered(50), 2, axis=0)
    ids = np.random.default_rng(0).permutation(1000)[:100]
    kept = ids[semdedup_scores(rows, ids, 1, seed=0) > 0]
    again = ids[::-1][semdedup_scores(rows[::-1].copy(), ids[::-1], 1, seed=0) > 0]
    assert len(kept) == 50
    assert set(kept.tolist()) == set(again.tolist())
    # Nor is it always the first or the second.
    other = ids[semdedup_scores(rows, ids, 1, seed=1) > 0]
    assert 10 < len(set(kept.tolist()) & set(other.tolist())) < 40


def precision_and_recall(removed: NDArray[np.bool_], of: NDArray[np.int64]) -> tuple[float, float]:
    """Right is what has another of its group; found is a group of which one is left."""
    values, sizes = np.unique(of, return_counts=True)
    several = values[sizes > 1]
    left = np.array([(~removed[of == group]).sum() for group in several])
    return float(np.isin(of[removed], several).mean()), float((left == 1).mean())


@pytest.mark.parametrize("overlap", [1, 2])
def test_planted_copies_are_found(overlap: Literal[1, 2]) -> None:
    rows, of = with_copies(clustered(900, d=48), 200, noise=0.1)
    scores = semdedup_scores(rows, np.arange(len(rows)), 12, seed=0, overlap=overlap)
    precision, recall = precision_and_recall(duplicates(scores, 0.02), of)
    assert precision >= 0.95
    assert recall >= (0.95 if overlap == 1 else 0.99)


def test_a_second_cluster_finds_pairs_across_a_border() -> None:
    # Directions all round a circle: whatever the clusters, some pairs lie on two sides.
    angles = np.repeat(np.linspace(0, 2 * np.pi, 300, endpoint=False), 2)
    angles[::2] += 0.006
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ids = np.arange(600)
    one, two = (semdedup_scores(rows, ids, 30, seed=0, overlap=n) for n in (1, 2))
    pairs = ids // 2
    assert precision_and_recall(duplicates(one, 4e-5), pairs)[1] < 1
    assert precision_and_recall(duplicates(two, 4e-5), pairs) == (1, 1)


@pytest.mark.real_data
def test_planted_copies_of_real_images_are_found(real_data: Path) -> None:
    images = pq.read_table(real_data / "cifar10" / "train.parquet")["image"][:1000].to_pylist()
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))).reshape(-1) for image in images]
    rows = np.stack(pixels).astype(np.float32)
    rows, of = with_copies(rows - rows.mean(axis=0), 250, noise=0.1)
    scores = semdedup_scores(rows, np.arange(len(rows)), 10, seed=0)
    precision, recall = precision_and_recall(duplicates(scores, 0.02), of)
    assert precision >= 0.95
    assert recall >= 0.95


def test_what_cannot_be_compared_is_refused() -> None:
    rows, ids = clustered(30), np.arange(30)
    for bad in (0.0, np.nan, np.inf):
        broken = rows.copy()
        broken[4] = bad
        with pytest.raises(UsageError, match="expected rows with a direction, found 1 rows"):
            semdedup_scores(broken, ids, 3, seed=0)
    for k in (0, 30):
        with pytest.raises(UsageError, match=f"expected 1 to 29 prototypes .* found {k}"):
            semdedup_scores(rows, ids, k, seed=0)
    with pytest.raises(UsageError, match="expected 1 or 2 clusters an example, found 3"):
        semdedup_scores(rows, ids, 3, seed=0, overlap=3)  # type: ignore[arg-type]
    for eps in (0.0, -1.0, 2.1, np.nan):
        with pytest.raises(UsageError, match="eps: expected 0 < eps ≤ 2"):
            duplicates(np.ones(3, np.float32), eps)

"""Distances to class medians, and how far prototypes of different numbers agree."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis import prototypes as module
from tamis.errors import UsageError
from tamis.prototypes import (
    class_median_distance,
    class_prototype_distance,
    kmeans_prototypes,
)


def blobs(n: int, k: int, d: int = 10) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = 3 * rng.integers(0, k, n) - 4  # labels need not be 0 … k − 1
    rows = rng.normal(size=(3 * k, d))[labels % (3 * k)] + rng.normal(size=(n, d))
    return (rows * rng.uniform(0.5, 2, (n, 1))).astype(np.float32), labels


def test_median_distances_match_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = blobs(151, 4)
    labels[:5] = 99  # of 5 and, below, of one
    labels[5] = 100
    assert {np.sum(labels == label) % 2 for label in np.unique(labels)} == {0, 1}
    expected = []
    for row, label in zip(rows.astype(float), labels, strict=True):
        own = rows[labels == label].astype(float)
        centre = [statistics.median(own[:, j].tolist()) for j in range(10)]
        expected.append(np.sqrt(sum((row[j] - centre[j]) ** 2 for j in range(10))))
    for block in (8192, 3):  # all of a class at once, and in parts
        monkeypatch.setattr(module, "_ROWS", block)
        monkeypatch.setattr(module, "_COLUMNS", block)
        found = class_median_distance(rows, labels)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, rel=1e-6)
    assert found[5] == 0


def test_a_median_is_not_moved_by_outliers() -> None:
    rows, labels = blobs(400, 2)
    before = class_median_distance(rows, labels)
    spoilt = rows.copy()
    spoilt[:20] = 1e6
    after = class_median_distance(spoilt, labels)
    assert after[:20].min() > 1e6
    assert np.abs(after[20:] - before[20:]).max() < 1


def test_class_prototypes_match_a_loop() -> None:
    rows, labels = blobs(90, 3)
    found = class_prototype_distance(rows, labels)
    unit = [row / np.sqrt((row**2).sum()) for row in rows.astype(np.float64)]
    for i in range(90):
        centre = sum(unit[j] for j in range(90) if labels[j] == labels[i])
        assert found[i] == pytest.approx(1 - centre @ unit[i] / np.sqrt(centre @ centre), abs=1e-6)


def test_embeddings_without_a_distance_are_refused() -> None:
    rows, labels = blobs(40, 2)
    for bad in (0.0, np.nan, 1e19):
        broken = rows.copy()
        broken[:3] = bad
        with pytest.raises(UsageError, match="expected rows with a direction, found 3 rows"):
            kmeans_prototypes(broken, 3, seed=0)
        with pytest.raises(UsageError, match="expected rows with a direction, found 3 rows"):
            class_prototype_distance(broken, labels)
        if bad == 0:  # a point like any other
            assert np.isfinite(class_median_distance(broken, labels)).all()
            continue
        with pytest.raises(UsageError, match="expected finite rows, found 3 rows"):
            class_median_distance(broken, labels)


def test_numbers_of_prototypes_out_of_range_are_refused() -> None:
    rows, _ = blobs(40, 2)
    for k in (40, 0):
        with pytest.raises(UsageError, match="expected 1 to 39 prototypes for 40 examples"):
            kmeans_prototypes(rows, k, seed=0)

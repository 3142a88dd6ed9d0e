"""ZCore against loops in float64 over the same drawn points."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tamis import zcore
from tamis.errors import UsageError
from tamis.hashing import example_hash, example_uniform
from tamis.progress import Advance
from tamis.zcore import ZCoreSettings, draw_samples, zcore_scores

SHORT = ZCoreSettings(n_samples=1500, n_neighbours=40, seed=3)


def embedded(n: int, d: int, step: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Normal numbers, rounded to ``step``, with ids that are not positions."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(n, d)) * rng.uniform(0.1, 3, d)
    rows = np.round(rows / step) * step if step else rows
    return rows.astype(np.float32), rng.permutation(10 * n)[:n]


def slowly(
    rows: NDArray[np.float32],
    ids: NDArray[np.int64],
    how: ZCoreSettings,
    precision: type[np.floating],
) -> NDArray[np.float64]:
    dimensions, points = draw_samples(np.ascontiguousarray(rows.T), how)
    ties = example_hash(ids, how.seed, "zcore")
    scores = np.zeros(len(rows))
    if how.random_start:
        scores += example_uniform(ids, how.seed, "zcore-start")
    for subspace, point in zip(dimensions, points.astype(precision), strict=True):
        coordinates = rows[:, subspace].astype(precision)
        covered = np.lexsort((ties, np.abs(coordinates - point).sum(axis=1)))[0]
        scores[covered] += 1
        distances = np.abs(coordinates - coordinates[covered]).sum(axis=1)
        others = [i for i in np.lexsort((ties, distances)) if i != covered][: how.n_neighbours]
        if distances[others[0]] == 0:
            scores[others[0]] -= 1
            continue
        weights = [1 / float(distances[i]) ** how.exponent for i in others]
        for i, weight in zip(others, weights, strict=True):
            scores[i] -= weight / sum(weights)
    scores -= scores.min()
    result: NDArray[np.float64] = scores / scores.max()
    return result


@pytest.mark.parametrize(
    ("n", "d", "step", "changes"),
    [
        (300, 6, 0, {}),
        (300, 6, 0, {"n_dimensions": 3, "n_neighbours": 1000, "exponent": 1}),
        (300, 4, 0, {"n_dimensions": 1, "n_neighbours": 1, "random_start": False}),
        (300, 4, 0.25, {}),  # equal rows
        (400, 3, 1 / 16, {"n_dimensions": 3, "n_neighbours": 7}),  # equal distances
        (5000, 4, 0, {"n_samples": 300, "n_neighbours": 20}),  # more than the first rows
        (5000, 2, 1 / 32, {"n_samples": 300, "n_neighbours": 20}),
        (2, 2, 0, {"n_samples": 20}),
    ],
)
def test_scores_are_those_of_loops(
    n: int, d: int, step: float, changes: dict[str, int | bool]
) -> None:
    rows, ids = embedded(n, d, step)
    how = replace(SHORT, **changes)  # type: ignore[arg-type]
    found = zcore_scores(rows, ids, how)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    # On a grid many distances are equal, but for rounding.
    expected = slowly(rows, ids, how, np.float32 if step else np.float64)
    assert found == pytest.approx(expected, abs=1e-6)


def test_scores_belong_to_examples_not_to_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, ids = embedded(500, 5, step=0.1)
    found = zcore_scores(rows, ids, SHORT)
    order = np.random.default_rng(0).permutation(500)
    for cores in (1, 3):
        monkeypatch.setattr(zcore, "n_cores", lambda cores=cores: cores)
        assert np.array_equal(zcore_scores(rows[order], ids[order], SHORT), found[order])
    assert not np.array_equal(zcore_scores(rows, ids, replace(SHORT, seed=4)), found)


@pytest.mark.parametrize("reach", [0.0, np.inf])
def test_wrong_guesses_of_the_reach_cost_only_time(
    reach: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, ids = embedded(5000, 3, step=1 / 64)
    how = replace(SHORT, n_samples=200, n_neighbours=30)
    expected = zcore_scores(rows, ids, how)
    monkeypatch.setattr(zcore, "_score_samples", zcore._score_samples.py_func)
    monkeypatch.setattr(zcore, "_reach", lambda *_: np.float32(reach))
    assert np.array_equal(zcore_scores(rows, ids, how), expected)


def test_points_are_triangular_in_random_subspaces() -> None:
    columns = np.ascontiguousarray(embedded(501, 5)[0].T)
    columns[4] = 2.5
    columns[3] **= 2  # skewed
    how = ZCoreSettings(n_samples=20_000, n_dimensions=2)
    dimensions, points = draw_samples(columns, how)
    assert dimensions.dtype == np.int64
    assert points.dtype == np.float32
    subspaces, counts = np.unique(dimensions, axis=0, return_counts=True)
    assert subspaces.tolist() == [[a, b] for a in range(5) for b in range(a + 1, 5)]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (points[dimensions == 4] == 2.5).all()
    for at in range(4):
        low, mode, high = columns[at].min(), np.median(columns[at]), columns[at].max()
        law = stats.triang((mode - low) / (high - low), low, high - low)
        assert stats.kstest(points[dimensions == at], law.cdf).pvalue > 1e-3
    every = replace(how, n_samples=50, n_dimensions=5)
    assert (draw_samples(columns, every)[0] == np.arange(5)).all()


def test_sparse_regions_come_first_and_of_copies_one() -> None:
    rng = np.random.default_rng(0)
    dense, sparse = rng.normal(size=(950, 8)), 4 * rng.normal(size=(50, 8))
    rows = np.concatenate([dense, sparse, sparse]).astype(np.float32)
    found = zcore_scores(rows, np.arange(1050), ZCoreSettings(n_samples=20_000))
    dense_scores, first, second = found[:950], found[950:1000], found[1000:]
    better, worse = np.maximum(first, second), np.minimum(first, second)
    assert better.min() > np.quantile(dense_scores, 0.95)
    assert worse.max() < np.quantile(dense_scores, 0.05)
    assert 10 < (first > second).sum() < 40


def test_equal_rows_have_scores_too() -> None:
    found = zcore_scores(np.ones((40, 3), np.float32), np.arange(40), SHORT)
    assert np.isfinite(found).all()
    assert (found.min(), found.max()) == (0, 1)


class Counter:
    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0

    def task(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
        self.total = total
        return nullcontext(self.advance)

    def advance(self, units: int = 1, /) -> None:
        self.done += units


def test_progress_is_told() -> None:
    counter = Counter()
    zcore_scores(*embedded(50, 3), SHORT, progress=counter)
    assert (counter.total, counter.done) == (1500, 1500)


def test_what_has_no_scores_is_refused() -> None:
    rows, ids = embedded(30, 3)
    for bad in (np.nan, np.inf, 1e19):
        broken = rows.copy()
        broken[[4, 7], 1] = bad
        with pytest.raises(UsageError, match="expected finite rows, found 2 rows"):
            zcore_scores(broken, ids, SHORT)
    for few in (rows[:1], rows[:, :1]):
        with pytest.raises(UsageError, match="expected at least 2 rows of at least 2 numbers"):
            zcore_scores(few, ids[: len(few)], SHORT)
    for name in ("n_samples", "n_dimensions", "n_neighbours", "exponent"):
        with pytest.raises(UsageError, match=f"zcore {name}: expected 1 to .*, found 0"):
            replace(SHORT, **{name: 0})  # type: ignore[arg-type]

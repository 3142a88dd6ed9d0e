"""Agreement of metrics with each other and between campaigns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tamis.agreement import cluster_metrics, compare_tables, correlate
from tamis.errors import ScoreTableError
from tamis.report.plots import correlation_plot
from tamis.score_table import ScoreColumn, ScoreTable


def table(columns: dict[str, NDArray[np.float32]], digest: str = "d") -> ScoreTable:
    n = len(next(iter(columns.values())))
    made = {name: ScoreColumn(values) for name, values in columns.items()}
    return ScoreTable(digest, np.arange(n) * 3, np.zeros(n, np.int32), [None] * n, made)


def two_families() -> dict[str, NDArray[np.float32]]:
    """a, c, e are one thing with noise; b, d another; f is constant."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 500))
    made = {
        name: base + 0.3 * rng.normal(size=500)
        for name, base in zip("abcde", (one, other, one, other, one), strict=True)
    }
    return {name: values.astype(np.float32) for name, values in made.items()} | {
        "f": np.ones(500, np.float32)
    }


def test_alike_metrics_stand_side_by_side() -> None:
    scores = two_families()
    matrix = correlate(table(scores))
    names = list(scores)
    for i, j in [(0, 2), (1, 4), (3, 1)]:
        rho = stats.spearmanr(scores[names[i]], scores[names[j]]).statistic
        assert matrix[i, j] == pytest.approx(rho, abs=1e-12)
    order = "".join(names[place] for place in cluster_metrics(matrix).order)
    assert sorted(order) == sorted("abcdef")
    for family in ("ace", "bd"):
        places = sorted(order.index(name) for name in family)
        assert places[-1] - places[0] == len(family) - 1


def test_campaigns_are_compared_by_example() -> None:
    scores = two_families()
    one = table(scores)
    shuffled = np.random.default_rng(1).permutation(500)[:300]
    other = replace(
        one,
        example_ids=one.example_ids[shuffled],
        labels=one.labels[shuffled],
        paths=[None] * 300,
        columns={name: ScoreColumn(one.columns[name].values[shuffled]) for name in "ab"},
    )
    found = compare_tables(one, other)
    assert list(found) == ["a", "b"]
    assert found["a"].spearman == pytest.approx(1)
    assert found["a"].hardest == 1
    assert found["a"].n_examples == 300
    unlike = replace(one, columns={"a": one.columns["b"]})
    assert abs(compare_tables(one, unlike)["a"].spearman) < 0.15
    assert compare_tables(one, unlike)["a"].hardest < 0.3


def test_ties_agree_by_chance_only() -> None:
    rng = np.random.default_rng(2)
    tied = [(rng.random(5000) < 0.8).astype(np.float32) for _ in range(2)]
    one, other = (table({"a": values}) for values in tied)
    assert compare_tables(one, other)["a"].hardest == pytest.approx(0.1, abs=0.04)


def test_campaigns_that_share_networks_are_refused() -> None:
    scores = two_families()["a"]
    info = [{"parameters": {"networks": names}} for names in (["n1", "n2"], ["n2", "n3"])]
    one, other = (
        replace(table({"a": scores}), columns={"a": ScoreColumn(scores, about)}) for about in info
    )
    with pytest.raises(ScoreTableError, match="the same networks behind a; score the second"):
        compare_tables(one, other)


def test_what_cannot_be_compared_is_refused() -> None:
    one = table(two_families())
    with pytest.raises(ScoreTableError, match="expected two of the same bundle"):
        compare_tables(one, replace(one, bundle_digest="e"))
    with pytest.raises(ScoreTableError, match="expected metrics and examples that both hold"):
        compare_tables(one, replace(one, columns={"g": one.columns["a"]}))


def test_the_plot_stands_one_metric_and_constant_ones() -> None:
    scores = two_families()
    for names in (["a"], list(scores)):
        matrix = correlate(table({name: scores[name] for name in names}))
        figure = correlation_plot(names, matrix)
        labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
        assert sorted(labels) == sorted(names)

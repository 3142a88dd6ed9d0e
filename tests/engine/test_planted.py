"""Wrong labels and copies of known place, in real digits: what the scores make of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.metrics.campaign import score
from tamis.metrics.registry import get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.score_table import ScoreTable
from tamis.sources.base import SourceItem
from tamis.sources.opening import open_source
from tamis.training.recipes import RECIPES

N = 700  # the first of digits:train
FLIPPED = np.arange(5, N, 20)  # 5 %
COPIED = np.arange(12, N, 40)  # none of them flipped


class Planted:
    """The digits with some wrong labels, and some images once more."""

    def __init__(self) -> None:
        self._digits: Any = open_source("digits:train")
        self._order = [*range(N), *COPIED.tolist()]
        self._wrong = set(FLIPPED.tolist())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._digits, name)

    def __len__(self) -> int:
        return len(self._order)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        images = list(itertools.islice(self._digits.items(), N))
        for position in self._order[start:]:
            item = images[position]
            shift = 1 + position % 9 if position in self._wrong else 0
            yield replace(item, label=(item.label + shift) % 10, path=None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("planted") / "planted.beton"
    convert(Planted(), path)
    return open_bundle(path)


@pytest.fixture(scope="module")
def table(bundle: Bundle) -> ScoreTable:
    settings = CampaignSettings(RECIPES["digits"], models=2, subset_models=10, encoder="pixels")
    names = ["el2n", "aum", "forgetting", "memorization", "label-doubt", "label-errors", "semdedup"]
    return score(bundle, get_metrics(names), settings, torch.device("cpu")).table


def hardest(values: NDArray[np.float32]) -> set[int]:
    return set(np.argsort(-values, kind="stable")[: len(values) // 10].tolist())


@pytest.mark.parametrize(
    "metric", ["el2n", "aum", "forgetting", "memorization", "label-doubt", "label-errors"]
)
def test_wrong_labels_are_among_the_hardest(table: ScoreTable, metric: str) -> None:
    found = hardest(table.columns[metric].values) & set(FLIPPED.tolist())
    assert len(found) / len(FLIPPED) >= 0.6


def test_wrong_labels_are_flagged(table: ScoreTable) -> None:
    flagged = np.flatnonzero(table.columns["label-errors"].values >= 0.5)
    right = np.isin(flagged, FLIPPED).mean()
    assert right > 0.7
    assert np.isin(FLIPPED, flagged).mean() > 0.7


def test_copies_are_not_memorized(table: ScoreTable) -> None:
    values = table.columns["memorization"].values
    copies = np.concatenate([COPIED, np.arange(N, N + len(COPIED))])
    assert abs(values[copies].mean()) < 0.05
    assert values[FLIPPED].mean() > 0.3


def test_one_of_each_pair_is_removed(table: ScoreTable) -> None:
    removed = set(np.flatnonzero(table.columns["semdedup"].values < 1e-6).tolist())
    pairs = [(int(original), N + i) for i, original in enumerate(COPIED)]
    assert [len(removed & set(pair)) for pair in pairs] == [1] * len(pairs)
    assert len(removed) == len(pairs)

from __future__ import annotations

import zlib
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.hashing import example_hash, example_uniform, shuffled_order

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
KNOWN_ORDER = [
    3128478729512336779,
    17506939150858895482,
    12024200691480765130,
    11344995131019487392,
    13483815882242992709,
]
KNOWN_TIE = [
    2237467913323280339,
    7555757775079427920,
    13290292080859148100,
    742667337766072287,
    4301552610779011252,
]
KNOWN_SHUFFLE = [9, 11, 6, 10, 0, 2, 3, 7, 5, 1, 8, 4]
any_id = st.integers(-(2**63), 2**63 - 1)


def splitmix(value: int) -> int:
    """The finaliser of splitmix64 on Python integers (Steele et al. 2014, figure 4)."""
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def hash_of(example_id: int, seed: int, purpose: str, *extra: int) -> int:
    key = seed & MASK
    for word in (zlib.crc32(purpose.encode()), *extra):
        key = splitmix(key ^ (word + 1) * GOLDEN & MASK)
    return splitmix(splitmix((example_id * GOLDEN + key) & MASK))


def test_known_values() -> None:
    # Written down once: every score tie, order and augmentation of published runs hangs on them.
    ids = np.array([0, 1, 2, 1_281_166, -1], np.int64)
    assert example_hash(ids, 0, "order", 0).tolist() == KNOWN_ORDER
    assert example_hash(ids, 12345, "tie").tolist() == KNOWN_TIE
    assert shuffled_order(np.arange(12), 7, 3).tolist() == KNOWN_SHUFFLE


@given(any_id, st.integers(-(2**70), 2**70), st.text(max_size=5), st.lists(any_id, max_size=3))
def test_matches_the_definition_on_integers(
    example_id: int, seed: int, purpose: str, extra: list[int]
) -> None:
    found = example_hash(np.array([example_id]), seed, purpose, *extra)
    assert found.dtype == np.uint64
    assert found.tolist() == [hash_of(example_id, seed, purpose, *extra)]


def test_uniform_is_the_top_53_bits() -> None:
    ids = np.arange(1000)
    expected = [(hash_of(i, 3, "flip", 9) >> 11) / 2**53 for i in range(1000)]
    found = example_uniform(ids, 3, "flip", 9)
    assert found.tolist() == expected
    assert found.min() >= 0
    assert found.max() < 1


@pytest.mark.parametrize("stride", [1, 2, 4096, 2**40])  # ids of cut bundles, shards, packed ids
@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_uniformity(stride: int, seed: int) -> None:
    draws = example_uniform(np.arange(65536) * stride, seed, "order", 0)
    for values in (draws, np.modf(draws * 2**32)[0]):  # high and low bits
        counts = np.bincount((values * 256).astype(np.int64), minlength=256)
        chi_square = ((counts - 256) ** 2 / 256).sum()
        # 255 degrees of freedom: mean 255, standard deviation 22.6; ±6 of them.
        assert 255 - 136 < chi_square < 255 + 136


def test_independence_of_purposes_seeds_and_epochs() -> None:
    ids = np.arange(20_000)
    columns = {
        (seed, purpose, epoch): example_uniform(ids, seed, purpose, epoch)
        for seed in (0, 1)
        for purpose in ("order", "tie", "flip")
        for epoch in (0, 1)
    }
    assert len(columns) == 12
    for (name, a), (other, b) in combinations(columns.items(), 2):
        correlation = np.corrcoef(a, b)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(len(ids)), (name, other)
        # Nor is one a shifted copy of the other: shared values would give it away.
        assert len(np.intersect1d(a, b)) == 0, (name, other)


def test_neighbouring_seeds_and_epochs_do_not_share_orders() -> None:
    # FFCV seeds its orders with seed + epoch, so that seed 1's epoch 0 is seed 0's epoch 1.
    ids = np.arange(500)
    orders = {tuple(shuffled_order(ids, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(st.sets(st.integers(0, 10**9), min_size=1, max_size=60), st.integers(0, 99), st.data())
def test_the_order_of_a_subset_is_a_subsequence(
    ids: set[int], epoch: int, data: st.DataObject
) -> None:
    full = np.array(data.draw(st.permutations(sorted(ids))), np.int64)
    subset = np.array(data.draw(st.lists(st.sampled_from(sorted(ids)), unique=True)), np.int64)
    in_full = full[shuffled_order(full, 4, epoch)]
    in_subset = subset[shuffled_order(subset, 4, epoch)]
    assert in_subset.tolist() == in_full[np.isin(in_full, subset)].tolist()


def test_an_order_is_a_permutation_and_depends_on_ids_alone() -> None:
    ids = np.random.default_rng(0).permutation(5000)
    order = shuffled_order(ids, 1, 0)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(5000))
    assert not np.array_equal(order, np.arange(5000))
    # The same examples at other positions come in the same order of ids.
    elsewhere = np.sort(ids)
    assert np.array_equal(ids[order], elsewhere[shuffled_order(elsewhere, 1, 0)])


def test_no_ids() -> None:
    none = np.array([], np.int64)
    assert example_hash(none, 0, "order").shape == (0,)
    assert shuffled_order(none, 0, 0).shape == (0,)

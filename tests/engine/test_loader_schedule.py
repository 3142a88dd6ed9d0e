"""Which examples make up which batch, for every shape of data, batch and shards."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import UsageError
from tamis.loaders.schedule import Schedule
from tamis.loaders.settings import LoaderSettings, Order

ORDERS = st.sampled_from(["bundle", "random", "quasi_random"])


def schedules(
    n: int, batch_size: int, shards: int, mode: Literal["score", "train"], order: Order
) -> list[Schedule]:
    ids = np.random.default_rng(n).permutation(3 * n + 1)[:n]
    pages = np.arange(n) // 7
    return [
        Schedule(
            ids,
            LoaderSettings(batch_size, 8, mode, order, seed=n, shard=(i, shards)),
            pages=pages,
        )
        for i in range(shards)
    ]


@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 9), ORDERS, st.integers(0, 3))
def test_nothing_is_dropped_padded_or_doubled_in_score_mode(
    n: int, batch_size: int, shards: int, order: Order, epoch: int
) -> None:
    seen: list[int] = []
    for schedule in schedules(n, batch_size, shards, "score", order):
        schedule.set_epoch(epoch)
        batches = schedule.batches(schedule.begin())
        assert len(schedule) == len(batches)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert sum(map(len, batches)) == schedule.n_examples
        seen += np.concatenate([[], *batches]).astype(int).tolist()
    assert sorted(seen) == list(range(n))


@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 9), ORDERS)
def test_shards_that_train_together_have_as_many_batches(
    n: int, batch_size: int, shards: int, order: Order
) -> None:
    if n < shards:
        with pytest.raises(UsageError, match="as many batches for each"):
            schedules(n, batch_size, shards, "train", order)
        return
    parts = [s.batches(s.begin()) for s in schedules(n, batch_size, shards, "train", order)]
    assert len({len(batches) for batches in parts}) == 1
    together = [position for batches in parts for batch in batches for position in batch.tolist()]
    assert sorted(together) == list(range(n))
    for at_once in zip(*parts, strict=True):  # all shards' batches of one step
        sizes = [len(batch) for batch in at_once]
        assert min(sizes) >= 1
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 120), st.integers(1, 30), st.integers(1, 4), ORDERS, st.data())
def test_going_on_from_any_batch(
    n: int, batch_size: int, shards: int, order: Order, data: st.DataObject
) -> None:
    for schedule, fresh in zip(
        *(schedules(n, batch_size, shards, "score", order) for _ in range(2)), strict=True
    ):
        schedule.set_epoch(2)
        batches = schedule.batches(schedule.begin())
        if not batches:
            continue
        given_last = data.draw(st.integers(0, len(batches) - 1))
        schedule.given(2, given_last)
        schedule.given(1, 0)  # of an iteration that began before
        fresh.load_state_dict(schedule.state_dict())
        rest = fresh.batches(fresh.begin())
        assert [b.tolist() for b in rest] == [b.tolist() for b in batches[given_last + 1 :]]
        assert fresh.begin() == 0  # once


def test_quasi_random_order_mixes_few_pages_at_a_time() -> None:
    n, per_page = 20_000, 50  # 400 pages, in windows of 64
    pages = np.arange(n) // per_page
    settings = LoaderSettings(100, 8, "train", "quasi_random", seed=3)
    schedule = Schedule(np.arange(n), settings, pages=pages)
    order = np.concatenate(schedule.batches(0))
    windows = [set(pages[order[i : i + 64 * per_page]]) for i in range(0, n, 64 * per_page)]
    assert [len(window) for window in windows] == [64] * 6 + [16]
    assert len(set().union(*windows)) == 400
    # Within a window, at random: a batch of 100 meets some 50 of its 64 pages.
    met = [len(set(pages[batch])) for batch in schedule.batches(0)[:30]]
    assert min(met) > 35
    # And windows are of pages from everywhere.
    assert np.ptp(sorted(windows[0])) > 300

"""influence_reduce and memorization against tiled products and sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tamis.benchmarks.kernels.gpu import Gpu
from tamis.benchmarks.kernels.processor import READ, read_all, read_ceiling
from tamis.benchmarks.kernels.protocol import Bench, Sizes, agree
from tamis.benchmarks.measuring import Row, row
from tamis_kernels.influence import influence_reduce, memorization

__all__ = ["bench_influence"]

_TILE = 1024  # training examples; of 256 to 8192 the fastest on a CPU
_GPU_TILE = 16384
_INSIDE = 0.7  # share of the training set that a model has seen (Feldman & Zhang 2020)


def bench_influence(bench: Bench) -> Iterator[Row]:
    """Training examples a second."""
    if bench.cpu:
        yield from _influence(bench, bench.cpu)
        yield from _memorization(bench, bench.cpu)
    if bench.gpu and bench.card:
        yield from _on_gpu(bench, bench.card, bench.gpu)


def _influence(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    peer = bench.peer("torch", f"float32 product, tiles of {_TILE}")
    if peer is None:
        return
    from torch import from_numpy

    masks, correct = _data(sizes.models, sizes.train, sizes.test)
    masks_t, correct_t = from_numpy(masks), from_numpy(correct)
    ours = influence_reduce(masks, correct)
    theirs = _by_products(masks_t, correct_t, _TILE)
    agree("largest influence", ours.max, theirs[0], within=1e-5)
    agree("sum of |influence|", ours.sum_abs, theirs[1], within=1e-4)
    seconds = bench.timed(
        {
            "tamis": lambda: influence_reduce(masks, correct),
            "torch": lambda: _by_products(masks_t, correct_t, _TILE),
        }
    )
    # Counting common bits is a product of zeros and ones; no product's ceiling is one to it.
    work = 2.0 * sizes.models * sizes.train * sizes.test / 1e9
    found = row(
        f"influence_reduce {sizes.train:,} × {sizes.test:,}, {sizes.models:,} models",
        sizes.train,
        "examples/s",
        seconds["tamis"],
        peer=peer,
        peer_seconds=seconds["torch"],
    )
    yield replace(found, achieved=work / seconds["tamis"], achieved_unit="Gop/s")


def _memorization(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    masks, correct = _data(sizes.models, sizes.train, sizes.train)
    agree("memorization", memorization(masks, correct), _by_sums(masks, correct), within=1e-5)
    seconds = bench.timed(
        {
            "tamis": lambda: memorization(masks, correct),
            "numpy": lambda: _by_sums(masks, correct),
            READ: read_all(masks),
        }
    )
    yield row(
        f"memorization {sizes.train:,}, {sizes.models:,} models",
        sizes.train,
        "examples/s",
        seconds["tamis"],
        peer=bench.peer("numpy", "sums"),
        peer_seconds=seconds["numpy"],
    ).of(2 * masks.nbytes / 1e9, seconds["tamis"], read_ceiling(masks, seconds[READ]))


def _on_gpu(bench: Bench, card: Gpu, sizes: Sizes) -> Iterator[Row]:
    import torch

    made = _data(sizes.models, sizes.train, sizes.test)
    masks, correct = (torch.from_numpy(array).to(card.device) for array in made)
    ours = influence_reduce(masks, correct)
    theirs = _by_products(masks, correct, _GPU_TILE)
    agree("largest influence", ours.max, theirs[0], within=1e-5)
    agree("sum of |influence|", ours.sum_abs, theirs[1], within=1e-4)
    contenders = {
        "tamis": card.captured(lambda: influence_reduce(masks, correct)),
        "torch": lambda: _by_products(masks, correct, _GPU_TILE),
        **card.products(sizes.product_side),
    }
    seconds = card.timed(contenders, bench)
    yield row(
        f"GPU influence_reduce {sizes.train:,} × {sizes.test:,}, {sizes.models:,} models, graph",
        sizes.train,
        "examples/s",
        seconds["tamis"],
        peer=f"torch {torch.__version__} bfloat16 product, tiles of {_GPU_TILE:,}",
        peer_seconds=seconds["torch"],
    ).of(
        2.0 * sizes.models * sizes.train * sizes.test / 1e12,
        seconds["tamis"],
        card.product_ceiling(sizes.product_side, "bfloat16 product", seconds),
    )


def _data(n_models: int, n_train: int, n_test: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    masks = rng.random((n_models, n_train), np.float32) < _INSIDE
    correct = rng.random((n_models, n_test), np.float32) < np.linspace(0.2, 0.95, n_test)
    return masks, correct


def _by_products(masks: Any, correct: Any, tile: int) -> tuple[Any, Any]:
    """The two reductions as one writes them with torch: A·(1/a + 1/(m−a)) − C/(m−a) by tiles.

    Products are of zeros and ones and summed in float32, so they are exact in any precision.
    """
    import torch

    on_gpu = masks.is_cuda
    right = correct.to(torch.bfloat16 if on_gpu else torch.float32)
    total = correct.sum(0, dtype=torch.float32)[None, :]
    largest, sums = [], []
    for start in range(0, masks.shape[1], tile):
        left = masks[:, start : start + tile].T.to(right.dtype)
        inside = left.sum(1, dtype=torch.float32)[:, None]
        outside = len(masks) - inside
        both = torch.mm(left, right, out_dtype=torch.float32) if on_gpu else left @ right
        both.mul_(1 / inside + 1 / outside).sub_(total / outside)
        largest.append(both.amax(1))
        sums.append(both.abs_().sum(1))
    return torch.cat(largest), torch.cat(sums)


def _by_sums(masks: Any, correct: Any) -> Any:
    """Memorization as one writes it with NumPy."""
    inside, right = masks.sum(0), correct.sum(0)
    both = (masks & correct).sum(0)
    return both / inside - (right - both) / (len(masks) - inside)

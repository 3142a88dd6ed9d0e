"""select_top against sorting: NumPy's lexsort, and torch's stable sorts on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tamis.benchmarks.kernels.gpu import Gpu
from tamis.benchmarks.kernels.processor import READ, read_all, read_ceiling
from tamis.benchmarks.kernels.protocol import Bench, Sizes, agree
from tamis.benchmarks.measuring import Row, row
from tamis_kernels import select_top
from tamis_kernels.reference.select_top import tie_hash
from tamis_kernels.select_top import tie_key

__all__ = ["bench_select_top"]

_KEEP, _BALANCE = 0.5, 0.5  # half of the rows are kept, half of those by quotas
_FEW_SCORES = 20  # as counts of forgetting events have
_WORD = 2**64


def bench_select_top(bench: Bench) -> Iterator[Row]:
    """Rows a second."""
    if bench.cpu:
        for name, few in (("", False), (f", {_FEW_SCORES} different scores", True)):
            yield from _on_cpu(bench, bench.cpu, name, few)
    if bench.gpu and bench.card:
        yield from _on_gpu(bench, bench.card, bench.gpu)


def _on_cpu(bench: Bench, sizes: Sizes, name: str, few: bool) -> Iterator[Row]:
    scores, ids, count, labels, quotas = _data(sizes, few)

    def ours() -> Any:
        return select_top(scores, ids, count, labels=labels, quotas=quotas)

    agree("select_top", ours(), _by_lexsort(scores, ids, count, labels, quotas))
    contenders = {
        "tamis": ours,
        "numpy": lambda: _by_lexsort(scores, ids, count, labels, quotas),
        READ: read_all(ids),
    }
    seconds = bench.timed(contenders)
    n_bytes = scores.nbytes + ids.nbytes + labels.nbytes
    yield row(
        f"select_top {len(scores):,}, {sizes.n_classes:,} classes{name}",
        len(scores),
        "rows/s",
        seconds["tamis"],
        peer=bench.peer("numpy", "lexsort"),
        peer_seconds=seconds["numpy"],
        goal=None if few else 3.0,
    ).of(n_bytes / 1e9, seconds["tamis"], read_ceiling(ids, seconds[READ]))


def _on_gpu(bench: Bench, card: Gpu, sizes: Sizes) -> Iterator[Row]:
    import torch

    n, n_classes = sizes.selected_rows, sizes.n_classes
    scores = torch.randn(n, device=card.device)
    ids = torch.randperm(n, device=card.device)
    labels = torch.randint(0, n_classes, (n,), dtype=torch.int32, device=card.device)
    count = int(n * _KEEP)
    quotas = torch.full((n_classes,), int(count * _BALANCE / n_classes), device=card.device)

    def ours() -> Any:
        return select_top(scores, ids, count, labels=labels, quotas=quotas)

    def sorts() -> Any:
        return _by_torch_sorts(scores, ids, count, labels, quotas)

    agree("select_top", ours(), sorts())
    card.release()
    contenders = {"tamis": card.captured(ours), "sorts": sorts, "copy": card.copying(ids)}
    seconds = card.timed(contenders, bench)
    n_bytes = scores.nbytes + ids.nbytes + labels.nbytes
    yield row(
        f"GPU select_top {n:,}, {n_classes:,} classes, as a graph",
        n,
        "rows/s",
        seconds["tamis"],
        peer=f"torch {torch.__version__} stable sorts",
        peer_seconds=seconds["sorts"],
    ).of(n_bytes / 1e9, seconds["tamis"], card.copy_ceiling(ids, seconds["copy"]))


def _data(sizes: Sizes, few: bool) -> tuple[Any, Any, int, Any, Any]:
    rng = np.random.default_rng(0)
    n, n_classes = sizes.selected_rows, sizes.n_classes
    scores = rng.standard_normal(n, np.float32)
    if few:
        scores = np.floor(np.minimum(abs(scores) * 6, _FEW_SCORES - 1))
    # Classes of unequal size, as in the wild: some have fewer rows than their quota.
    labels = (rng.random(n, np.float32) ** 2 * n_classes).astype(np.int32)
    count = int(n * _KEEP)
    quotas = np.full(n_classes, int(count * _BALANCE / n_classes))
    return scores, rng.permutation(n), count, labels, quotas


def _by_lexsort(scores: Any, ids: Any, count: int, labels: Any, quotas: Any) -> Any:
    """The same selection as one writes it with NumPy; labels of 16 bits sort by their digits."""
    order = np.lexsort((tie_hash(ids, 0), -scores))
    by_class = order[np.argsort(labels.astype(np.uint16)[order], kind="stable")]
    sizes = np.bincount(labels, minlength=len(quotas))
    rank = np.arange(len(scores)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.zeros(len(scores), bool)
    kept[by_class[rank < np.repeat(quotas, sizes)]] = True
    others = order[~kept[order]]
    kept[others[: count - int(kept.sum())]] = True
    return kept


def _by_torch_sorts(scores: Any, ids: Any, count: int, labels: Any, quotas: Any) -> Any:
    """The same selection as one writes it with torch."""
    import torch

    order = torch.argsort(_torch_hash(ids), stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    by_class = order[torch.argsort(labels[order], stable=True)]
    sizes = torch.bincount(labels, minlength=len(quotas))
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    rank = torch.arange(len(scores), device=scores.device) - first
    kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    kept[by_class[rank < quotas.repeat_interleave(sizes)]] = True
    others = order[~kept[order]]
    kept[others[: count - int(kept.sum())]] = True
    return kept


def _torch_hash(ids: Any) -> Any:
    """:func:`tie_hash` of seed 0, ordered as signed numbers are."""
    x = ids.long() * _signed(0x9E3779B97F4A7C15) + _signed(tie_key(0))
    for _ in range(2):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ _shifted(x, shift)) * _signed(factor)
        x = x ^ _shifted(x, 31)
    return x ^ _signed(1 << 63)


def _shifted(x: Any, bits: int) -> Any:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word

"""score_and_update, update_statistics and last_layer_grand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tamis.benchmarks.kernels.gpu import Gpu
from tamis.benchmarks.kernels.processor import READ, read_all, read_ceiling
from tamis.benchmarks.kernels.protocol import Bench, Sizes, agree
from tamis.benchmarks.measuring import Ceiling, Row, row
from tamis_kernels import (
    last_layer_grand,
    new_statistics,
    row_scores,
    score_and_update,
    update_statistics,
)

__all__ = ["bench_statistics"]

_BATCHES = 100  # in a measurement: one is too short
# Of one presentation with three tracked quantities: its id, scores and correctness are read, and 41
# bytes of state read and written.
_BYTES_A_ROW = 8 + 3 * 4 + 1 + 2 * 41


def bench_statistics(bench: Bench) -> Iterator[Row]:
    """What keeping statistics costs beside scoring; rows a second."""
    if bench.cpu:
        yield from _overhead(bench, bench.cpu)
        yield from _updates(bench, bench.cpu)
        yield from _grand(bench, bench.cpu)
    if bench.gpu and bench.card:
        yield from _on_gpu(bench, bench.card, bench.gpu)


def _overhead(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    z, y, ids = _batch(rng, sizes)
    state = new_statistics(sizes.examples)
    agree(
        "score_and_update's margin",
        score_and_update(z, y, state, ids).margin,
        row_scores(z, y).margin,
    )
    seconds = bench.timed(
        {
            "both": lambda: _repeat(lambda: score_and_update(z, y, state, ids)),
            "scores": lambda: _repeat(lambda: row_scores(z, y)),
        }
    )
    yield _against_scores(
        f"score_and_update {len(z)} × {z.shape[1]}",
        seconds["both"] / _BATCHES,
        seconds["scores"] / _BATCHES,
    )


def _updates(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    n = sizes.examples
    z = rng.standard_normal((n, 10), np.float32)
    scores, ids = row_scores(z, rng.integers(0, 10, n)), rng.permutation(n)
    state = new_statistics(n)
    update_statistics(state, ids, scores)
    shown = np.empty(n, np.float32)
    shown[ids] = scores.margin
    agree("update_statistics' mean", state.mean("margin"), shown)
    seconds = bench.timed(
        {"tamis": lambda: update_statistics(state, ids, scores), READ: read_all(z)}
    )
    yield row(f"update_statistics {n:,} in random order", n, "rows/s", seconds["tamis"]).of(
        n * _BYTES_A_ROW / 1e9, seconds["tamis"], read_ceiling(z, seconds[READ])
    )


def _grand(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    n = sizes.rows
    z = rng.standard_normal((n, sizes.n_classes), np.float32)
    y, h = rng.integers(0, sizes.n_classes, n), rng.standard_normal((n, sizes.n_dimensions))
    h = h.astype(np.float32)
    contenders: dict[str, Callable[[], object]] = {
        "tamis": lambda: last_layer_grand(z, y, h),
        READ: read_all(z),
    }
    peer = bench.peer("torch", "eager, all rows at once")
    if peer:
        from torch import from_numpy

        tensors = from_numpy(z), from_numpy(y), from_numpy(h)
        agree("last_layer_grand", last_layer_grand(z, y, h), _torch_grand(*tensors), within=1e-5)
        contenders["torch"] = lambda: _torch_grand(*tensors)
    seconds = bench.timed(contenders)
    yield row(
        f"last_layer_grand {n:,} × ({sizes.n_classes:,} + {sizes.n_dimensions}) float32",
        n,
        "rows/s",
        seconds["tamis"],
        peer=peer,
        peer_seconds=seconds.get("torch"),
    ).of((z.nbytes + h.nbytes) / 1e9, seconds["tamis"], read_ceiling(z, seconds[READ]))


def _on_gpu(bench: Bench, card: Gpu, sizes: Sizes) -> Iterator[Row]:
    import torch

    z, y, ids = (
        torch.from_numpy(a).to(card.device) for a in _batch(np.random.default_rng(0), sizes)
    )
    n = sizes.examples
    state, updated = new_statistics(n, like=z), new_statistics(n, like=z)
    every = torch.randperm(n, device=card.device)
    many = torch.randn((n, 10), device=card.device)
    scores = row_scores(many, torch.randint(0, 10, (n,), device=card.device))
    update_statistics(updated, every, scores)
    agree("update_statistics' mean", updated.mean("margin")[every], scores.margin)
    contenders = {
        "both": card.captured(lambda: score_and_update(z, y, state, ids, distinct=True)),
        "scores": card.captured(lambda: row_scores(z, y)),
        "update": lambda: update_statistics(updated, every, scores),
        "copy": card.copying(many),
    }
    seconds = card.timed(contenders, bench)
    yield _against_scores(
        f"GPU score_and_update {len(z)} × {z.shape[1]}, as a graph",
        seconds["both"],
        seconds["scores"],
    )
    yield row(f"GPU update_statistics {n:,} in random order", n, "rows/s", seconds["update"]).of(
        n * _BYTES_A_ROW / 1e9, seconds["update"], card.copy_ceiling(many, seconds["copy"])
    )
    yield from _grand_on_gpu(bench, card, sizes)


def _grand_on_gpu(bench: Bench, card: Gpu, sizes: Sizes) -> Iterator[Row]:
    import torch

    n = sizes.score_rows
    z = torch.randn((n, sizes.n_classes), device=card.device)
    h = torch.randn((n, sizes.n_dimensions), device=card.device)
    y = torch.randint(0, sizes.n_classes, (n,), device=card.device)
    agree("last_layer_grand", last_layer_grand(z, y, h), _torch_grand(z, y, h), within=1e-4)
    contenders = {
        "tamis": lambda: last_layer_grand(z, y, h),
        "torch": lambda: _torch_grand(z, y, h),
        "copy": card.copying(z),
    }
    seconds = card.timed(contenders, bench)
    ceiling: Ceiling = card.copy_ceiling(z, seconds["copy"])
    yield row(
        f"GPU last_layer_grand {n:,} × ({sizes.n_classes:,} + {sizes.n_dimensions}) float32",
        n,
        "rows/s",
        seconds["tamis"],
        peer=f"torch {torch.__version__} eager",
        peer_seconds=seconds["torch"],
    ).of((z.nbytes + h.nbytes) / 1e9, seconds["tamis"], ceiling)


def _against_scores(name: str, seconds: float, alone: float) -> Row:
    return Row(
        name,
        seconds * 1e6,
        "µs",
        "row_scores alone",
        alone * 1e6,
        seconds / alone,
        lower_is_better=True,
    )


def _repeat(run: Callable[[], object]) -> None:
    for _ in range(_BATCHES):
        run()


def _batch(rng: np.random.Generator, sizes: Sizes) -> tuple[Any, Any, Any]:
    z = rng.standard_normal((sizes.batch, sizes.n_classes), np.float32)
    ids = rng.choice(sizes.examples, sizes.batch, replace=False)
    return z, rng.integers(0, sizes.n_classes, sizes.batch), ids


def _torch_grand(logits: Any, labels: Any, features: Any) -> Any:
    """The norm as one writes it with torch."""
    import torch

    p = torch.softmax(logits, 1)
    p.scatter_add_(1, labels[:, None], p.new_full((1, 1), -1.0).expand(len(p), 1))
    squares = features.square().sum(1)
    return torch.linalg.vector_norm(p, dim=1) * (squares + 1).sqrt()

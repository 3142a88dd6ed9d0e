"""row_scores against torch and NumPy computing the same six scores, and against reading."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tamis.benchmarks.kernels.gpu import Gpu
from tamis.benchmarks.kernels.processor import READ, read_all, read_ceiling
from tamis.benchmarks.kernels.protocol import Bench, Sizes, agree, host
from tamis.benchmarks.measuring import Row, row
from tamis_kernels import RowScores, row_scores

__all__ = ["bench_row_scores"]

_FEW = 10
_BATCH = 256  # rows whose temporaries stay in a cache: the fastest of 256, 2048 and all at once
# Of float32; torch's probabilities of bfloat16 carry eight bits, and so do its sums.
_WITHIN = {"float32": 2e-4, "float16": 2e-2, "bfloat16": 1e-1}


def bench_row_scores(bench: Bench) -> Iterator[Row]:
    """Rows a second; on a GPU bytes a second as well."""
    if bench.cpu:
        yield from _many_classes(bench, bench.cpu)
        yield from _few_classes(bench, bench.cpu)
        yield from _halves(bench, bench.cpu)
    if bench.gpu and bench.card:
        for dtype, goal in (("float32", 0.85), ("bfloat16", 0.80)):
            yield from _on_gpu(bench, bench.card, bench.gpu, dtype, goal)


def _many_classes(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    z, y = _logits(sizes.score_rows, sizes.n_classes)
    contenders = {"tamis": lambda: row_scores(z, y), READ: read_all(z)}
    torch = bench.peer("torch", "eager, all rows at once")
    if torch:
        from torch import from_numpy

        zt, yt = from_numpy(z), from_numpy(y)
        contenders["torch"] = lambda: _torch_scores(zt, yt)
        contenders["batches"] = lambda: _in_batches(zt, yt)
        _compare(row_scores(z, y), _torch_scores(zt, yt), "float32")
        _compare(row_scores(z, y), _in_batches(zt, yt), "float32")
    seconds = bench.timed(contenders)
    ceiling = read_ceiling(z, seconds[READ])
    name = f"row_scores {len(z):,} × {z.shape[1]} float32"
    work, taken = z.nbytes / 1e9, seconds["tamis"]
    batches = (torch or "").replace("all rows at once", f"batches of {_BATCH}")
    for peer, key, goal in ((torch, "torch", 25.0), (batches, "batches", None)):
        if peer:
            peer_seconds = seconds[key]
            yield row(
                name, len(z), "rows/s", taken, peer=peer, peer_seconds=peer_seconds, goal=goal
            ).of(work, taken, ceiling)
    yield row(
        f"{name}, bytes", work, "GB/s", taken, peer=READ, peer_seconds=seconds[READ], goal=0.3
    )


def _few_classes(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    z, y = _logits(sizes.few_class_rows, _FEW)
    _compare(row_scores(z, y), _numpy_scores(z, y), "float32")
    contenders = {
        "tamis": lambda: row_scores(z, y),
        "numpy": lambda: _numpy_scores(z, y),
        READ: read_all(z),
    }
    seconds = bench.timed(contenders)
    yield row(
        f"row_scores {len(z):,} × {_FEW} float32",
        len(z),
        "rows/s",
        seconds["tamis"],
        peer=bench.peer("numpy", "vectorised"),
        peer_seconds=seconds["numpy"],
        goal=20.0,
    ).of(z.nbytes / 1e9, seconds["tamis"], read_ceiling(z, seconds[READ]))


def _halves(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    peer = bench.peer("torch", "eager, all rows at once")
    if peer is None:
        return
    import torch

    whole, y = map(torch.from_numpy, _logits(sizes.score_rows, sizes.n_classes))
    for dtype in ("bfloat16", "float16"):
        z = whole.to(getattr(torch, dtype))
        bits = z.view(torch.int16).numpy()
        _compare(row_scores(z, y), _torch_scores(z, y), dtype)
        seconds = bench.timed(
            {
                "tamis": partial(row_scores, z, y),
                "torch": partial(_torch_scores, z, y),
                READ: read_all(bits),
            }
        )
        yield row(
            f"row_scores {len(z):,} × {z.shape[1]} {dtype}",
            len(z),
            "rows/s",
            seconds["tamis"],
            peer=peer,
            peer_seconds=seconds["torch"],
        ).of(bits.nbytes / 1e9, seconds["tamis"], read_ceiling(bits, seconds[READ]))


def _on_gpu(bench: Bench, card: Gpu, sizes: Sizes, dtype: str, goal: float) -> Iterator[Row]:
    import torch

    n, c = sizes.score_rows, sizes.n_classes
    y = torch.randint(0, c, (n,), device=card.device)
    z = (
        torch.randn((n, c), device=card.device)
        .mul_(2)
        .scatter_add_(1, y[:, None], torch.full((n, 1), 6.0, device=card.device))
    )
    z = z.to(getattr(torch, dtype))
    contenders = {
        "tamis": lambda: row_scores(z, y),
        "copy": card.copying(z),
        "eager": lambda: _torch_scores(z, y),
    }
    compiled = card.compiled(bench, _torch_scores, z, y)
    if compiled:
        contenders["compile"] = lambda: compiled(z, y)
        _compare(row_scores(z, y), compiled(z, y), dtype)
    _compare(row_scores(z, y), _torch_scores(z, y), dtype)
    seconds = card.timed(contenders, bench)
    taken, work = seconds["tamis"], (z.nbytes + 21 * n) / 1e9
    ceiling = card.copy_ceiling(z, seconds["copy"])
    name = f"GPU row_scores {n:,} × {c} {dtype}"
    yield Row(
        f"{name}, bytes",
        work / taken,
        "GB/s",
        ceiling.name,
        ceiling.rate,
        work / taken / ceiling.rate,
        goal,
    )
    for key, least in (("eager", 4.0), ("compile", 1.5)):
        if key in seconds:
            yield row(
                name,
                n,
                "rows/s",
                taken,
                peer=f"torch {torch.__version__} {key}",
                peer_seconds=seconds[key],
                goal=least,
            ).of(work, taken, ceiling)


def _logits(n: int, c: int) -> tuple[Any, Any]:
    """Logits of a network that is right most of the time."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, c), np.float32) * np.float32(2)
    y = rng.integers(0, c, n)
    z[np.arange(n), y] += np.float32(6)
    return z, y


def _compare(ours: RowScores, theirs: tuple[Any, ...], dtype: str) -> None:
    names = ("loss", "el2n", "margin", "entropy", "p_label")
    for name, values in zip(names, theirs[:5], strict=True):
        agree(f"row_scores' {name}", getattr(ours, name), values, within=_WITHIN[dtype])
    # Among halves two largest logits may be equal, and libraries choose between them differently.
    decided = host(ours.margin) != 0
    agree("row_scores' correct", host(ours.correct)[decided], host(theirs[5])[decided])


def _torch_scores(logits: Any, labels: Any) -> tuple[Any, ...]:
    """The six scores as one writes them with torch: as few passes as its operations allow."""
    import torch

    at = labels[:, None]
    log_p = torch.log_softmax(logits, 1)
    loss = -log_p.gather(1, at).squeeze(1)
    p = log_p.exp()
    entropy = -log_p.mul_(p).sum(1)
    p.scatter_add_(1, at, p.new_full((1, 1), -1.0).expand_as(at))
    el2n = torch.linalg.vector_norm(p, dim=1)
    correct = logits.argmax(1) == labels
    # Masking and one maximum: topk(2) takes twice as long.
    others = p.copy_(logits).scatter_(1, at, -torch.inf).amax(1)
    margin = logits.gather(1, at).squeeze(1) - others
    return loss, el2n, margin, entropy, (-loss).exp(), correct


def _in_batches(logits: Any, labels: Any) -> tuple[Any, ...]:
    import torch

    parts = [
        _torch_scores(logits[start : start + _BATCH], labels[start : start + _BATCH])
        for start in range(0, len(logits), _BATCH)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _numpy_scores(z: Any, y: Any) -> tuple[Any, ...]:
    """The six scores as one writes them with NumPy, in place where that saves a temporary."""
    rows = np.arange(len(z))
    shifted = z - z.max(axis=1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=1)
    p /= total[:, None]
    log_total = np.log(total)
    loss = log_total - shifted[rows, y]
    shifted *= p
    entropy = log_total - shifted.sum(axis=1)
    p_label = p[rows, y]
    p[rows, y] -= 1
    el2n = np.sqrt(np.einsum("ij,ij->i", p, p))
    others = z.copy()
    others[rows, y] = -np.inf
    return loss, el2n, z[rows, y] - others.max(axis=1), entropy, p_label, z.argmax(axis=1) == y

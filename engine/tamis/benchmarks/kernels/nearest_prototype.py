"""nearest_prototype against faiss, scikit-learn and, on a GPU, bare products of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.benchmarks.kernels.extra_memory import extra_memory
from tamis.benchmarks.kernels.gpu import Gpu, tf32
from tamis.benchmarks.kernels.processor import Products
from tamis.benchmarks.kernels.protocol import Bench, Sizes, agree, host
from tamis.benchmarks.measuring import Row, row
from tamis.errors import WorkFailedError
from tamis_kernels import nearest_prototype
from tamis_kernels.cpu.products import precisions

__all__ = ["bench_nearest_prototype"]

_OFFSET = 20.0
_SPREAD = 0.2  # of the groups' means, with noise of one: neighbouring groups overlap
_CHECKED = 500  # rows, in float64
_MOST_EXTRA_MB = 64.0
_GPU_SHAPES = ((2048, 1000), (512, 1000), (2048, 100))
_PRODUCT_SIDE = 8192


def bench_nearest_prototype(bench: Bench) -> Iterator[Row]:
    """Rows a second, Euclidean; memory; on a GPU times relative to products and to reading."""
    if bench.cpu:
        for name, offset in (("groups, offset 20", _OFFSET), ("iid", None)):
            yield from _on_cpu(bench, bench.cpu, name, offset)
        yield from _memory(bench, bench.cpu)
    if bench.gpu and bench.card:
        for n_dimensions, n_prototypes in _GPU_SHAPES:
            yield from _on_gpu(bench, bench.card, bench.gpu, n_dimensions, n_prototypes)
            bench.card.release()


def _on_cpu(bench: Bench, sizes: Sizes, name: str, offset: float | None) -> Iterator[Row]:
    x, p = _data(sizes.rows, sizes.n_dimensions, sizes.n_prototypes, offset)
    available = precisions(x.shape[1])
    products = Products(bench, sizes.product_side, available)
    contenders: dict[str, Callable[[], Any]] = {
        "": lambda: nearest_prototype(x, p, "euclidean"),
        ", float32 products": lambda: _by_float32(x, p, bench.n_threads),
    }
    own = tuple(contenders)
    found = contenders[""]()
    agree("distances by float32 products", contenders[own[1]]()[1], found.distance, within=1e-6)
    peers = _peers(bench, x, p)
    for peer, run in peers.items():
        distance, index = run()
        _compare(x, p, found, index, peer)
        agree(f"distances of {peer}", np.squeeze(distance), found.distance, within=2e-3)
    seconds = bench.timed({**contenders, **peers, **products.contenders})
    ceilings = products.ceilings(seconds)
    coarsest = available[0]
    goals = {"": 1.4 if coarsest != "float32" else 1.0, own[1]: 1.0}
    work = 2.0 * len(x) * x.shape[1] * len(p) / 1e9
    for variant in own:
        ceiling = ceilings.get("float32" if variant else coarsest, ceilings["float32"])
        for peer in peers:
            sklearn = peer.startswith("sklearn")
            if sklearn and variant:
                continue
            yield row(
                f"nearest_prototype {len(x):,} × {x.shape[1]}, K = {len(p):,}, {name}{variant}",
                len(x),
                "rows/s",
                seconds[variant],
                peer=peer,
                peer_seconds=seconds[peer],
                goal=3.0 if sklearn else goals[variant],
            ).of(work, seconds[variant], ceiling)


def _peers(bench: Bench, x: Any, p: Any) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Name → what gives distances and indices of the nearest."""
    peers: dict[str, Callable[[], tuple[Any, Any]]] = {}
    for k in (2, 1):
        name = bench.peer("faiss", f"IndexFlatL2, k = {k}")
        if name:
            from tamis.benchmarks.kernels.faiss_peer import faiss_search

            def search(k: int = k) -> tuple[Any, Any]:
                squares, found = faiss_search(x, p, k)
                return np.sqrt(squares[:, 0]), found[:, 0]

            peers[name] = search
    name = bench.peer("sklearn", "pairwise_distances_argmin_min")
    if name:
        from sklearn.metrics import pairwise_distances_argmin_min

        peers[name] = lambda: pairwise_distances_argmin_min(x, p)[::-1]
    return peers


def _memory(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    extra = extra_memory(sizes.rows, sizes.n_dimensions, sizes.n_prototypes, bench.n_threads)
    if extra is None:
        bench.leave_out("nearest_prototype's extra memory: /proc/self/clear_refs is not there")
        return
    yield Row(
        f"nearest_prototype {sizes.rows:,} × {sizes.n_dimensions}, extra memory",
        extra / 1e6,
        "MB at peak",
        goal=_MOST_EXTRA_MB,
        lower_is_better=True,
    )


def _on_gpu(bench: Bench, card: Gpu, sizes: Sizes, d: int, k: int) -> Iterator[Row]:
    import torch

    n = sizes.rows * 512 // d  # the same bytes
    p = torch.randn((k, d), device=card.device)
    x = torch.randn((n, d), device=card.device)
    halves, prototypes = x.bfloat16(), p.bfloat16()
    found = nearest_prototype(x, p, "euclidean")
    _compare(host(x[:_CHECKED]), host(p), found, _argmin(x, p)[1], "torch product + argmin")
    contenders = {
        "float32": card.captured(lambda: nearest_prototype(x, p, "euclidean")),
        "bfloat16": card.captured(lambda: nearest_prototype(halves, prototypes, "euclidean")),
        "called": lambda: nearest_prototype(x, p, "euclidean"),
        "product": lambda: torch.mm(halves, prototypes.T),
        "argmin": lambda: _argmin(halves, prototypes),
        "argmin32": tf32(lambda: _argmin(x, p)),
        "read float32": card.reading(x),
        "read bfloat16": card.reading(halves),
        **card.products(sizes.product_side),
    }
    seconds = card.timed(contenders, bench)
    ceiling = card.product_ceiling(sizes.product_side, "bfloat16 product", seconds)
    work = 2.0 * n * d * k / 1e12
    name = f"GPU nearest_prototype {n:,} × {d}, K = {k:,}"
    for variant in ("float32", "bfloat16"):
        taken, label = seconds[variant], f"{name}, {variant} x, as a graph"
        if k >= 200:  # below, reading x is the floor
            goal = 1.35 if d >= 2048 else None
            yield _relative(label, taken, "bare bfloat16 product", seconds["product"], goal).of(
                work, taken, ceiling
            )
        else:
            yield _relative(label, taken, "one read of x", seconds[f"read {variant}"], 1.4)
        argmins = {"float32": ("argmin32", "TF32"), "bfloat16": ("argmin", "bfloat16")}
        key, precision = argmins[variant]
        yield row(
            label,
            n,
            "rows/s",
            taken,
            peer=f"torch {torch.__version__} {precision} product + argmin",
            peer_seconds=seconds[key],
            goal=1.5 if d <= 512 else None,
        ).of(work, taken, ceiling)
    yield _relative(f"{name}, float32 x, called", seconds["called"], "graph", seconds["float32"])


def _relative(
    name: str, seconds: float, peer: str, peer_seconds: float, goal: float | None = None
) -> Row:
    ratio = seconds / peer_seconds
    return Row(name, seconds * 1e3, "ms", peer, peer_seconds * 1e3, ratio, goal, True)


def _argmin(x: Any, p: Any) -> tuple[Any, Any]:
    """Smallest ‖p‖²/2 − x·p of each row, and where; as one writes it with torch."""
    import torch

    half = p.float().square().sum(1).div(2).to(x.dtype)
    smallest, index = torch.addmm(half, x, p.T, alpha=-1).min(1)
    return smallest, index


def _by_float32(x: Any, p: Any, n_threads: int) -> tuple[Any, Any]:
    from tamis_kernels.cpu.nearest_prototype import ProductSearch

    index = np.empty(len(x), np.int64)
    distance, second = np.empty(len(x)), np.empty(len(x))
    ProductSearch(p, unit=False, workers=n_threads, finest="float32").search(
        x, 0, np.arange(len(x)), index, distance, second
    )
    return index, distance


def _compare(x: Any, p: Any, ours: Any, theirs: Any, peer: str) -> None:
    """In float64, no row's nearest prototype may be farther than the peer's; few may differ."""
    some = slice(0, min(_CHECKED, len(x)))
    a, b = host(ours.index[some]).astype(np.int64), host(theirs[some]).astype(np.int64)
    rows = x[some].astype(np.float64)
    distances = [((rows - p[index]) ** 2).sum(axis=1) for index in (a, b)]
    if (distances[0] > distances[1]).any() or (a != b).mean() > 0.02:
        raise WorkFailedError(
            f"nearest_prototype and {peer}",
            expected="the same prototypes, or nearer ones",
            found=f"{int((a != b).sum())} of {len(a)} that differ",
            do="look at both before comparing their times",
        )


def _data(
    n: int, d: int, k: int, offset: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows and prototypes: independent numbers, or overlapping groups far from zero."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), np.float32)
    p = rng.standard_normal((k, d), np.float32)
    if offset is not None:
        p *= np.float32(_SPREAD)
        x += p[rng.integers(0, k, n)]
        for array in (x, p):
            array += np.float32(offset)
    return x, p

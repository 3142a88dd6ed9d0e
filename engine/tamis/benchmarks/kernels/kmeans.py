"""kmeans against faiss and scikit-learn from the same start, and against torch on a GPU.

One run takes long, so objectives are compared after the timed runs, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.benchmarks.kernels.gpu import Gpu, tf32
from tamis.benchmarks.kernels.processor import Products
from tamis.benchmarks.kernels.protocol import Bench, Sizes, agree
from tamis.benchmarks.measuring import Row, row
from tamis_kernels import Lloyd, kmeans

__all__ = ["bench_kmeans"]

_RANK, _NOISE = 20, 0.3
_SAME = 1e-5  # relative difference of objectives that is aimed at
_NEAR = 1e-2  # that proves the same algorithm on the same data


def bench_kmeans(bench: Bench) -> Iterator[Row]:
    """Rows times iterations a second; the difference of objectives."""
    if bench.cpu:
        sizes = bench.cpu
        yield from _on_cpu(bench, sizes, f"rank {_RANK} and noise", _RANK)
        shorter = replace(sizes, iterations=max(sizes.iterations // 2, 1))
        yield from _on_cpu(bench, shorter, "iid", 0)
    if bench.gpu and bench.card:
        for n_dimensions in (bench.gpu.n_dimensions, 4 * bench.gpu.n_dimensions):
            yield from _update_on_gpu(bench, bench.card, bench.gpu, n_dimensions)
            bench.card.release()
        yield from _on_gpu(bench, bench.card, bench.gpu)


def _on_cpu(bench: Bench, sizes: Sizes, name: str, rank: int) -> Iterator[Row]:
    x = _data(sizes.rows, sizes.n_dimensions, rank)
    k, n_iterations = sizes.n_prototypes, sizes.iterations
    start = x[np.sort(np.random.default_rng(1).choice(len(x), k, replace=False))]
    objectives: dict[str, float] = {}  # noted in the timed runs: each takes long

    def ours() -> None:
        found = kmeans(x, k, Lloyd(n_iterations), start=start)
        agree("kmeans' iterations", len(found.objective), n_iterations)
        objectives["tamis"] = found.objective[-1]

    kmeans(x[: 4 * k], k, Lloyd(2), start=start)  # compiles
    goals = {}
    contenders: dict[str, Callable[[], object]] = {"tamis": ours}
    for peer, run, goal in _peers(bench, x, start, n_iterations, with_sklearn=rank > 0):
        goals[peer] = goal

        def theirs(peer: str = peer, run: Callable[[], float] = run) -> None:
            objectives[peer] = run()

        contenders[peer] = theirs
    products = Products(bench, sizes.product_side, ["float32"])
    seconds = bench.timed({**contenders, **products.contenders})
    ceiling = products.ceilings(seconds)["float32"]
    work = 2.0 * len(x) * x.shape[1] * k * n_iterations / 1e9
    label = f"kmeans {len(x):,} × {x.shape[1]}, K = {k:,}, {n_iterations} iterations, {name}"
    for peer, goal in goals.items():
        agree(f"objective of {peer}", objectives["tamis"], objectives[peer], within=_NEAR)
        # The work of plain Lloyd, of which tamis passes over a part.
        yield row(
            label,
            len(x) * n_iterations,
            "rows/s",
            seconds["tamis"],
            peer=peer,
            peer_seconds=seconds[peer],
            goal=goal,
        ).of(work, seconds["tamis"], ceiling)
        if peer.startswith("faiss"):
            off = abs(objectives["tamis"] / objectives[peer] - 1)
            yield Row(
                f"{label}: objective off faiss's", off, "relative", goal=_SAME, lower_is_better=True
            )


def _peers(
    bench: Bench, x: Any, start: Any, n_iterations: int, *, with_sklearn: bool
) -> Iterator[tuple[str, Callable[[], float], float]]:
    """Name, what gives the objective, goal."""
    name = bench.peer("faiss", "Kmeans without subsampling")
    if name:
        from tamis_kernels.faiss_door import faiss_kmeans

        yield name, lambda: faiss_kmeans(x, start, n_iterations, False)[1][-1], 1.2
    name = bench.peer("sklearn", "KMeans, lloyd") if with_sklearn else None
    if name:
        from sklearn.cluster import KMeans

        how = {"algorithm": "lloyd", "n_init": 1, "max_iter": n_iterations, "tol": 0.0}

        def inertia() -> float:
            found = KMeans(len(start), init=start, **how).fit(x)
            agree("iterations of sklearn", found.n_iter_, n_iterations)
            return float(found.inertia_)  # after the last update: of one assignment more

        yield name, inertia, 3.0


def _update_on_gpu(bench: Bench, card: Gpu, sizes: Sizes, d: int) -> Iterator[Row]:
    import torch

    from tamis_kernels.cuda.kmeans import label_sums, scratch_for

    n, k = sizes.rows * 512 // d, sizes.n_prototypes
    x = torch.randn((n, d), device=card.device)
    labels = torch.randint(0, k, (n,), device=card.device)
    sums = torch.empty((k, d), dtype=torch.float64, device=card.device)
    totals = torch.empty((k,), dtype=torch.float64, device=card.device)
    runtime = card.runtime(x)
    scratch = scratch_for(runtime, n, d, k)

    def update() -> None:
        label_sums(runtime, x, "float32", labels, None, k, sums, totals, scratch)

    update()
    expected = torch.zeros((k, d), device=card.device).index_add_(0, labels, x)
    agree("kmeans' sums", sums, expected, within=1e-3)
    contenders = {
        "update": card.captured(update),
        "read": card.reading(x),
        "copy": card.copying(x),
        "index_add": lambda: sums.new_zeros((k, d), dtype=torch.float32).index_add_(0, labels, x),
    }
    seconds = card.timed(contenders, bench)
    taken = seconds["update"]
    ceiling = card.copy_ceiling(x, seconds["copy"])
    for peer, key, goal in (
        ("one read of x", "read", 1.5),
        (f"torch {torch.__version__} index_add_", "index_add", None),
    ):
        peer_ms, ratio = seconds[key] * 1e3, taken / seconds[key]
        name = f"GPU kmeans update {n:,} × {d}, K = {k:,}, as a graph"
        yield Row(name, taken * 1e3, "ms", peer, peer_ms, ratio, goal, lower_is_better=True).of(
            x.nbytes / 1e9, taken, ceiling
        )


def _on_gpu(bench: Bench, card: Gpu, sizes: Sizes) -> Iterator[Row]:
    import torch

    n, d, k = sizes.rows, sizes.n_dimensions, sizes.n_prototypes
    x = torch.randn((n, _RANK), device=card.device) @ torch.randn((_RANK, d), device=card.device)
    x += _NOISE * torch.randn((n, d), device=card.device)
    start = x[:k].clone()
    how = Lloyd(sizes.iterations)
    ours = kmeans(x, k, how, start=start)
    theirs = _torch_lloyd(x, start, sizes.iterations)
    agree("kmeans' objective", ours.objective[-1], theirs, within=_NEAR)
    contenders = {
        "tamis": lambda: kmeans(x, k, how, start=start),
        "torch": tf32(lambda: _torch_lloyd(x, start, sizes.iterations)),
        **card.products(sizes.product_side),
    }
    seconds = card.timed(contenders, bench)
    yield row(
        f"GPU kmeans {n:,} × {d}, K = {k:,}, {sizes.iterations} iterations",
        n * sizes.iterations,
        "rows/s",
        seconds["tamis"],
        peer=f"torch {torch.__version__} TF32 product, argmin, index_add_",
        peer_seconds=seconds["torch"],
    ).of(
        2.0 * n * d * k * sizes.iterations / 1e12,
        seconds["tamis"],
        card.product_ceiling(sizes.product_side, "bfloat16 product", seconds),
    )


def _torch_lloyd(x: Any, start: Any, n_iterations: int) -> Any:
    """Lloyd's algorithm as one writes it with torch; the last objective."""
    import torch

    centres, smallest = start, x.new_zeros(0)
    for _ in range(n_iterations):
        half = centres.square().sum(1).div(2)
        smallest, labels = torch.addmm(half, x, centres.T, alpha=-1).min(1)
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return x.square().sum(dtype=torch.float64) + 2 * smallest.sum(dtype=torch.float64)


def _data(n: int, d: int, rank: int) -> NDArray[np.float32]:
    """Overlapping rows near a plane of low rank, or independent numbers where rank is 0."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), np.float32)
    if rank:
        x *= np.float32(_NOISE)
        x += rng.standard_normal((n, rank), np.float32) @ rng.standard_normal((rank, d), np.float32)
    return x

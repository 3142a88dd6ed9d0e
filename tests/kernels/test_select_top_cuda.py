"""The CUDA source of select_top: on a CPU through the shim, and on a GPU where there is one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import nothing_may_wait, on_gpu, to_host
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.cuda.select_top import launch
from tamis_kernels.reference.select_top import select_top as by_lexsort
from tamis_kernels.select_top import select_top, tie_key

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]

KINDS = ("all differ", "few values", "one value", "one id")
SIZES = (
    (1, 1),
    (1, 3),
    (31, 2),  # less than a warp
    (256, 1),
    (1025, 5),  # one row more than a block has under way
    (3000, 32),  # the most classes that are counted in shared memory
    (3000, 33),
    (200, 300),  # more classes than rows
)


def example(n: int, n_classes: int, kind: str, *, narrow: bool = False) -> Arrays:
    """Scores, ids, labels and quotas; from kind to kind more of the passes are needed."""
    rng = np.random.default_rng((n, n_classes))
    scores = rng.standard_normal(n).astype(np.float32)
    ids = rng.permutation(n) - n // 2
    if kind == "few values":
        scores = np.round(scores)
        scores[rng.random(n) < 0.1] = np.nan
        scores[rng.random(n) < 0.1] = -0.0
        scores[rng.random(n) < 0.1] = -np.inf
    if kind in ("one value", "one id"):
        scores[:] = -1.5
    if kind == "one id":
        ids[:] = 12
    labels = rng.integers(0, n_classes, n)
    quotas = np.bincount(labels, minlength=n_classes) * count_of(n) // (2 * n)
    integers = np.int32 if narrow else np.int64
    return scores, ids.astype(integers), labels.astype(integers), quotas.astype(integers)


def count_of(n: int) -> int:
    return (n * 2 + 1) // 5


def run(
    runtime: Runtime, arrays: Arrays, count: int, seed: int, *, by_class: bool
) -> NDArray[np.bool_]:
    scores, ids, labels, quotas = arrays
    kept: NDArray[np.bool_] = runtime.empty((len(scores),), "bool")
    of_class, of_quota = (labels, quotas) if by_class else (None, None)
    launch(runtime, scores, ids, count, of_class, of_quota, tie_key(seed), kept)
    return kept


def reference(arrays: Arrays, count: int, seed: int, *, by_class: bool) -> NDArray[np.bool_]:
    scores, ids, labels, quotas = arrays
    if not by_class:
        return by_lexsort(scores, ids, count, seed=seed)
    return by_lexsort(scores, ids, count, labels=labels, quotas=quotas, seed=seed)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "n_classes"), SIZES)
def test_every_variant_in_every_order(n: int, n_classes: int, kind: str, by_class: bool) -> None:
    arrays = example(n, n_classes, kind, narrow=n % 2 == 1)
    expected = reference(arrays, count_of(n), 5, by_class=by_class)
    for order in (0, 1, 2):
        found = run(HostRuntime(order), arrays, count_of(n), 5, by_class=by_class)
        assert found.view(np.uint8).max() <= 1
        assert np.array_equal(found, expected), order


@pytest.mark.parametrize("count", [0, 1, 299, 300])
def test_every_count(count: int) -> None:
    arrays = example(300, 3, "few values")
    arrays[3][:] = [count // 2, 0, 0]
    for by_class in (False, True):
        found = run(HostRuntime(), arrays, count, 1, by_class=by_class)
        assert np.array_equal(found, reference(arrays, count, 1, by_class=by_class))
        assert found.sum() == count


@pytest.mark.parametrize("n_classes", [4, 40])
def test_what_is_out_of_range_without_a_look_at_the_values(n_classes: int) -> None:
    scores, ids, labels, quotas = example(600, n_classes, "few values")
    labels[::7], labels[1::7] = -1, n_classes  # no quota, but they take part in the filling up
    quotas[1] = -5  # counts as 0
    quotas[2] = 2**62
    arrays = (scores, ids, labels, quotas)
    found = run(HostRuntime(), arrays, 500, 0, by_class=True)
    assert np.array_equal(found, reference(arrays, 500, 0, by_class=True))
    assert found.sum() == 500
    quotas[:] = 600  # take more than count: nothing is filled up
    found = run(HostRuntime(), arrays, 10, 0, by_class=True)
    assert np.array_equal(found, (labels >= 0) & (labels < n_classes))


def test_no_classes() -> None:
    scores, ids, labels, quotas = example(50, 1, "all differ")
    arrays = (scores, ids, labels, quotas[:0])
    expected = reference(arrays, 20, 0, by_class=False)
    assert np.array_equal(run(HostRuntime(), arrays, 20, 0, by_class=True), expected)


def test_sorted_labels() -> None:  # all lanes of a warp in one class
    scores, ids, labels, quotas = example(2000, 50, "all differ")
    arrays = (scores, ids, np.sort(labels), quotas)
    expected = reference(arrays, 900, 0, by_class=True)
    assert np.array_equal(run(HostRuntime(), arrays, 900, 0, by_class=True), expected)


SEEDED_BUGS = (
    (
        "        __syncthreads();\n        count_rows(IN, thresholds, kept, pass, bins);",
        "        count_rows(IN, thresholds, kept, pass, bins);",
        "no barrier after the bins are emptied",
    ),
    (
        "pass, bins);\n        __syncthreads();",
        "pass, bins);",
        "no barrier before the bins are read",
    ),
    ("row >= in.n_rows ||", "row > in.n_rows ||", "a row too many is counted"),
    ("uint32(__popc(same))", "1u", "a warp's rows of one bin count as one"),
    ("if (lane >= step) up_to", "up_to", "the sum over lanes wraps"),
    ("bins[k] = 0;\n        own", "own", "the histogram keeps the counts of the pass before"),
    ("before < last.wanted && last.wanted <= up_to", "before <= last.wanted && last.wanted < up_to",
     "the bin after the threshold's"),
    ("last.wanted -= before;", "", "what is kept of the bins before is forgotten"),
    ("score == 0.0f ? 0.0f : score", "score", "−0 below +0"),
    ("tie < last.tie ||", "", "only the row at the threshold of those that tie"),
    ("uint64(row) <= last.place", "uint64(row) < last.place", "the last row's position"),
    ("if (open[pass]) count_rows", "if (open[pass + 1]) count_rows", "passes end too early"),
)  # fmt: skip


@pytest.mark.parametrize(("old", "new", "what"), SEEDED_BUGS)
def test_the_shim_shows_a_seeded_bug(old: str, new: str, what: str) -> None:
    def shows(n_classes: int, kind: str, order: int) -> bool:
        arrays = example(1100, n_classes, kind)
        expected = reference(arrays, 500, 0, by_class=True)
        try:
            found = run(HostRuntime(order, (old, new)), arrays, 500, 0, by_class=True)
        except ShimError:
            return True
        return not np.array_equal(found, expected)

    cases = ((40, "one value"), (5, "few values"), (3, "one id"), (1, "all differ"))
    assert any(shows(*case, order) for case in cases for order in (0, 1, 2)), what


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for n, n_classes in ((1, 1), (300, 3), (1025, 33)):
        for kind in KINDS:
            arrays = example(n, n_classes, kind, narrow=n % 2 == 1)
            for by_class in (False, True):
                found = run(runtime, arrays, count_of(n), 0, by_class=by_class)
                assert np.array_equal(found, reference(arrays, count_of(n), 0, by_class=by_class))


# ---- on a GPU


@cache
def with_reference(n: int, n_classes: int, kind: str) -> tuple[Any, Any, Any]:
    """Arrays, what is kept of them, and what with quotas; once for both libraries."""
    arrays = example(n, n_classes, kind, narrow=n % 2 == 1)
    return (
        arrays,
        reference(arrays, count_of(n), 5, by_class=False),
        reference(arrays, count_of(n), 5, by_class=True),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "n_classes"), [*SIZES, (1_300_000, 1), (1_300_000, 1000)])
def test_on_a_gpu(n: int, n_classes: int, kind: str, library: str) -> None:
    arrays, plain, by_class = with_reference(n, n_classes, kind)
    scores, ids, labels, quotas = (on_gpu(library, array) for array in arrays)
    found = select_top(scores, ids, count_of(n), seed=5)
    assert type(found).__module__.partition(".")[0] == library
    assert np.array_equal(to_host(found), plain)
    found = select_top(scores, ids, count_of(n), labels=labels, quotas=quotas, seed=5)
    assert np.array_equal(to_host(found), by_class)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_arrays_that_are_not_contiguous_and_labels_out_of_range(library: str) -> None:
    arrays = example(4000, 20, "few values")
    arrays[2][::5] = 20
    twice = [on_gpu(library, np.repeat(array, 2))[::2] for array in arrays]
    found = select_top(twice[0], twice[1], 1500, labels=twice[2], quotas=twice[3])
    assert np.array_equal(to_host(found), reference(arrays, 1500, 0, by_class=True))


@pytest.mark.gpu
def test_other_integers_are_refused_on_a_gpu() -> None:
    scores, ids, labels, quotas = (on_gpu("torch", a) for a in example(10, 2, "all differ"))
    with pytest.raises(TypeError, match="labels: expected int64 or int32, found uint8"):
        select_top(scores, ids, 2, labels=labels.byte(), quotas=quotas)


@pytest.mark.gpu
def test_in_a_cuda_graph_on_a_stream_of_its_own() -> None:
    import torch

    arrays = example(5000, 40, "few values")
    scores, ids, labels, quotas = (on_gpu("torch", array) for array in arrays)
    select_top(scores, ids, 2000, labels=labels, quotas=quotas)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = select_top(scores, ids, 2000, labels=labels, quotas=quotas)
    others = (np.cos(np.arange(5000, dtype=np.float32)), *arrays[1:])
    scores.copy_(torch.from_numpy(others[0]))
    for _ in range(2):  # a replay leaves nothing behind for the next
        graph.replay()
        assert np.array_equal(to_host(found), reference(others, 2000, 0, by_class=True))


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:

    scores, ids, labels, quotas = (on_gpu("torch", a) for a in example(5000, 40, "one value"))
    select_top(scores, ids, 2000, labels=labels, quotas=quotas)
    with nothing_may_wait():
        select_top(scores, ids, 2000, labels=labels, quotas=quotas)

"""The CUDA source of score_and_update: on a CPU through the shim, and on a GPU if there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import nothing_may_wait, on_gpu, to_host
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels import row_scores as public_row_scores
from tamis_kernels.cuda import row_scores, score_and_update, update_statistics
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.score_and_update import score_and_update as public_score_and_update
from tamis_kernels.update_statistics import Statistics, new_statistics
from tamis_kernels.update_statistics import update_statistics as public_update_statistics

SCORES = ("loss", "el2n", "margin", "entropy", "p_label")
TRACKED = ("el2n", "margin", "p_label")
DTYPES = ("float32", "float16", "bfloat16")

# Numbers of classes that reach every variant, with and without loads of 16 bytes.
CLASSES = (2, 10, 30, 100, 128, 200, 256, 1000, 1001, 2000, 2001)


def example(
    n: int, b: int, c: int, dtype: str = "float32", turn: int = 0
) -> tuple[NDArray[Any], ...]:
    """Logits as the kernel takes them (bfloat16 as its bits), labels, half of them right, ids."""
    rng = np.random.default_rng((n, b, c, turn))
    logits = (4 * rng.standard_normal((b, c))).astype(np.float32)
    labels = rng.integers(0, c, b)
    labels[::2] = logits[::2].argmax(1)
    ids = rng.integers(0, n, b)
    if dtype == "bfloat16":
        return (logits.view(np.uint32) >> 16).astype(np.uint16), labels, ids
    return logits.astype(dtype), labels, ids


def outputs(runtime: Runtime, b: int) -> tuple[Any, ...]:
    return (*(runtime.empty((b,), "float32") for _ in SCORES), runtime.empty((b,), "bool"))


def numbers(tracked: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(SCORES.index(name) for name in tracked)


def fused(
    runtime: Runtime, state: Statistics, batch: tuple[NDArray[Any], ...], dtype: str,
    *, distinct: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    logits, labels, ids = batch
    found = outputs(runtime, len(logits))
    score_and_update.launch(
        runtime, logits, dtype, labels, found, state.arrays, numbers(state.tracked), ids,
        distinct=distinct,
    )  # fmt: skip
    return found


def one_after_the_other(
    runtime: Runtime, state: Statistics, batch: tuple[NDArray[Any], ...], dtype: str
) -> tuple[Any, ...]:
    logits, labels, ids = batch
    found = outputs(runtime, len(logits))
    row_scores.launch(runtime, logits, dtype, labels, found)
    tracked = {number: found[number] for number in numbers(state.tracked)}
    update_statistics.launch(runtime, state.arrays, ids, tracked, found[-1], distinct=False)
    return found


def same(first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)  # NaN equals NaN


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", CLASSES)
def test_the_same_bits_as_one_after_the_other(c: int, dtype: str) -> None:
    b = 300 if c < 32 else 37 if c < 300 else 6
    n = b // 2
    batches = [example(n, b, c, dtype, turn) for turn in range(2)]
    plain = new_statistics(n)
    expected = [one_after_the_other(HostRuntime(), plain, batch, dtype) for batch in batches]
    for order in (0, 1, 2):
        state = new_statistics(n)
        for batch, scores in zip(batches, expected, strict=True):
            same(fused(HostRuntime(order), state, batch, dtype), scores)
        same(state.arrays, plain.arrays)


@pytest.mark.parametrize("c", [10, 100, 1000, 2000])
def test_ids_labels_and_rows_that_are_not_usable(c: int) -> None:
    logits, labels, ids = example(9, 12, c)
    logits[2, 1] = np.nan
    labels[3], labels[4] = -1, c
    ids[5], ids[6], ids[7] = -1, 9, 2**40
    states = [new_statistics(9) for _ in range(2)]
    found = fused(HostRuntime(), states[0], (logits, labels, ids), "float32")
    same(found, one_after_the_other(HostRuntime(), states[1], (logits, labels, ids), "float32"))
    same(states[0].arrays, states[1].arrays)
    assert np.isnan(found[0]).tolist() == [row in (2, 3, 4) for row in range(12)]
    assert states[0].count.sum() == len(set(ids.tolist()) & set(range(9)))


@pytest.mark.parametrize("tracked", [(), ("loss", "entropy"), SCORES])
def test_distinct_ids_of_32_bits_and_other_quantities(tracked: tuple[str, ...]) -> None:
    for c in (10, 1000):
        logits, labels, _ = example(50, 40, c)
        ids = np.random.default_rng(0).permutation(50)[:40]
        states = [new_statistics(50, tracked) for _ in range(2)]
        fused(
            HostRuntime(1),
            states[0],
            (logits, labels.astype(np.int32), ids.astype(np.int32)),
            "float32",
            distinct=True,
        )
        one_after_the_other(HostRuntime(), states[1], (logits, labels, ids), "float32")
        same(states[0].arrays, states[1].arrays)
        assert states[0].count.sum() == 40


SEEDED_BUGS = (
    ("{found.loss, found.el2n,", "{found.el2n, found.loss,", "two quantities exchanged"),
    ("(out.state, out.ids, at, values", "(out.state, out.ids, at / 2, values", "another row's id"),
    ("    write(found, at, out.scores);\n", "", "scores that are not written"),
    ("values, found.correct);", "values, !found.correct);", "wrong for correct"),
)


def compare(runtime: Runtime) -> None:
    batch = example(20, 30, 10)
    states = [new_statistics(20, SCORES) for _ in range(2)]
    expected = one_after_the_other(HostRuntime(), states[0], batch, "float32")
    same(fused(runtime, states[1], batch, "float32"), expected)
    same(states[0].arrays, states[1].arrays)


def test_without_a_bug_the_comparison_passes() -> None:
    compare(HostRuntime())


@pytest.mark.parametrize(
    ("old", "new"), [bug[:2] for bug in SEEDED_BUGS], ids=[bug[2] for bug in SEEDED_BUGS]
)
def test_the_shim_shows_a_seeded_bug(old: str, new: str) -> None:
    with pytest.raises((AssertionError, ShimError)):
        compare(HostRuntime(edit=(old, new)))


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for dtype in DTYPES:
        for c in CLASSES:
            logits, labels, ids = example(7, 9, c, dtype)
            ids[0], ids[1], labels[2] = -1, 7, c
            fused(runtime, new_statistics(7, SCORES), (logits, labels, ids), dtype)
    logits, labels, _ = example(7, 9, 10)
    batch = logits, labels, np.array([-1, 7, *range(7)], np.int32)
    fused(runtime, new_statistics(7, SCORES), batch, "float32", distinct=True)


# ---- on a GPU


def check_states(state: Statistics, expected: Statistics) -> None:
    for name in ("count", "forgetting", "first_learned", "last_correct", "claim"):
        found = to_host(getattr(state, name))
        np.testing.assert_array_equal(found, to_host(getattr(expected, name)), err_msg=name)
    for name in state.tracked:  # the compiler may round another way in another kernel
        for method in ("mean", "variance"):
            found = to_host(getattr(state, method)(name))
            other = to_host(getattr(expected, method)(name))
            np.testing.assert_allclose(found, other, 1e-5, 1e-6, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("c", CLASSES)
def test_on_a_gpu(c: int, library: str, dtype: str) -> None:
    if (library, dtype) == ("cupy", "bfloat16"):
        pytest.skip("CuPy arrays of bfloat16 need ml_dtypes")
    b, n = 3001, 2000
    state = new_statistics(n, like=on_gpu(library, np.zeros(1)))
    expected = new_statistics(n, like=on_gpu(library, np.zeros(1)))
    for turn in range(3):
        logits, labels, ids = example(n, b, c, dtype, turn)
        at, labels_at = on_gpu(library, logits), on_gpu(library, labels)
        ids_at = on_gpu(library, ids)
        for each in (state, expected):
            each.begin_epoch(turn)
        found = public_score_and_update(at, labels_at, state, ids_at)
        other = public_row_scores(at, labels_at)
        public_update_statistics(expected, ids_at, other)
        for name in SCORES:
            a, b_ = to_host(getattr(found, name)), to_host(getattr(other, name))
            np.testing.assert_allclose(a, b_, 2e-5, 1e-30, err_msg=name)
        np.testing.assert_array_equal(to_host(found.correct), to_host(other.correct))
    check_states(state, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("distinct", [False, True])
def test_in_a_cuda_graph_that_outlives_the_epoch(distinct: bool) -> None:
    import torch

    n, b, c = 600, 512, 100
    rng = np.random.default_rng(0)
    batches = [example(n, b, c, turn=turn) for turn in range(4)]
    if distinct:
        batches = [(logits, labels, rng.permutation(n)[:b]) for logits, labels, _ in batches]
    logits, labels, ids = at = [on_gpu("torch", array) for array in batches[0]]
    warm = new_statistics(n, like=ids)
    public_score_and_update(logits, labels, warm, ids, distinct=distinct)  # compiles
    state, expected = new_statistics(n, like=ids), new_statistics(n, like=ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = public_score_and_update(logits, labels, state, ids, distinct=distinct)
    for epoch, batch in enumerate(batches):
        for target, source in zip(at, batch, strict=True):
            target.copy_(torch.from_numpy(source))
        for each in (state, expected):
            each.begin_epoch(epoch)
        graph.replay()
        other = public_score_and_update(logits, labels, expected, ids)
        np.testing.assert_array_equal(to_host(found.el2n), to_host(other.el2n))
    check_states(state, expected)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:

    logits, labels, ids = (on_gpu("torch", array) for array in example(600, 512, 100))
    state = new_statistics(600, like=ids)
    public_score_and_update(logits, labels, state, ids)
    with nothing_may_wait():
        public_score_and_update(logits, labels, state, ids)

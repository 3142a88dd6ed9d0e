"""The CUDA source of update_statistics: on a CPU through the shim, and on a GPU if there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import nothing_may_wait, on_gpu
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.cuda.update_statistics import launch
from tamis_kernels.reference.update_statistics import Presentation
from tamis_kernels.reference.update_statistics import update_statistics as exact_statistics
from tamis_kernels.row_scores import RowScores
from tamis_kernels.update_statistics import Statistics, new_statistics, update_statistics

QUANTITIES = ("loss", "el2n", "margin", "entropy", "p_label")
COUNTERS = ("count", "forgetting", "first_learned", "last_correct")
GUARD = 64  # elements behind every array of a state, where nothing may be written

# Rows at the edges of a block of 256 threads.
ROWS = (1, 2, 31, 255, 256, 257, 700)


def guarded(n: int, tracked: tuple[str, ...] = ("el2n", "margin", "p_label")) -> Statistics:
    """New statistics whose arrays have something behind them that is known."""
    state = new_statistics(n, tracked)
    arrays: dict[str, Any] = {}
    for name in ("count", "forgetting", "first_learned", "last_correct", "means", "m2", "claim"):
        array = getattr(state, name)
        room = np.full(array.size + GUARD, 77, array.dtype)
        arrays[name] = room[: array.size].reshape(array.shape)
        arrays[name][:] = array
    return replace(state, **arrays)


def assert_guarded(state: Statistics) -> None:
    for array in state.arrays[:-1]:
        room = array
        while room.base is not None:
            room = room.base
        assert (room[array.size :] == 77).all()


def presented(
    rng: np.random.Generator, epoch: int, n: int, b: int, tracked: tuple[str, ...]
) -> Presentation:
    values = {name: rng.standard_normal(b).astype(np.float32) for name in tracked}
    return Presentation(epoch // 3, epoch % 3, rng.integers(0, n, b), rng.random(b) < 0.6, values)


def run(
    runtime: Runtime, state: Statistics, shown: Presentation, *, distinct: bool = False
) -> None:
    scores = {QUANTITIES.index(name): values for name, values in shown.values.items()}
    launch(runtime, state.arrays, shown.example_ids, scores, shown.correct, distinct=distinct)


def replayed(runtime: Runtime, state: Statistics, history: list[Presentation]) -> Statistics:
    for turn, shown in enumerate(history):
        if turn and shown.run != history[turn - 1].run:
            state.begin_run()
        state.begin_epoch(shown.epoch)
        run(runtime, state, shown)
    return state


def check(state: Statistics, history: list[Presentation]) -> None:
    expected = exact_statistics(state.n_examples, history)
    for name in COUNTERS:
        assert to_host(getattr(state, name)).tolist() == expected[name].tolist(), name
    for name in state.tracked:
        mean, variance = expected[f"{name}_mean"], expected[f"{name}_variance"]
        np.testing.assert_allclose(to_host(state.mean(name)), mean, 1e-6, 1e-6, err_msg=name)
        np.testing.assert_allclose(to_host(state.variance(name)), variance, 1e-4, 1e-12)
    assert (to_host(state.claim) == -1).all()


def same(a: Statistics, b: Statistics) -> None:
    for first, second in zip(a.arrays, b.arrays, strict=True):
        np.testing.assert_array_equal(first, second)  # NaN equals NaN


@pytest.mark.parametrize("b", ROWS)
@pytest.mark.parametrize("tracked", [("el2n", "margin", "p_label"), QUANTITIES, ("entropy",), ()])
def test_against_the_reference_in_any_order_of_threads(b: int, tracked: tuple[str, ...]) -> None:
    rng, n = np.random.default_rng(b), b // 2 + 1  # many ids come twice, others never
    history = [presented(rng, epoch, n, b, tracked) for epoch in range(6)]
    forwards = replayed(HostRuntime(order=0), guarded(n, tracked), history)
    check(forwards, history)
    assert_guarded(forwards)
    for order in (1, 2):  # nothing may depend on which thread runs first
        same(replayed(HostRuntime(order), guarded(n, tracked), history), forwards)


def test_ids_of_32_bits() -> None:
    rng = np.random.default_rng(0)
    history = [presented(rng, epoch, 30, 50, ("el2n",)) for epoch in range(4)]
    narrow = [replace(shown, example_ids=shown.example_ids.astype(np.int32)) for shown in history]
    state = replayed(HostRuntime(), guarded(30, ("el2n",)), narrow)
    check(state, history)
    assert_guarded(state)


@pytest.mark.parametrize("distinct", [False, True])
def test_ids_out_of_range_are_skipped(distinct: bool) -> None:
    shown = presented(np.random.default_rng(1), 0, 1, 7, ("margin",))
    ids = np.array([3, -1, 0, 4, 2**40, 2, -(2**62)])
    states = [guarded(4, ("margin",)) for _ in range(2)]
    run(HostRuntime(2), states[0], replace(shown, example_ids=ids), distinct=distinct)
    kept = [0, 2, 5]
    values = {"margin": shown.values["margin"][kept]}
    alone = Presentation(0, 0, ids[kept], shown.correct[kept], values)
    run(HostRuntime(), states[1], alone)
    same(*states)
    assert_guarded(states[0])


def test_distinct_ids_need_no_claim() -> None:
    rng = np.random.default_rng(2)
    shown = presented(rng, 1, 400, 300, ("el2n", "loss"))
    shown = replace(shown, example_ids=rng.permutation(400)[:300])
    states = [guarded(400, ("el2n", "loss")) for _ in range(2)]
    for state, distinct in zip(states, (False, True), strict=True):
        for order in (0, 1):
            run(HostRuntime(order), state, shown, distinct=distinct)
    same(*states)


def test_the_epoch_is_read_at_the_launch() -> None:
    state = guarded(2, ())
    for epoch, id_ in ((5, 0), (9, 1), (3, 0), (11, 1)):
        state.begin_epoch(epoch)
        run(HostRuntime(), state, Presentation(0, 0, np.array([id_]), np.array([True]), {}))
    assert state.first_learned.tolist() == [3, 9]


def test_values_that_are_not_finite_or_too_large() -> None:
    state = guarded(4, ("margin",))
    for turn in range(3):
        margin = np.array([np.nan, np.inf, -np.inf, -3e38 if turn else 3e38], np.float32)
        if turn == 2:
            margin[:3] = 1
        shown = Presentation(0, 0, np.arange(4), np.ones(4, bool), {"margin": margin})
        run(HostRuntime(), state, shown)
    assert np.isnan(state.mean("margin")).tolist() == [True, True, True, False]
    assert np.isnan(state.variance("margin")[:3]).all()
    assert state.variance("margin")[3] == np.inf
    np.testing.assert_allclose(state.mean("margin")[3], -1e38, 1e-6)


def accuracy(runtime: Runtime, turns: int) -> tuple[float, float]:
    """Largest relative errors of mean and variance after so many presentations."""
    rng = np.random.default_rng(3)
    centres = np.exp(rng.uniform(-20, 20, 200)) * rng.choice([-1, 1], 200)
    values = (centres * (1 + 1e-3 * rng.standard_normal((turns, 200)))).astype(np.float32)
    state = guarded(200, ("margin",))
    for row in values:
        shown = Presentation(0, 0, np.arange(200), np.ones(200, bool), {"margin": row})
        run(runtime, state, shown, distinct=True)
    exact = values.astype(np.float64)
    return (
        float(np.abs(state.mean("margin") / exact.mean(0) - 1).max()),
        float(np.abs(state.variance("margin") / exact.var(0) - 1).max()),
    )


def test_a_thousand_presentations() -> None:
    mean, variance = accuracy(HostRuntime(), 1000)
    assert mean < 4e-6
    assert variance < 1e-3


SEEDED_BUGS = (
    ("atomicMax(&claim[example], int(row))", "claim[example] = int(row)", "a race for the claim"),
    ("    state.claim[example] = -1;\n", "", "a claim that is never freed"),
    ("if (state.claim[example] != row) return -1;", "", "repeated ids that count each time"),
    ("id < n_examples ? id : -1", "id <= n_examples ? id : -1", "one id too many"),
    ("if (row >= n_rows) return;\n    const int64", "const int64", "claims past the last row"),
    ("at += state.n_examples;", "at += 1;", "moments of another example"),
    ("epoch < first)", "epoch > first)", "the last epoch instead of the first"),
    ("state.last_correct[example] = correct;", "", "the last presentation is not kept"),
    ("state.tracked >> q & 1", "state.tracked >> (q + 1) & 1", "another quantity"),
)


def check_with(runtime: Runtime) -> None:
    """A history with repeated ids, then an id past the last, which changes nothing."""
    n, b, tracked = 40, 100, ("el2n", "margin", "p_label")
    rng = np.random.default_rng(4)
    history = [presented(rng, epoch, n, b, tracked) for epoch in range(6)]
    room = np.full(256, n // 2)  # what threads past the last row would find behind the ids
    state = guarded(n, tracked)
    for turn, shown in enumerate(history):
        if turn == 3:
            state.begin_run()
        state.begin_epoch(shown.epoch)
        room[:b] = shown.example_ids
        run(runtime, state, replace(shown, example_ids=room[:b]))
    values = {name: np.ones(1, np.float32) for name in tracked}
    past = Presentation(0, 0, np.array([n]), np.ones(1, bool), values)
    run(runtime, state, past, distinct=True)
    check(state, history)
    assert_guarded(state)


def test_without_a_bug_the_check_passes() -> None:
    for order in (0, 1, 2):
        check_with(HostRuntime(order))


@pytest.mark.parametrize(("old", "new", "what"), SEEDED_BUGS)
def test_the_shim_shows_a_seeded_bug(old: str, new: str, what: str) -> None:
    found = False
    for order in (0, 1, 2):
        try:
            check_with(HostRuntime(order, (old, new)))
        except (ShimError, AssertionError):
            found = True
    assert found, what


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every kernel, for the run under the sanitizers."""
    rng = np.random.default_rng(5)
    for tracked in (QUANTITIES, ("margin",), ()):
        history = [presented(rng, epoch, 20, 300, tracked) for epoch in range(2)]
        check(replayed(runtime, new_statistics(20, tracked), history), history)
    ids = np.array([-1, 20, 2**40, 0], np.int64)
    shown = presented(rng, 0, 20, 4, ("el2n",))
    for distinct in (False, True):
        state = new_statistics(20, ("el2n",))
        run(runtime, state, replace(shown, example_ids=ids), distinct=distinct)
    narrow = replace(shown, example_ids=np.array([0, 19, 20, -1], np.int32))
    run(runtime, new_statistics(20, ("el2n",)), narrow)


# ---- on a GPU


def to_host(array: Any) -> NDArray[Any]:
    if isinstance(array, np.ndarray):
        return array
    found: NDArray[Any] = array.get() if hasattr(array, "get") else array.cpu().numpy()
    return found


def scores_on_gpu(library: str, shown: Presentation) -> RowScores:
    values: dict[str, Any] = dict.fromkeys(QUANTITIES)
    values |= {name: on_gpu(library, array) for name, array in shown.values.items()}
    return RowScores(**values, correct=on_gpu(library, shown.correct))


@pytest.mark.gpu
@pytest.mark.parametrize("tracked", [("el2n", "margin", "p_label"), QUANTITIES, ()])
@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("b", [*ROWS, 20_003])
def test_on_a_gpu(b: int, library: str, kind: str, tracked: tuple[str, ...]) -> None:
    rng, n = np.random.default_rng(b), b // 2 + 1
    history = [presented(rng, epoch, n, b, tracked) for epoch in range(6)]
    states = []
    for _ in range(2):  # the same bits again
        state = new_statistics(n, tracked, like=on_gpu(library, np.zeros(1)))
        for turn, shown in enumerate(history):
            if turn == 3:
                state.begin_run()
            state.begin_epoch(shown.epoch)
            ids = on_gpu(library, shown.example_ids.astype(kind))
            update_statistics(state, ids, scores_on_gpu(library, shown))
        states.append(state)
    check(states[0], history)
    assert type(states[0].count).__module__.partition(".")[0] == library
    for first, second in zip(states[0].arrays, states[1].arrays, strict=True):
        np.testing.assert_array_equal(to_host(first), to_host(second))


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_edges_on_a_gpu(library: str) -> None:
    shown = presented(np.random.default_rng(1), 0, 1, 14, ("margin",))
    ids = np.repeat(np.array([3, -1, 0, 4, 2**40, 2, -(2**62)]), 2)
    state = new_statistics(4, ("margin",), like=on_gpu(library, np.zeros(1)))
    found = scores_on_gpu(library, shown)
    strided = on_gpu(library, np.repeat(ids, 3))[::3]
    update_statistics(state, strided, found)
    kept = [1, 5, 11]
    values = {"margin": shown.values["margin"][kept]}
    alone = Presentation(0, 0, ids[kept], shown.correct[kept], values)
    check(state, [alone])
    empty = presented(np.random.default_rng(1), 0, 1, 0, ("margin",))
    update_statistics(state, on_gpu(library, empty.example_ids), scores_on_gpu(library, empty))
    check(state, [alone])


@pytest.mark.gpu
def test_in_a_cuda_graph_that_outlives_the_epoch() -> None:
    import torch

    rng, n, b, tracked = np.random.default_rng(6), 500, 512, ("el2n", "margin", "p_label")
    history = [presented(rng, epoch, n, b, tracked) for epoch in range(3)]
    warm = new_statistics(n, tracked, like=torch.zeros(1, device="cuda"))
    ids, scores = on_gpu("torch", history[0].example_ids), scores_on_gpu("torch", history[0])
    update_statistics(warm, ids, scores)  # compiles
    state = new_statistics(n, tracked, like=ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update_statistics(state, ids, scores)
    for shown in history:
        ids.copy_(torch.from_numpy(shown.example_ids))
        for name in tracked:
            getattr(scores, name).copy_(torch.from_numpy(shown.values[name]))
        scores.correct.copy_(torch.from_numpy(shown.correct))
        state.begin_epoch(shown.epoch)
        graph.replay()
    check(state, history)


@pytest.mark.gpu
@pytest.mark.parametrize("distinct", [False, True])
def test_nothing_waits_for_the_gpu(distinct: bool) -> None:

    shown = presented(np.random.default_rng(7), 0, 500, 512, ("el2n", "margin", "p_label"))
    ids, scores = on_gpu("torch", shown.example_ids), scores_on_gpu("torch", shown)
    state = new_statistics(500, like=ids)
    update_statistics(state, ids, scores)
    with nothing_may_wait():
        state.begin_run()
        state.begin_epoch(1)
        update_statistics(state, ids, scores, distinct=distinct)
        state.mean("el2n"), state.variance("el2n"), state.sum("el2n")

"""The CUDA source of influence: on a CPU through the shim, and on a GPU where there is one.

The shim has no tensor cores: there a product of bits is its plain twin, which exchanges words among
lanes as the documented layout of the instruction's operands has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_arrays import nothing_may_wait, on_gpu, to_host
from host_cuda.runtime import HostRuntime, ShimError
from tamis_kernels.cuda.influence import launch_influence, launch_memorization
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.influence import influence_reduce, memorization
from tamis_kernels.reference import influence as reference

Flags = NDArray[Any]
Results = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

# One rounding to float32, plus what the reference's float64 means lose to cancellation.
RELATIVE, ABSOLUTE = 6.1e-8, 1e-13

SIZES = (
    (1, 3, 2),  # one model: every example is in all subsets or in none
    (31, 17, 9),  # less than a word; one more than a group of training examples
    (33, 130, 5),  # two training tiles
    (256, 20, 128),  # a whole step and a whole tile of test examples
    (257, 33, 129),  # two steps, two test tiles
    (40, 2, 0),
)


def example(m: int, n: int, k: int) -> tuple[Flags, Flags, Flags]:
    """Masks, and what is right of the test and of the training examples."""
    rng = np.random.default_rng((m, n, k))
    masks, own = rng.random((m, n)) < 0.7, rng.random((m, n)) < 0.6
    return masks, rng.random((m, k)) < rng.random(k), own


def run(
    runtime: Runtime, masks: Flags, correct: Flags, own: Flags, enough_blocks: int = 1024
) -> Results:
    largest, total, memorized = (runtime.empty((masks.shape[1],), "float32") for _ in range(3))
    launch_influence(runtime, masks, correct, (largest, total), enough_blocks=enough_blocks)
    launch_memorization(runtime, masks, own, memorized)
    return largest, total, memorized


def check(found: Results, masks: Flags, correct: Flags, own: Flags) -> None:
    expected = (
        *reference.influence_reduce(masks, correct),
        reference.memorization(masks, own),
    )
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, RELATIVE, ABSOLUTE)


@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_against_the_reference_in_every_order(m: int, n: int, k: int) -> None:
    arrays = example(m, n, k)
    forwards = run(HostRuntime(order=0), *arrays)
    check(forwards, *arrays)
    for order in (1, 2):  # bit for bit
        again = run(HostRuntime(order), *arrays)
        for first, second in zip(forwards, again, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("enough_blocks", [1, 2])
def test_a_block_that_takes_several_test_tiles(enough_blocks: int) -> None:
    arrays = example(260, 6, 300)
    for order in (0, 1, 2):
        check(run(HostRuntime(order), *arrays, enough_blocks=enough_blocks), *arrays)


def test_the_same_bits_as_on_the_cpu() -> None:
    masks, correct, own = example(90, 40, 30)
    largest, total, memorized = run(HostRuntime(), masks, correct, own)
    on_cpu = influence_reduce(masks, correct)
    np.testing.assert_array_equal(largest, on_cpu.max)
    np.testing.assert_array_equal(total, on_cpu.sum_abs)
    np.testing.assert_array_equal(memorized, memorization(masks, own))


def test_as_many_models_as_are_allowed() -> None:
    # The largest numerators: A·m and C·a beyond 2³¹, their difference just below 2³⁰.
    m = 65_535
    masks, correct = np.zeros((m, 1), np.bool_), np.zeros((m, 20), np.bool_)
    masks[: m // 2] = True
    correct[:, 0], correct[: m // 2, 1:19], correct[m // 2 :, 19] = True, True, True
    check(run(HostRuntime(), masks, correct, masks), masks, correct, masks)


def test_bytes_other_than_one_count_as_one_and_models_may_lie_apart() -> None:
    masks, correct, own = example(50, 20, 30)
    wide = np.full((100, 25), 3, np.uint8)
    wide[::2, 2:22] = masks * np.uint8(200)
    found = run(HostRuntime(), wide[::2, 2:22], correct.view(np.uint8) * np.uint8(2), own)
    check(found, masks, correct, own)


def test_padding_is_no_test_example() -> None:
    masks, _, own = example(40, 3, 1)
    correct = np.repeat(~masks[:, :1], 5, axis=1)  # influence −1, where padding would have 0
    found = run(HostRuntime(), masks, correct, own)
    check(found, masks, correct, own)
    assert found[0][0] == -1


SEEDED_BUGS = (
    (
        "        __syncthreads();\n        packed",
        "        packed",
        "no barrier before blobs go out",
    ),
    ("[threadIdx.x];\n        __syncthreads();", "[threadIdx.x];", "nor before they change"),
    ("        __syncthreads();  // one suffices", "        // one suffices", "nor at a step"),
    ("example / 8 * 2 + word / 4 :", "example / 8 + word / 4 * 2 :", "columns laid out as rows"),
    ("[2 * j], a[i], b.x, b.y)", "[2 * j], a[i], b.x, b.z)", "words of another column"),
    ("last ? tile + gridDim.y : tile;", "tile;", "the next tile's first blob"),
    ("if (WHOLE || column + 1 < test.n_examples)", "", "a padded column takes part"),
    ("last ? 0 : step + 1);\n            }", "step + 1);\n            }", "a step too far"),
    ("step < 4; step *= 2", "step < 2; step *= 2", "half of the lanes of a row"),
    ("part[row] += abs(second);", "part[row] += second;", "a sum with signs"),
    ("k < N_WARPS; ++k", "k < N_WARPS - 1; ++k", "a warp's models are forgotten"),
    ("if (first + k < n_models)", "if (first + k <= n_models)", "a model too many"),
)  # Without its second buffer the product races on a GPU; the shim's fibers are too regular for it.


@pytest.mark.parametrize(("old", "new", "what"), SEEDED_BUGS)
def test_the_shim_shows_a_seeded_bug(old: str, new: str, what: str) -> None:
    def shows(arrays: tuple[Flags, Flags, Flags], order: int) -> bool:
        # Another model lies behind the last, for where a bound is missing.
        masks, correct, own = (np.concatenate([flags, ~flags[:1]])[:-1] for flags in arrays)
        try:
            runtime = HostRuntime(order, (old, new))
            check(run(runtime, masks, correct, own, enough_blocks=1), *arrays)
        except (ShimError, AssertionError):
            return True
        return False

    masks, correct, own = example(601, 24, 269)
    against = np.repeat(~masks[:, :1], 5, axis=1)
    cases = ((masks, correct, own), (masks, against, own))
    assert any(shows(arrays, order) for arrays in cases for order in (0, 1, 2)), what


def sanitizer_cases(runtime: Runtime) -> None:
    """Small launches of every variant, for the run under the sanitizers."""
    for m, n, k in ((1, 3, 2), (33, 130, 5), (257, 17, 129), (40, 2, 0)):
        arrays = example(m, n, k)
        check(run(runtime, *arrays, enough_blocks=1 if m == 257 else 1024), *arrays)


# ---- on a GPU


def public(masks: Any, correct: Any, own: Any) -> Results:
    found = influence_reduce(masks, correct)
    return to_host(found.max), to_host(found.sum_abs), to_host(memorization(masks, own))


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [*SIZES, (2000, 3000, 700), (300, 129, 20_000), (300, 150_000, 5)]
)
def test_on_a_gpu(m: int, n: int, k: int, library: str) -> None:
    arrays = example(m, n, k)
    masks, correct, own = (on_gpu(library, array) for array in arrays)
    found = influence_reduce(masks, correct)
    assert type(found.max).__module__.partition(".")[0] == library
    # The CPU's results are tested against the reference, and are the same bits.
    on_cpu = influence_reduce(arrays[0], arrays[1])
    np.testing.assert_array_equal(to_host(found.max), on_cpu.max)
    np.testing.assert_array_equal(to_host(found.sum_abs), on_cpu.sum_abs)
    np.testing.assert_array_equal(
        to_host(memorization(masks, own)), memorization(arrays[0], arrays[2])
    )
    if m * n * k < 10**7:
        check(public(masks, correct, own), *arrays)


@pytest.mark.gpu
def test_as_many_models_as_are_allowed_on_a_gpu() -> None:
    arrays = example(65_535, 40, 140)
    found = public(*(on_gpu("torch", array) for array in arrays))
    check(found, *arrays)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_any_memory_layout_and_other_bytes_on_a_gpu(library: str) -> None:
    arrays = example(70, 140, 80)
    masks, correct, own = (
        on_gpu(library, np.repeat(np.repeat(a * np.uint8(7), 2, axis=0), 3, axis=1))[::2, ::3]
        for a in arrays
    )
    check(public(masks, correct, own), *arrays)
    across = [on_gpu(library, np.ascontiguousarray(array.T)).T for array in arrays]
    check(public(*across), *arrays)


@pytest.mark.gpu
def test_in_a_cuda_graph_on_a_stream_of_its_own() -> None:
    import torch

    arrays = example(300, 500, 200)
    masks, correct, own = (on_gpu("torch", array) for array in arrays)
    public(masks, correct, own)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found, memorized = influence_reduce(masks, correct), memorization(masks, own)
    others = (~arrays[0], arrays[1][::-1].copy(), arrays[2])
    masks.copy_(torch.from_numpy(others[0]))
    correct.copy_(torch.from_numpy(others[1]))
    for _ in range(2):  # a replay leaves nothing behind for the next
        graph.replay()
        check((to_host(found.max), to_host(found.sum_abs), to_host(memorized)), *others)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:

    masks, correct, own = (on_gpu("torch", array) for array in example(300, 500, 200))
    public(masks, correct, own)
    with nothing_may_wait():
        influence_reduce(masks, correct)
        memorization(masks, own)

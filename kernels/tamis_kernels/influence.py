"""Memorization, and the influence of training examples on test examples, of subset models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis_kernels.arrays import Place, check_matrix, dtype_of, frozen, place_of, strides_of

__all__ = ["Influence", "influence_reduce", "memorization"]

_DTYPES = ("bool", "uint8")
_MOST_MODELS = 65_535  # so that sums of products of two counts stay exact in 32 bits


@dataclass(frozen=True)
class Influence:
    """What is left of the n_train × n_test influences; of the library and device of the masks.

    Attributes:
        max: (n_train,) float32 from −1 to 1, the largest influence on a test example.
        sum_abs: (n_train,) float32, Σ |influence| over the test examples.
    """

    max: Any
    sum_abs: Any


def influence_reduce(masks: Any, correct_test: Any) -> Influence:
    """Reduce the influence of every training example on every test example (Feldman & Zhang 2020).

    Of m models, each trained on a random subset, infl(i, j) is the accuracy on test example j of
    those trained on example i, less that of the others: A/a − (C_j − A)/(m − a) with A models
    trained on i and right on j, a trained on i and C_j right on j. The numerator of
    (A·m − C_j·a) / (a·(m − a)) is an integer, so the maximum and the sum are taken of integers and
    divided once: the results are exact but for the rounding, and the same on every device.

    The matrix never exists: models become bits, 32 to a word, and A the population count of two
    examples' words (Warren, Hacker's Delight, 2nd ed., §5–1), or on a GPU of compute capability
    8.0 a product on the tensor cores. There it takes five launches on the caller's current stream;
    nothing is waited for, and a CUDA graph of torch can capture them once they have run.

    Args:
        masks: (m, n_train) bool or uint8 of 0 and 1, 1 ≤ m ≤ 65,535: a NumPy array, a torch tensor
            or a CuPy array; whether model k was trained on example i.
        correct_test: (m, n_test) likewise, of the same library and on the same device: whether
            model k is right on test example j.

    Returns:
        The two reductions. NaN for a training example that was in all subsets or in none; without
        test examples the maximum is NaN and the sum 0. O(m · n_train · n_test) bit operations;
        memory besides the results is m · n_test / 8 bytes on a CPU, on a GPU
        m · (n_train + n_test) / 8 and 16 bytes an example, m rounded up to a multiple of 256 and
        each n of 128; inputs whose neighbouring examples do not lie side by side are copied first.

    Raises:
        TypeError: Arrays of another kind or dtype, or of two libraries.
        ValueError: Shapes that do not fit, too many models, two devices, or on the CPU a uint8
            above 1. On a GPU such a value counts as 1, because checking would stall the stream.
    """
    place = _check(masks, "correct_test", correct_test)
    n_train = int(masks.shape[1])
    outputs = tuple(place.empty((n_train,), "float32") for _ in range(2))
    if n_train and place.on_gpu:
        from tamis_kernels.cuda.cupy_door import CupyRuntime
        from tamis_kernels.cuda.influence import launch_influence as on_gpu

        on_gpu(CupyRuntime(place), _by_rows(masks), _by_rows(correct_test), outputs)
    elif n_train:
        from tamis_kernels.cpu.influence import launch_influence

        launch_influence(
            _bytes(place, masks), _bytes(place, correct_test), *map(place.host, outputs)
        )
    return Influence(*outputs)


def memorization(masks: Any, correct_train: Any) -> Any:
    """Influence of every training example on itself (Feldman & Zhang 2020).

    Args:
        masks: (m, n_train), as for :func:`influence_reduce`.
        correct_train: (m, n_train) likewise: whether model k is right on example i.

    Returns:
        (n_train,) float32 from −1 to 1, exact but for the rounding; NaN for an example that was in
        all subsets or in none. O(m · n_train), one read of both and no memory besides the result;
        inputs whose neighbouring examples do not lie side by side are copied first. On a GPU one
        launch, as in :func:`influence_reduce`.

    Raises:
        TypeError: Arrays of another kind or dtype, or of two libraries.
        ValueError: As in :func:`influence_reduce`, or two shapes.
    """
    place = _check(masks, "correct_train", correct_train)
    if tuple(correct_train.shape) != tuple(masks.shape):
        raise ValueError(
            f"correct_train: expected shape {tuple(masks.shape)} as masks has, found "
            f"{tuple(correct_train.shape)}"
        )
    output = place.empty((int(masks.shape[1]),), "float32")
    if len(output) and place.on_gpu:
        from tamis_kernels.cuda.cupy_door import CupyRuntime
        from tamis_kernels.cuda.influence import launch_memorization as on_gpu

        on_gpu(CupyRuntime(place), _by_rows(masks), _by_rows(correct_train), output)
    elif len(output):
        from tamis_kernels.cpu.influence import launch_memorization

        launch_memorization(_bytes(place, masks), _bytes(place, correct_train), place.host(output))
    return output


def _check(masks: Any, name: str, correct: Any) -> Place:
    place = place_of(**{"masks": masks, name: correct})
    check_matrix("masks", masks, _DTYPES, "(m, n_train)")
    check_matrix(
        name, correct, _DTYPES, f"(m, {'n_test' if name == 'correct_test' else 'n_train'})"
    )
    n_models = int(masks.shape[0])
    if not 1 <= n_models <= _MOST_MODELS:
        raise ValueError(f"masks: expected 1 to {_MOST_MODELS} models, found {n_models}")
    if correct.shape[0] != n_models:
        raise ValueError(
            f"{name}: expected {n_models} models as masks has, found {int(correct.shape[0])}"
        )
    for array_name, array in (("masks", masks), (name, correct)):
        if not place.on_gpu and dtype_of(array) == "uint8" and 0 not in array.shape:
            largest = int(array.max())
            if largest > 1:
                raise ValueError(f"{array_name}: expected values 0 and 1, found {largest}")
    return place


def _bytes(place: Place, array: Any) -> Any:
    return frozen(np.ascontiguousarray(place.host(array)).view(np.uint8))


def _by_rows(array: Any) -> Any:
    """The array, or a copy in which the examples of a model lie side by side."""
    from tamis_kernels.cuda.cupy_door import contiguous

    return array if strides_of(array)[1] == 1 else contiguous(array)

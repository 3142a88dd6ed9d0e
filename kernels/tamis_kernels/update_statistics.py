"""Counters and running moments of every example over its presentations, updated in place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tamis_kernels.arrays import (
    Place,
    check_integer,
    check_integers,
    check_vector,
    dtype_of,
    place_of,
    strides_of,
)
from tamis_kernels.row_scores import QUANTITIES, RowScores

__all__ = ["Statistics", "check_presentation", "new_statistics", "update_statistics"]

_LARGEST = 2**31 - 1  # that an int32 holds
_DTYPES = ("int32", "int32", "int32", "uint8", "float32", "float32", "int32", "int32")


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is kept of n examples over their presentations; made by :func:`new_statistics`.

    Over the epochs of one run or of many, this is enough for forgetting events (``forgetting``;
    Toneva et al. 2019, arXiv:1812.05159), EL2N averaged over models and epochs (``mean("el2n")``;
    Paul et al. 2021, arXiv:2107.07075), the area under the margin (AUM, ``mean("margin")``; Pleiss
    et al. 2020, arXiv:2001.10528) and dynamic uncertainty (``variance("p_label") ** 0.5``; He et
    al. 2024, arXiv:2306.05175; its sliding windows need more state and are left to the caller).

    Attributes:
        place: Where the arrays lie.
        tracked: Names of the quantities with moments, in the order of the fields of RowScores.
        count: (n,) int32, presentations.
        forgetting: (n,) int32, correct → wrong between consecutive presentations within a run.
        first_learned: (n,) int32, smallest epoch at which it was correct, over all runs; −1 never.
        last_correct: (n,) uint8, whether it was correct at its last presentation in this run.
        means: (tracked, n) float32; NaN where count is 0.
        m2: (tracked, n) float32, Σ (value − mean)².
        claim: (n,) int32, scratch; −1 between calls.
        epoch: (1,) int32, the current epoch. It lies with the other arrays, so that a captured CUDA
            graph reads the epoch at its replay, not at its capture.

    Raises:
        TypeError: Arrays of another dtype.
        ValueError: Unknown quantities, shapes that do not fit, arrays that are not C-contiguous, or
            of another library or device.
    """

    place: Place
    tracked: tuple[str, ...]
    count: Any
    forgetting: Any
    first_learned: Any
    last_correct: Any
    means: Any
    m2: Any
    claim: Any
    epoch: Any

    def __post_init__(self) -> None:
        _check_tracked(self.tracked)
        n = self.n_examples
        shapes = ((n,), (n,), (n,), (n,), *[(len(self.tracked), n)] * 2, (n,), (1,))
        for field, array, dtype, shape in zip(
            fields(self)[2:], self.arrays, _DTYPES, shapes, strict=True
        ):
            _check_state(f"state.{field.name}", array, self.place, dtype, shape)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The eight arrays, from ``count`` to ``epoch``: what a checkpoint has to hold.

        To go on from one, copy them back: ``array[...] = saved`` for each.
        """
        return tuple(getattr(self, field.name) for field in fields(self)[2:])

    @property
    def n_examples(self) -> int:
        """How many examples; their ids are 0 to n_examples − 1."""
        return int(self.count.shape[0]) if self.count.ndim else 0

    @property
    def bytes_per_example(self) -> int:
        """Bytes of memory an example takes: 17, and 8 per tracked quantity."""
        return 17 + 8 * len(self.tracked)

    def begin_run(self) -> None:
        """Start another training run: no example has been shown in it, and its epoch is 0."""
        self._fill(self.last_correct, 0)
        self._fill(self.epoch, 0)

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch of the presentations that follow; on a GPU in stream order, uncaptured.

        Raises:
            ValueError: Below 0 or above 2³¹ − 1.
        """
        if not 0 <= check_integer("epoch", epoch) <= _LARGEST:
            raise ValueError(f"epoch: expected 0 to {_LARGEST}, found {epoch}")
        self._fill(self.epoch, epoch)

    def mean(self, name: str) -> Any:
        """(n,) float32, a copy: mean of a tracked quantity; NaN for an example never shown."""
        with self.place.on_device():
            return self.means[self._slot(name)] * 1  # a copy, in every library

    def variance(self, name: str) -> Any:
        """(n,) float32: mean squared distance from the mean; NaN for an example never shown."""
        with self.place.on_device():
            return self.m2[self._slot(name)] / self._counts()

    def sum(self, name: str) -> Any:
        """(n,) float32: sum of a tracked quantity; NaN for an example never shown."""
        with self.place.on_device():
            return self.means[self._slot(name)] * self._counts()

    def _slot(self, name: str) -> int:
        if name not in self.tracked:
            raise ValueError(
                f"expected one of {', '.join(self.tracked) or 'no quantities'}; found {name!r}"
                + (", which tracked= of new_statistics adds" if name in QUANTITIES else "")
            )
        return self.tracked.index(name)

    def _counts(self) -> Any:
        # NumPy and CuPy would divide a float32 by an int32 in float64.
        torch = self.place.library == "torch"
        return self.count.float() if torch else self.count.astype("float32")

    def _fill(self, array: Any, value: float) -> None:
        with self.place.on_device():
            array.fill_(value) if self.place.library == "torch" else array.fill(value)


def new_statistics(
    n_examples: int,
    tracked: Collection[str] = ("el2n", "margin", "p_label"),
    like: Any = None,
) -> Statistics:
    """Statistics of examples that have not been shown yet.

    Args:
        n_examples: How many, n ≥ 0.
        tracked: Fields of RowScores whose mean and variance are kept; may be empty.
        like: An array of the library and on the device where they are to lie; by default NumPy.

    Returns:
        The statistics. O(n) time; 17 + 8 · len(tracked) bytes an example.

    Raises:
        TypeError: ``n_examples`` is no integer, or ``like`` no array.
        ValueError: ``n_examples`` is negative, or a name is unknown or named twice.
    """
    if check_integer("n_examples", n_examples) < 0:
        raise ValueError(f"n_examples: expected 0 or more, found {n_examples}")
    _check_tracked(tracked)
    place = Place("numpy", "cpu") if like is None else place_of(like=like)
    many = (n_examples,)
    moments = (len(tracked), n_examples)
    statistics = Statistics(
        place=place,
        tracked=tuple(name for name in QUANTITIES if name in tracked),
        count=place.empty(many, "int32"),
        forgetting=place.empty(many, "int32"),
        first_learned=place.empty(many, "int32"),
        last_correct=place.empty(many, "uint8"),
        means=place.empty(moments, "float32"),
        m2=place.empty(moments, "float32"),
        claim=place.empty(many, "int32"),
        epoch=place.empty((1,), "int32"),
    )
    for array, value in zip(statistics.arrays, (0, 0, -1, 0, np.nan, np.nan, -1, 0), strict=True):
        statistics._fill(array, value)
    return statistics


def _check_tracked(tracked: Any) -> None:
    if isinstance(tracked, str) or not isinstance(tracked, Collection):
        raise TypeError(f"tracked: expected a tuple of names, found {tracked!r}")
    names = list(tracked)
    if any(name not in QUANTITIES for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"tracked: expected some of {', '.join(QUANTITIES)}, each once; found "
            f"{', '.join(map(repr, names))}"
        )


def _check_state(name: str, array: Any, place: Place, dtype: str, shape: tuple[int, ...]) -> None:
    """Kernels write to these without looking again."""
    found = place_of(**{name: array})
    if found != place:
        raise ValueError(f"{name}: expected an array of {place}, found one of {found}")
    if dtype_of(array) != dtype:
        raise TypeError(f"{name}: expected {dtype}, found {dtype_of(array)}")
    if tuple(array.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, found {tuple(array.shape)}")
    contiguous = (1,) if len(shape) == 1 else (shape[1], 1)
    steps = zip(shape, strides_of(array), contiguous, strict=True)
    if 0 not in shape and any(many > 1 and step != right for many, step, right in steps):
        raise ValueError(f"{name}: expected a C-contiguous array, found another layout")


def update_statistics(
    state: Statistics, example_ids: Any, scores: RowScores, *, distinct: bool = False
) -> None:
    """Take one presentation of some examples into their statistics.

    An id that the call holds several times counts once, with its last row: a loader that fills up
    its last batch repeats examples. The result depends neither on the number of threads nor on
    their order. After 1,000 presentations a mean is within 4e-6 of float64's, relative to the mean
    or to the standard deviation, whichever is larger, and a variance within 1e-3 of its own size
    where the standard deviation is at least a thousandth of the mean. A value that is NaN or
    infinite makes that mean and variance NaN for good.

    On a GPU it is two launches on the caller's current stream, with ``distinct`` one; nothing is
    copied, nothing waits, and a CUDA graph of torch can capture it once it has run.

    Args:
        state: Changed in place.
        example_ids: (b,) int64 or int32 from 0 to n_examples − 1, in any order; of the library and
            on the device of the state. On a GPU rows with an id out of range are skipped, because
            checking would stall the stream.
        scores: Of the same b rows; only the tracked fields and ``correct`` are looked at.
        distinct: A promise that no id comes twice, which saves a launch on a GPU; if it is broken
            there, statistics of that id are undefined. On a CPU it changes nothing.

    Raises:
        TypeError: Arrays of another kind or dtype, or of two libraries.
        ValueError: Shapes that do not fit, two devices, more than 2³¹ − 1 rows, or on the CPU an id
            out of range; nothing has been changed then.
    """
    if not isinstance(scores, RowScores):
        raise TypeError(f"scores: expected RowScores, found {type(scores).__qualname__}")
    n_rows = check_presentation(state, example_ids)
    used = {f"scores.{name}": getattr(scores, name) for name in (*state.tracked, "correct")}
    place_of(example_ids=example_ids, **used)
    for name, array in used.items():
        dtype = "bool" if name == "scores.correct" else "float32"
        check_vector(name, array, (dtype,), n_rows)
    if n_rows and state.place.on_gpu:
        _on_gpu(state, example_ids, scores, distinct)
    elif n_rows:
        _on_cpu(state, example_ids, scores)


def check_presentation(state: Statistics, example_ids: Any) -> int:
    """Refuse ids that do not fit the statistics; gives the number of rows.

    Raises:
        TypeError: As :func:`update_statistics`.
        ValueError: As :func:`update_statistics`.
    """
    if not isinstance(state, Statistics):
        raise TypeError(f"state: expected Statistics, found {type(state).__qualname__}")
    place_of(**{"state.count": state.count, "example_ids": example_ids})
    for field, array in zip(fields(state)[2:], state.arrays, strict=True):
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise TypeError(
                f"state.{field.name}: expected an array to write to, found a read-only one"
            )
    n_rows = int(example_ids.shape[0]) if example_ids.ndim else 0
    if n_rows > _LARGEST:
        raise ValueError(f"example_ids: expected at most {_LARGEST} rows, found {n_rows}")
    check_vector("example_ids", example_ids, ("int64", "int32"), n_rows)
    check_integers("example_ids", example_ids, n_rows, below=state.n_examples)
    return n_rows


def _on_cpu(state: Statistics, example_ids: Any, scores: RowScores) -> None:
    from tamis_kernels.cpu.update_statistics import launch

    host = state.place.host
    values = np.empty((len(state.tracked), len(example_ids)), np.float32)
    for row, name in zip(values, state.tracked, strict=True):
        row[:] = host(getattr(scores, name))
    # Copies, because a read-only array would have the loop compiled once more.
    ids, correct = np.array(host(example_ids), np.int64), np.array(host(scores.correct))
    launch(ids, values, correct, tuple(host(array) for array in state.arrays))


def _on_gpu(state: Statistics, example_ids: Any, scores: RowScores, distinct: bool) -> None:
    from tamis_kernels.cuda.cupy_door import CupyRuntime, contiguous
    from tamis_kernels.cuda.update_statistics import launch

    launch(
        CupyRuntime(state.place),
        state.arrays,
        contiguous(example_ids),
        {QUANTITIES.index(name): contiguous(getattr(scores, name)) for name in state.tracked},
        contiguous(scores.correct),
        distinct=distinct,
    )

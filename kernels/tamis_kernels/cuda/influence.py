"""Launches of influence.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis_kernels.arrays import strides_of
from tamis_kernels.cuda.launching import Runtime, blocks_for

__all__ = ["launch_influence", "launch_memorization"]

_STEM = "influence"
# The source's BLOCK_THREADS, TILE, models of a step and words that they take of a tile.
_THREADS, _TILE, _STEP, _STEP_WORDS = 256, 128, 256, 1024
_WARP = 32


def launch_influence(
    runtime: Runtime,
    masks: Any,
    correct: Any,
    outputs: tuple[Any, ...],
    *,
    enough_blocks: int = 1024,
) -> None:
    """Reduce the influence of n_train ≥ 1 training examples.

    Args:
        runtime: The device and its stream.
        masks: (m, n_train) bool or uint8, neighbouring examples side by side; models may lie apart.
        correct: (m, n_test) likewise.
        outputs: Two (n_train,) float32: the largest influence, and the sum.
        enough_blocks: Where training examples make fewer, blocks share the test examples.
    """
    n_models, n_train = masks.shape
    train, test = _packed(runtime, masks, 0), _packed(runtime, correct, 1)
    largest, total = runtime.empty((n_train,), "int32"), runtime.empty((n_train,), "int64")
    blocks = blocks_for(n_train, _THREADS)
    start = (np.int64(n_train), largest, total)
    runtime.launch(_STEM, "influence_start", (blocks,), _THREADS, start)
    if correct.shape[1]:
        tiles = blocks_for(n_train, _TILE)
        shares = min(blocks_for(correct.shape[1], _TILE), blocks_for(enough_blocks, tiles))
        sizes = (np.int32(n_models), np.int32(blocks_for(n_models, _STEP)))
        arguments = (*train, *test, *sizes, largest, total)
        runtime.launch(_STEM, "influence_reduce", (tiles, shares), _THREADS, arguments)
    finish = (largest, total, train[1], np.int64(n_train), np.int32(n_models), *outputs)
    runtime.launch(_STEM, "influence_finish", (blocks,), _THREADS, finish)


def launch_memorization(runtime: Runtime, masks: Any, correct: Any, output: Any) -> None:
    """Influence of n ≥ 1 training examples on themselves.

    Args:
        runtime: The device and its stream.
        masks: As :func:`launch_influence`.
        correct: (m, n) likewise.
        output: (n,) float32.
    """
    arguments = (*_rows(masks), *_rows(correct), *_sizes(masks), output)
    blocks = blocks_for(masks.shape[1], _WARP)
    runtime.launch(_STEM, "influence_memorization", (blocks,), _THREADS, arguments)


def _packed(runtime: Runtime, flags: Any, columns: int) -> tuple[Any, Any, Any]:
    """Words of 32 models, the models of each example, and the number of examples."""
    n_models, n_examples = flags.shape
    tiles, steps = blocks_for(n_examples, _TILE), blocks_for(n_models, _STEP)
    words = runtime.empty((tiles, steps * _STEP_WORDS), "int32")
    counts = runtime.empty((tiles * _TILE,), "int32")
    if n_examples:
        arguments = (
            *_rows(flags),
            *_sizes(flags),
            np.int32(steps),
            np.int32(columns),
            words,
            counts,
        )
        blocks = tiles * _TILE // _WARP
        runtime.launch(_STEM, "influence_pack", (blocks,), _THREADS, arguments)
    return words, counts, np.int64(n_examples)


def _rows(flags: Any) -> tuple[Any, ...]:
    return flags, np.int64(strides_of(flags)[0])


def _sizes(flags: Any) -> tuple[Any, ...]:
    return np.int32(flags.shape[0]), np.int64(flags.shape[1])

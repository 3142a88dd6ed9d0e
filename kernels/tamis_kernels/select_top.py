"""The rows with the highest scores, each class's quota first, without sorting."""

from __future__ import annotations

import zlib
from typing import Any

from tamis_kernels.arrays import (
    Place,
    check_integer,
    check_integers,
    check_vector,
    dtype_of,
    place_of,
)

__all__ = ["select_top", "tie_key"]

_ON_GPU = ("int64", "int32")
_MOST_ROWS, _MOST_CLASSES = 2**32 - 1, 2**22  # what a 32-bit count and a 32-bit bin can hold
_GOLDEN, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def select_top(
    scores: Any,
    ids: Any,
    count: int,
    *,
    labels: Any = None,
    quotas: Any = None,
    seed: int = 0,
) -> Any:
    """Mark the ``count`` best rows.

    The order: higher score first, +0 and −0 alike, NaN below −∞; rows of equal score by a hash of
    id and seed (``tie_hash`` in ``reference/select_top.py``), never by position. Only rows
    that share score and id are ordered by position, lowest first. With quotas, each class first
    keeps its best rows up to its quota (all, where it has fewer); what is left of ``count`` goes to
    the best of all other rows, of whatever class (class balance: Sorscher et al. 2022, §5).

    It is a radix select: passes over the rows count digits of (score, hash, position) among those
    that may still lie at a class's threshold, until every threshold is known. The result is exact
    and does not depend on the number of threads. On a GPU it is some 35 launches, with quotas twice
    that, most of which end at once, on the caller's current stream; nothing is copied or waited
    for, and a CUDA graph of torch can capture them once they have run.

    Args:
        scores: (n,) float32, n < 2³²: a NumPy array, a torch tensor or a CuPy array.
        ids: (n,) int64 or int32, of the same library and on the same device, as all below.
        count: Rows to keep, 0 to n.
        labels: (n,) integers, each below the number of quotas; on a GPU int64 or int32, and there a
            row with a label out of range has no quota, because checking would stall the stream.
        quotas: (n_classes ≤ 2²²,) integers ≥ 0 that sum to at most ``count``; on a GPU int64 or
            int32, and there a negative one counts as 0, and nothing is filled up where the quotas
            alone take ``count`` rows or more.
        seed: Any integer: another one ranks the rows of equal score differently.

    Returns:
        (n,) bool, ``count`` of them True. O(n) time, fewer passes the more the scores differ;
        memory besides the result is at most 64 MiB on a CPU (up to a million classes) and 1 KiB a
        class on a GPU. Labels of other types than int64 and int32 are copied, and on a GPU whatever
        is not contiguous.

    Raises:
        TypeError: Arrays of another kind or dtype, of two libraries, labels without quotas, quotas
            without labels, or a count or seed that is not an integer.
        ValueError: Shapes that do not fit, two devices, a count out of range, and on the CPU labels
            or quotas out of range.
    """
    count, seed = check_integer("count", count), check_integer("seed", seed)
    if (labels is None) != (quotas is None):
        raise TypeError("labels, quotas: expected both or neither, found one of them")
    by_class = {} if labels is None else {"labels": labels, "quotas": quotas}
    place = place_of(scores=scores, ids=ids, **by_class)
    _check_rows(scores, ids, count)
    if labels is not None:
        _check_classes(place, labels, quotas, int(scores.shape[0]), count)
    kept = place.empty(tuple(scores.shape), "bool")
    if len(scores):
        run = _on_gpu if place.on_gpu else _on_cpu
        run(place, scores, ids, count, labels, quotas, tie_key(seed), kept)
    return kept


def _check_rows(scores: Any, ids: Any, count: int) -> None:
    n_rows = _length("scores", scores)
    check_vector("scores", scores, ("float32",), n_rows)
    if n_rows > _MOST_ROWS:
        raise ValueError(f"scores: expected at most {_MOST_ROWS} rows, found {n_rows}")
    check_vector("ids", ids, _ON_GPU, n_rows)
    if not 0 <= count <= n_rows:
        raise ValueError(f"count: expected 0 to {n_rows}, found {count}")


def _check_classes(place: Place, labels: Any, quotas: Any, n_rows: int, count: int) -> None:
    n_classes = _length("quotas", quotas)
    if place.on_gpu:
        check_vector("quotas", quotas, _ON_GPU, n_classes)
        check_vector("labels", labels, _ON_GPU, n_rows)
    else:
        check_integers("quotas", quotas, n_classes, below=count + 1)
        _check_labels(labels, n_rows, n_classes)
        total = int(quotas.sum())  # cannot overflow: none is above count
        if total > count:
            raise ValueError(f"quotas: expected a sum of at most count, {count}, found {total}")
    if n_classes > _MOST_CLASSES:
        raise ValueError(f"quotas: expected at most {_MOST_CLASSES} classes, found {n_classes}")


def _check_labels(labels: Any, n_rows: int, n_classes: int) -> None:
    try:
        check_integers("labels", labels, n_rows, below=n_classes)
    except ValueError as error:
        raise ValueError(f"{error} (quotas: {n_classes})") from None


def _length(name: str, array: Any) -> int:
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape (n,), found {tuple(array.shape)}")
    return int(array.shape[0])


def tie_key(seed: int) -> int:
    """What a seed adds to the hash's input: splitmix64's finaliser of it and of the word "tie".

    Args:
        seed: Any integer.

    Returns:
        A number of 64 bits.
    """
    x = seed & _MASK ^ ((zlib.crc32(b"tie") + 1) * _GOLDEN & _MASK)
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def _on_cpu(place: Place, scores: Any, ids: Any, count: int, *rest: Any) -> None:
    import numpy as np

    from tamis_kernels.cpu.select_top import launch

    labels, quotas, key, kept = rest
    if labels is not None:
        kind = np.int32 if dtype_of(labels) == "int32" else np.int64
        labels = place.host(labels).astype(kind, copy=False)
        quotas = place.host(quotas).astype(np.int64)
    launch(place.host(scores), place.host(ids), count, labels, quotas, key, place.host(kept))


def _on_gpu(place: Place, scores: Any, ids: Any, count: int, *rest: Any) -> None:
    from tamis_kernels.cuda.cupy_door import CupyRuntime, contiguous
    from tamis_kernels.cuda.select_top import launch

    labels, quotas, key, kept = rest
    if labels is not None:
        labels, quotas = contiguous(labels), contiguous(quotas)
    rows = contiguous(scores), contiguous(ids)
    launch(CupyRuntime(place), *rows, count, labels, quotas, key, kept)

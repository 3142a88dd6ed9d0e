"""Nearest and second nearest prototype, without an array of all distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.arrays import Place, check_matrix, dtype_of, place_of, strides_of

__all__ = ["Nearest", "nearest_prototype"]

_DTYPES = ("float32", "float64", "float16", "bfloat16")
_GPU_DTYPES = ("float32", "float16", "bfloat16")
_LARGEST = 1e100  # whose square float64 holds
_Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Nearest:
    """The prototypes nearest to n rows; arrays of the rows' library, on their device.

    Attributes:
        index: (n,) int64, the nearest; ties go to the lowest index.
        distance: (n,) float32 to it.
        second_distance: (n,) float32 to the second nearest; infinite with one prototype.
    """

    index: Any
    distance: Any
    second_distance: Any


def nearest_prototype(
    x: Any,
    prototypes: Any,
    metric: _Metric = "cosine",
) -> Nearest:
    """Find the nearest prototype of each row.

    Products of centred vectors in few bits (int8 or bfloat16 where the hardware multiplies them)
    exclude most prototypes by a proven bound; those left over are measured from the vectors as
    given, near ties in float64. The index is therefore float64's, wherever float64 tells the two
    apart.

    Args:
        x: (n, d) float32, float64 (not on a GPU), float16 or bfloat16, d ≥ 1; a NumPy array, which
            may be memory-mapped, a torch tensor or a CuPy array.
        prototypes: (k, d) of the same library and device, k ≥ 1; numbers up to 1e100, and for
            cosine the largest of each at least 1e-100.
        metric: "cosine" (1 − cos; no vector may be all zero, no norm of a row beyond 1e±150) or
            "euclidean" (‖x − p‖₂).

    Returns:
        The result; distances beyond float32's range are infinite. At Euclidean distance a row with
        a NaN is at distance NaN. On a GPU, where nothing is read back, a row without a direction is
        at cosine distance NaN. O(n · k · d) time; memory beyond the result is O(k · d), about 16
        bytes a row, and at most 64 MB.

    Raises:
        TypeError: Arrays of another kind or dtype, or of two libraries.
        ValueError: Shapes or metric that do not fit, two devices, or on the CPU prototypes that are
            not finite, and for cosine a row without a direction.
    """
    place = place_of(x=x, prototypes=prototypes)
    _check(place, x, prototypes, metric)
    n_rows = int(x.shape[0])
    found = Nearest(
        place.empty((n_rows,), "int64"),
        place.empty((n_rows,), "float32"),
        place.empty((n_rows,), "float32"),
    )
    if n_rows and place.on_gpu:
        _on_gpu(place, x, prototypes, metric, found)
    elif n_rows:
        _on_cpu(place, x, prototypes, metric == "cosine", found)
    return found


def _check(place: Place, x: Any, prototypes: Any, metric: str) -> None:
    dtypes = _GPU_DTYPES if place.on_gpu else _DTYPES
    check_matrix("x", x, dtypes)
    check_matrix("prototypes", prototypes, dtypes, "(k, d)")
    if x.shape[1] != prototypes.shape[1] or not x.shape[1]:
        raise ValueError(
            f"expected x (n, d ≥ 1), prototypes (k, d); found {tuple(x.shape)}, "
            f"{tuple(prototypes.shape)}"
        )
    if not len(prototypes):
        raise ValueError("prototypes: expected at least one, found none")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric: expected cosine or euclidean, found {metric!r}")


def _on_cpu(place: Place, x: Any, prototypes: Any, unit: bool, found: Nearest) -> None:
    import numba

    from tamis_kernels.cpu.nearest_prototype import ProductSearch

    table = _widened(place.host(prototypes), dtype_of(prototypes))
    sizes = np.abs(table).max(axis=1).astype(np.float64)
    bad = ~(sizes <= _LARGEST) | (unit & (sizes < 1 / _LARGEST))
    if bad.any():
        expected = "with a direction, of numbers of 1e-100" if unit else "of numbers up"
        raise ValueError(
            f"prototypes: expected finite ones {expected} to 1e100, found {int(bad.sum())} others, "
            f"the first is row {int(bad.argmax())}"
        )
    rows, kind = place.rows(x)
    distance, second = np.empty(len(rows)), np.empty(len(rows))
    n_unusable = ProductSearch(table, unit=unit, workers=numba.get_num_threads()).search(
        rows,
        kind,
        np.arange(len(rows)),
        place.host(found.index),
        distance,
        second,
    )
    if n_unusable:
        raise ValueError(
            f"x: expected rows with a direction for cosine, found {n_unusable} of {len(rows)} that "
            "are all zero, not finite or beyond 1e±150"
        )
    with np.errstate(over="ignore"):  # as documented
        place.host(found.distance)[:] = distance
        place.host(found.second_distance)[:] = second


def _widened(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """float16 and bfloat16 (its bits) as float32; the others as they are."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if dtype == "float16" else values


def _on_gpu(place: Place, x: Any, prototypes: Any, metric: _Metric, found: Nearest) -> None:
    from tamis_kernels.cuda.cupy_door import CupyRuntime, contiguous
    from tamis_kernels.cuda.nearest_prototype import launch

    launch(
        CupyRuntime(place),
        x if strides_of(x)[1] == 1 else contiguous(x),
        dtype_of(x),
        contiguous(prototypes),
        dtype_of(prototypes),
        metric,
        (found.index, found.distance, found.second_distance),
    )

"""Prototypes made ready for a search by matrix products, and the error that such a product makes.

With v = x − c and p' = p − c, where c is the mean of the prototypes, the nearest prototype of x has
the largest score v·p' − ‖p'‖²/2. (Of the cosine metric, x and p are the unit vectors: half of their
squared distance is 1 − cos.) Centring makes the vectors, and with them every rounding error, as
small as an offset of the data allows. Products see rounded vectors v̂ and p̂; by Cauchy–Schwarz

    |v·p' − v̂·p̂| ≤ ‖v − v̂‖ ‖p̂‖ + ‖v‖ ‖p' − p̂‖,

with residual norms that are measured, not estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.cpu.products import Precision

__all__ = ["MULTIPLE", "Table", "prepare"]

MULTIPLE = 16
"""Tables are padded to a multiple of this many prototypes, which products run faster with."""

_UNIT = 2.0**-24  # half a unit in the last place of a float32 near one
_ROUND_UP = 1 + 2.0**-18  # covers the rounding of the norms themselves
_FAR = np.float32(1e37)  # half squared norm of the padding, which is never near


@dataclass(frozen=True)
class Table:
    """k prototypes of d dimensions.

    Attributes:
        precision: What products are computed in.
        unit: Whether the vectors are divided by their norms first (cosine).
        exact: (k, d) float32 or float64, as given.
        inverse_norms: (k,) float64, 1/‖p‖; ones where ``unit`` is false.
        centre: (d,) float64, c.
        inverse_size: Power of two that brings the largest |p'| near one.
        operand: (d, k padded) p̂ in units of ``scale``, what rows are multiplied with: int8,
            float32, or uint16 bits of bfloat16.
        scale: (k padded,) float32.
        half_norms: (k padded,) float32, ‖p'‖²/2 after scaling by ``inverse_size``.
        errors: (k, 2) float32, rounded up: ‖p'‖ and ‖p' − p̂‖.
        largest: (4,) float32: largest ‖p'‖, largest ‖p' − p̂‖, largest ‖p'‖²/2, and the error of a
            product's sum relative to ‖v‖ ‖p'‖.
    """

    precision: Precision
    unit: bool
    exact: NDArray[Any]
    inverse_norms: NDArray[np.float64]
    centre: NDArray[np.float64]
    inverse_size: float
    operand: NDArray[Any]
    scale: NDArray[np.float32]
    half_norms: NDArray[np.float32]
    errors: NDArray[np.float32]
    largest: NDArray[np.float32]


def prepare(prototypes: NDArray[Any], *, unit: bool, precision: Precision) -> Table:
    """Centre, scale and round prototypes (k, d) float32 or float64, finite. O(k · d)."""
    exact = np.ascontiguousarray(prototypes)
    n_prototypes, n_dimensions = exact.shape
    # In blocks of float64 only where they are needed: k · d may be a hundred times a chunk of rows.
    vectors = exact.astype(np.float64)
    inverse_norms = np.ones(n_prototypes)
    if unit:
        inverse_norms = 1 / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        vectors *= inverse_norms[:, None]
    centre = vectors.mean(axis=0)
    vectors -= centre
    size = float(np.abs(vectors).max(initial=0.0))
    inverse_size = 2.0 ** -np.frexp(size)[1] if size > 1e-200 else 1.0
    vectors *= inverse_size
    padded = -(-n_prototypes // MULTIPLE) * MULTIPLE
    scale, operand, seen = _rounded(vectors, padded, precision)
    norms = np.sqrt(np.maximum((vectors**2).sum(axis=1), (seen**2).sum(axis=1))) * _ROUND_UP
    residuals = np.sqrt(((vectors - seen) ** 2).sum(axis=1)) * _ROUND_UP
    half_norms = np.full(padded, _FAR)
    half_norms[:n_prototypes] = 0.5 * (vectors**2).sum(axis=1)
    # float32 sums of d products in any order; int32 sums are exact.
    summing = 0.0 if precision == "int8" else 1.01 * (n_dimensions + 4) * _UNIT
    largest = (norms.max(), residuals.max(), half_norms[:n_prototypes].max(), summing)
    return Table(
        precision,
        unit,
        exact,
        inverse_norms,
        centre,
        inverse_size,
        operand,
        scale,
        half_norms.astype(np.float32),
        np.nextafter(np.stack([norms, residuals], axis=1).astype(np.float32), np.float32(np.inf)),
        np.nextafter(np.array(largest, np.float32), np.float32(np.inf)),
    )


def _rounded(
    vectors: NDArray[np.float64], padded: int, precision: Precision
) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float64]]:
    """Scales, operand, and the vectors as the operand holds them."""
    n_prototypes, n_dimensions = vectors.shape
    scale = np.ones(padded, np.float32)
    if precision == "float32":
        operand = np.zeros((n_dimensions, padded), np.float32)
        operand[:, :n_prototypes] = vectors.T
        return scale, operand, operand[:, :n_prototypes].T.astype(np.float64)
    if precision == "bfloat16":
        operand16 = np.zeros((n_dimensions, padded), np.uint16)
        bits = vectors.astype(np.float32).view(np.uint32)
        # To the nearest, halves to even.
        operand16[:, :n_prototypes] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).T
        widened = (operand16[:, :n_prototypes].astype(np.uint32) << 16).view(np.float32)
        return scale, operand16, widened.T.astype(np.float64)
    sizes = np.abs(vectors).max(axis=1)
    scale[:n_prototypes] = np.where(sizes > 1e-30, sizes / 127, 1.0)
    steps = scale[:n_prototypes, None].astype(np.float64)
    codes = np.clip(np.rint(vectors / steps), -127, 127)
    operand = np.zeros((n_dimensions, padded), np.int8)
    operand[:, :n_prototypes] = codes.T
    return scale, operand, codes * steps

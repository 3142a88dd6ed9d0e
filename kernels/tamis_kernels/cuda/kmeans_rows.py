"""The rows of a k-means on a GPU, with what is kept of each between iterations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis_kernels.arrays import Place, check_norms, dtype_of
from tamis_kernels.cuda.kmeans import Scratch, label_sums, row_norms, scratch_for
from tamis_kernels.cuda.launching import Runtime
from tamis_kernels.cuda.nearest_prototype import launch as nearest

__all__ = ["GpuRows"]


class GpuRows:
    """n rows in blocks, and 20 bytes of state a row beside 16 of the largest block.

    Labels and sums stay on the device; centres, k · d numbers, go there and back in each iteration,
    which is where it waits for the device.

    Args:
        blocks: Gives the blocks anew for every pass, the same each time: (n, d) float32, float16 or
            bfloat16, of ``place``.
        place: Where they lie.
        runtime: Of that device.
        unit: Rows are divided by their norms.
        weights: (n,) float64 on the host, or None for ones.
        bits: The dtype that uint16 blocks stand for; None where the blocks' own dtype says it.

    Raises:
        ValueError: As :class:`tamis_kernels.cpu.kmeans_rows.CpuRows`.
    """

    def __init__(
        self,
        blocks: Iterable[Any],
        place: Place,
        runtime: Runtime,
        *,
        unit: bool,
        weights: NDArray[np.float64] | None,
        bits: str | None = None,
    ) -> None:
        self._blocks, self._place, self._runtime = blocks, place, runtime
        self._unit, self._bits = unit, bits
        norms = []
        for x in blocks:
            of_block = place.empty((x.shape[0],), "float64")
            if len(x):
                row_norms(runtime, x, self._dtype(x), of_block)
            norms.append(place.to_host(of_block))
        of_row = np.concatenate(norms) if norms else np.empty(0)
        check_norms("x", of_row, directed=unit)
        self.n_rows = len(of_row)
        if weights is not None and len(weights) != self.n_rows:
            raise ValueError(f"weights: expected {self.n_rows} of them, found {len(weights)}")
        self._factors = 1 / of_row if unit else np.ones(self.n_rows)
        # As the device will take them, so that the objective's terms belong together.
        given = np.ones(self.n_rows) if weights is None else weights
        multipliers = (given * self._factors).astype(np.float32)
        of_row *= multipliers * (1 if unit else of_row)  # w‖x‖ of x/‖x‖, or w‖x‖²
        self.total_squares = float(of_row.sum())
        self.total_weight = float(given.sum())
        plain = weights is None and not unit
        self._multipliers = None if plain else place.from_host(multipliers)
        self.labels = place.from_host(np.full(self.n_rows, -1, np.int64))
        self._scratch: dict[tuple[int, int, int], Scratch] = {}

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows, ascending, on the host, divided by their norms where that is asked for."""
        taken = []
        for part, x in self._passes():
            some = rows[(rows >= part.start) & (rows < part.stop)]
            with self._place.on_device():
                picked = x[self._place.from_host(some - part.start)]
            taken.append(self._as_float64(picked) * self._factors[some, None])
        return np.concatenate(taken).astype(np.float32)

    def assign(
        self, centres: NDArray[np.float32], exact: NDArray[np.float64], drift: NDArray[Any] | None
    ) -> int:
        """Give every row the label of its nearest centre; returns how many changed."""
        prototypes = self._place.from_host(centres)
        n_changed = 0
        for part, x in self._passes():
            labels = self.labels[part]
            found = self._place.empty((x.shape[0],), "int64")
            distances = [self._place.empty((x.shape[0],), "float32") for _ in range(2)]
            nearest(
                self._runtime,
                x,
                self._dtype(x),
                prototypes,
                "float32",
                "cosine" if self._unit else "euclidean",
                (found, *distances),
            )
            with self._place.on_device():
                n_changed += int((labels != found).sum())
                labels[:] = found
        return n_changed

    def sums(self, n_centres: int, n_dimensions: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Σ w·x of each label (k, d) and Σ w (k,), float64 on the host; with ``unit`` of x/‖x‖.

        There the second is Σ w/‖x‖, which is positive for the same labels.
        """
        sums, totals = np.zeros((n_centres, n_dimensions)), np.zeros(n_centres)
        for part, x in self._passes():
            shape = (x.shape[0], n_dimensions, n_centres)
            if shape not in self._scratch:
                self._scratch = {shape: scratch_for(self._runtime, *shape)}
            of_block = self._place.empty((n_centres, n_dimensions), "float64")
            weight = self._place.empty((n_centres,), "float64")
            label_sums(
                self._runtime,
                x,
                self._dtype(x),
                self.labels[part],
                None if self._multipliers is None else self._multipliers[part],
                n_centres,
                of_block,
                weight,
                self._scratch[shape],
            )
            sums += self._place.to_host(of_block)
            totals += self._place.to_host(weight)
        return sums, totals

    def _passes(self) -> Iterator[tuple[slice, Any]]:
        start = 0
        for x in self._blocks:
            if len(x):
                yield slice(start, start + len(x)), x
            start += len(x)
        if start != self.n_rows:
            raise ValueError(f"x: expected {self.n_rows} rows in every pass, found {start}")

    def _dtype(self, x: Any) -> str:
        return self._bits or dtype_of(x)

    def _as_float64(self, rows: Any) -> NDArray[np.float64]:
        if self._dtype(rows) == "bfloat16":
            bits = self._place.to_host(rows).view(np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32).astype(np.float64)
        return self._place.to_host(rows).astype(np.float64)

"""Launch of last_layer_grand.cu: a warp a row, with loads of 16 bytes where rows are aligned."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis_kernels.arrays import strides_of
from tamis_kernels.cuda.launching import Runtime, blocks_for, columns_at_once

__all__ = ["launch"]

_THREADS = 256  # BLOCK_THREADS in the source
_WARP = 32


def launch(
    runtime: Runtime, features: Any, dtype: str, el2n: Any, norms: Any, *, bias: bool
) -> None:
    """Write the gradient norms of n ≥ 1 rows.

    Args:
        runtime: The device and its stream.
        features: (n, d ≥ 1), neighbouring features side by side; rows may lie apart.
        dtype: Of the features: "float32", "float16" or "bfloat16".
        el2n: (n,) float32.
        norms: (n,) float32, written.
        bias: Whether the layer has a bias.
    """
    n_rows, width = features.shape
    arguments = (
        features,
        np.int64(strides_of(features)[0]),
        np.int64(n_rows),
        np.int32(width),
        np.float64(bias),
        el2n,
        norms,
    )
    kernel = f"last_layer_grand_{dtype}_by{columns_at_once(features, dtype)}"
    grid = (blocks_for(n_rows, _THREADS // _WARP),)
    runtime.launch("last_layer_grand", kernel, grid, _THREADS, arguments)

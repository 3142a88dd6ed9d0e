"""The content digest: what a bundle holds, whatever the layout of its pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.layout import Field

__all__ = ["content_digest"]


def content_digest(
    fields: tuple[Field, ...],
    metadata: NDArray[Any],
    example_ids: NDArray[np.int64],
    checksums: NDArray[np.uint64],
) -> str:
    """Hash fields, ids, labels, sizes and record checksums, in order; pointers do not count.

    Args:
        fields: The fields of every example.
        metadata: (n,) FFCV's metadata table.
        example_ids: (n,) int64.
        checksums: (n,) uint64, xxh3 of each example's payload.

    Returns:
        "xxh3:" and 32 hexadecimal digits. O(n).
    """
    state = xxhash.xxh3_128()
    for index, field in enumerate(fields):
        state.update(field.descriptor)
        column = metadata[f"f{index}"]
        if not field.has_payload:
            state.update(np.ascontiguousarray(column).data)
        for name in column.dtype.names or ():
            if name != "ptr":
                state.update(np.ascontiguousarray(column[name]).data)
    state.update(np.ascontiguousarray(example_ids, np.int64).data)
    state.update(np.ascontiguousarray(checksums, np.uint64).data)
    return "xxh3:" + state.hexdigest()

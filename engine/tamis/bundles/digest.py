"""Hashes: of every record, and of all that a bundle holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tamis.bundles.layout import Field
from tamis.bundles.spans import Span

__all__ = ["content_digest", "span_checksums"]


def span_checksums(span: Span) -> NDArray[np.uint64]:
    """xxh3 of the payload bytes of each example in field order, (k,) uint64."""
    view, digest = span.data.data, xxhash.xxh3_64_intdigest
    joined = (span.starts[:, 1:] == span.ends[:, :-1]).all(axis=1)
    if span.starts.shape[1] and joined.all():
        bounds = zip(span.starts[:, 0].tolist(), span.ends[:, -1].tolist(), strict=True)
        return np.array([digest(view[start:end]) for start, end in bounds], np.uint64)
    checksums = np.empty(len(span.positions), np.uint64)
    for i, payloads in enumerate(np.stack([span.starts, span.ends], axis=2).tolist()):
        state = xxhash.xxh3_64()
        for start, end in payloads:
            state.update(view[start:end])
        checksums[i] = state.intdigest()
    return checksums


def content_digest(
    fields: tuple[Field, ...],
    metadata: NDArray[Any],
    sizes: NDArray[np.int64],
    example_ids: NDArray[np.int64],
    checksums: NDArray[np.uint64],
) -> str:
    """Hash fields, ids, labels, sizes and record checksums, in order; pointers do not count.

    Args:
        fields: The fields of every example.
        metadata: (n,) FFCV's metadata table.
        sizes: (n, payload fields) int64 bytes; of a JPEG no other table states them.
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
    state.update(np.ascontiguousarray(sizes, np.int64).data)
    state.update(np.ascontiguousarray(example_ids, np.int64).data)
    state.update(np.ascontiguousarray(checksums, np.uint64).data)
    return "xxh3:" + state.hexdigest()

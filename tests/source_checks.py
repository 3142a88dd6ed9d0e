"""What every source must do, checked against the images that a test has put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.images import decode_any
from tamis.sources.base import Source, SourceItem

__all__ = ["check_bundle", "check_source", "listed", "pixels"]


def listed(source: Source) -> list[tuple[str | None, int]]:
    return [(item.path, item.label) for item in source.items()]


def pixels(item: SourceItem) -> NDArray[np.uint8]:
    """(height, width, 3) uint8, decoded by Pillow where the source gives encoded bytes."""
    data = item.load()
    return decode_any(data) if isinstance(data, bytes) else data


def check_source(
    source: Source, expected: Sequence[tuple[str, int, bytes | NDArray[np.uint8]]]
) -> None:
    """Paths, labels and contents in order, from every start, and what is known before reading."""
    assert len(source) == len(expected)
    sizes = []
    for start in range(len(expected) + 2):
        items = list(source.items(start))
        assert [(i.path, i.label, i.example_id) for i in items] == [
            (path, label, None) for path, label, _ in expected[start:]
        ]
        for item, (_, _, content) in zip(items, expected[start:], strict=True):
            data = item.load()
            assert type(data) is type(content)
            assert np.array_equal(np.frombuffer(data, np.uint8), np.frombuffer(content, np.uint8))
            if isinstance(data, np.ndarray) and isinstance(content, np.ndarray):
                assert (data.shape, data.dtype) == (content.shape, content.dtype)
            if start == 0:
                sizes.append(len(data) if isinstance(data, bytes) else data.nbytes)
    assert (source.largest, source.n_bytes) == (max(sizes), sum(sizes))
    assert source.lineage == ()
    assert source.fingerprint == source.fingerprint != ""


def check_bundle(source: Source, out: Path) -> None:
    """The source, converted to pixels, holds the same as the source."""
    convert(source, out, ConvertSettings(mode="raw"))
    bundle = open_bundle(out)
    assert bundle.paths is not None
    assert list(zip(bundle.paths.to_pylist(), bundle.labels.tolist(), strict=True)) == listed(
        source
    )
    assert bundle.classes == source.classes
    assert bundle.example_ids.tolist() == list(range(len(source)))
    for position, item in enumerate(source.items()):
        _, width, height, data = bundle.image_record(position)
        assert np.array_equal(data.reshape(height, width, 3), pixels(item))

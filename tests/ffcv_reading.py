"""One epoch of plain FFCV over a bundle, as copies that FFCV does not write into again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tamis.arrays import to_numpy

__all__ = ["epoch"]


def epoch(path: Path, pipelines: dict[str, Any], **options: Any) -> Iterator[dict[str, Any]]:
    """Field name → array of one example, for every example that the loader gives."""
    from ffcv.loader import Loader

    options = {"batch_size": 16, "num_workers": 1, "drop_last": False, "seed": 3, **options}
    loader = Loader(str(path), pipelines=pipelines, **options)
    iterator = iter(loader)
    for batch in iterator:
        columns = [to_numpy(column).copy() for column in batch]
        for row in zip(*columns, strict=True):
            yield dict(zip(loader.pipeline_specs, row, strict=True))
    iterator.join()

"""Epochs of plain FFCV over a bundle, as copies that FFCV does not write into again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tamis.arrays import to_numpy

__all__ = ["epoch", "epochs"]


def epoch(path: Path, pipelines: dict[str, Any], **options: Any) -> Iterator[dict[str, Any]]:
    """Field name → array of one example, for every example that the loader gives."""
    return _examples(_loader(path, pipelines, **options))


def epochs(
    path: Path, pipelines: dict[str, Any], orders: Iterable[Any], **options: Any
) -> Iterator[tuple[Any, Iterator[dict[str, Any]]]]:
    """Order → the epoch in it, of one loader, which compiles its pipelines once for all."""
    from ffcv.loader.loader import ORDER_MAP

    loader = _loader(path, pipelines, **options)
    for order in orders:
        loader.traversal_order = ORDER_MAP[order](loader)
        yield order, _examples(loader)


def _loader(path: Path, pipelines: dict[str, Any], **options: Any) -> Any:
    from ffcv.loader import Loader

    options = {"batch_size": 16, "num_workers": 1, "drop_last": False, "seed": 3, **options}
    return Loader(str(path), pipelines=pipelines, **options)


def _examples(loader: Any) -> Iterator[dict[str, Any]]:
    iterator = iter(loader)
    for batch in iterator:
        columns = [to_numpy(column).copy() for column in batch]
        for row in zip(*columns, strict=True):
            yield dict(zip(loader.pipeline_specs, row, strict=True))
    iterator.join()

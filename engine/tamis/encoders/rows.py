"""Batches of images → rows of features, with a place for every example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.arrays import to_numpy
from tamis.bundles.bundle import Bundle
from tamis.encoders.base import Encoder, unusable
from tamis.loaders.batch import Batch, Loader, Skipped
from tamis.loaders.opening import choose_streaming, open_loader
from tamis.loaders.settings import OnError
from tamis.progress import QUIET, Progress

__all__ = ["Dtype", "RowBlock", "RowSettings", "encoder_loader", "features_of", "row_blocks"]

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class RowSettings:
    """How rows are made.

    Attributes:
        dtype: Of their numbers.
        batch_size: Images a batch.
        backend: See :func:`tamis.loaders.opening.open_loader`; ``auto`` streams, since one pass
            does not pay for decoding everything first.
        on_error: ``fail``, or ``skip`` damaged examples.
    """

    dtype: Dtype = "float32"
    batch_size: int = 256
    backend: str = "auto"
    on_error: OnError = "fail"


@dataclass(frozen=True)
class RowBlock:
    """Features of consecutive examples of a bundle.

    Attributes:
        rows: (k, d); NaN where an example was left out.
        state: Of a loader that gives all that comes after them, and maybe some of them; None for
            one that begins.
        skipped: What the loader had left out by then.
    """

    rows: NDArray[Any]
    state: dict[str, Any] | None
    skipped: tuple[Skipped, ...]


def encoder_loader(
    bundle: Bundle,
    encoder: Encoder,
    device: torch.device,
    settings: RowSettings,
    *,
    selection: NDArray[np.int64] | None = None,
    progress: Progress = QUIET,
) -> Loader:
    """Batches as the encoder wants them, in the bundle's order.

    Args:
        bundle: The examples.
        encoder: Says which part of each image it is shown, and how large.
        device: Where batches go.
        settings: How.
        selection: (k,) int64 example ids, all others are left out; None for all.
        progress: Told of decoding into memory.

    Raises:
        UsageError: As :func:`tamis.loaders.opening.open_loader`.
        BundleError: As there.
    """
    backend = settings.backend
    if backend == "auto":
        backend = choose_streaming(device, encoder.decoding["resample"])
    return open_loader(
        bundle,
        batch_size=settings.batch_size,
        resolution=encoder.resolution,
        backend=backend,
        center_ratio=encoder.crop_ratio,
        selection=selection,
        on_error=settings.on_error,
        device=device,
        progress=progress,
        **encoder.decoding,
    )


def row_blocks(
    bundle: Bundle, encoder: Encoder, loader: Loader, dtype: Dtype, start: int, stop: int
) -> Iterator[RowBlock]:
    """Rows of a range of the bundle, a batch at a time.

    Args:
        bundle: The examples.
        encoder: Makes the rows.
        loader: Gives the examples from ``start`` or a little before it up to ``stop``, in the
            bundle's order; damaged ones may be missing.
        dtype: Of the rows.
        start: First position that is wanted.
        stop: The one after the last.

    Raises:
        UsageError: Features that are not finite, or too large for float16.
        BundleError: A damaged record that is not to be skipped.
        WorkFailedError: The file cannot be read.
    """
    in_order = np.argsort(bundle.example_ids, kind="stable")
    state = loader.state_dict() if start else None
    done = start

    def left_out(end: int) -> Iterator[RowBlock]:
        """Rows of damaged examples, up to a position."""
        nonlocal done
        while done < end:
            n = min(end - done, loader.batch_size)
            done += n
            # The loader stands after the batch that comes next.
            rows = np.full((n, encoder.n_features), np.nan, dtype)
            yield RowBlock(rows, state, loader.skipped)

    for batch in loader:
        found = np.searchsorted(bundle.example_ids, batch.example_ids, sorter=in_order)
        positions = in_order[found]
        yield from left_out(int(positions[0]))
        rows = np.full((positions[-1] + 1 - positions[0], encoder.n_features), np.nan, dtype)
        rows[positions - positions[0]] = features_of(encoder, batch, dtype)
        done += len(rows)
        state = loader.state_dict()
        yield RowBlock(rows, state, loader.skipped)
    yield from left_out(stop)


def features_of(encoder: Encoder, batch: Batch, dtype: Dtype) -> NDArray[Any]:
    """Features of a batch on the host, (b, d) of ``dtype``.

    Raises:
        UsageError: Some are not finite, or too large for float16.
    """
    features: Tensor = encoder(batch.images)
    with np.errstate(over="ignore"):
        rows: NDArray[Any] = to_numpy(features).astype(dtype, copy=False)
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        finite = bool(features[int(wrong[0])].isfinite().all())
        raise unusable(
            encoder.spec,
            expected="finite features" + (" up to 65,504, as float16 holds" if finite else ""),
            found=f"others, the first of example {int(batch.example_ids[wrong[0]])}",
            do="pass --dtype float32" if finite else "check its weights",
        )
    return rows

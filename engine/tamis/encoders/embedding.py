"""Images of a bundle → rows of an ``.npy`` file, in the bundle's order and in one pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis import __version__
from tamis.arrays import to_numpy
from tamis.bundles.bundle import Bundle
from tamis.encoders.base import Encoder, unusable
from tamis.encoders.embedding_file import npy_header, provenance_trailer
from tamis.encoders.unfinished import UnfinishedRows, unfinished_rows
from tamis.loaders.batch import Batch, Loader, Skipped
from tamis.loaders.opening import choose_streaming, open_loader
from tamis.loaders.settings import OnError
from tamis.progress import QUIET, Progress

__all__ = ["Dtype", "EmbeddingReport", "embed_bundle", "embed_examples", "encoder_loader"]

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class EmbeddingReport:
    """A finished file of embeddings.

    Attributes:
        n_examples: Its rows.
        n_features: Its columns.
        dtype: Of its numbers.
        bytes: Its size.
        seconds: What this run took, after the encoder was opened.
        n_resumed: Rows that an earlier run had left.
        images_per_second: Of those that this run embedded.
        skipped: Damaged examples, whose rows are NaN.
        provenance: What the file says of itself.
    """

    n_examples: int
    n_features: int
    dtype: str
    bytes: int
    seconds: float
    n_resumed: int
    images_per_second: float
    skipped: tuple[Skipped, ...]
    provenance: dict[str, Any]


def encoder_loader(
    bundle: Bundle,
    encoder: Encoder,
    device: torch.device,
    *,
    batch_size: int = 256,
    backend: str = "auto",
    on_error: OnError = "fail",
    selection: NDArray[np.int64] | None = None,
    progress: Progress = QUIET,
) -> Loader:
    """Batches as the encoder wants them, in the bundle's order.

    Args:
        bundle: The examples.
        encoder: Says which part of each image it is shown, and how large.
        device: Where batches go.
        batch_size: Images a batch.
        backend: See :func:`tamis.loaders.opening.open_loader`; ``auto`` streams, since one pass
            does not pay for decoding everything first.
        on_error: ``fail``, or ``skip`` damaged examples.
        selection: (k,) int64 example ids, all others are left out; None for all.
        progress: Told of decoding into memory.

    Raises:
        UsageError: As :func:`tamis.loaders.opening.open_loader`.
        BundleError: As there.
    """
    return open_loader(
        bundle,
        batch_size=batch_size,
        resolution=encoder.resolution,
        backend=choose_streaming(device) if backend == "auto" else backend,
        center_ratio=encoder.crop_ratio,
        selection=selection,
        on_error=on_error,
        device=device,
        progress=progress,
    )


def embed_examples(
    encoder: Encoder, loader: Loader, *, progress: Progress = QUIET
) -> NDArray[np.float32]:
    """Embeddings of one epoch in the loader's order, in memory.

    Returns:
        (n, d) float32 of the examples that the loader gave.

    Raises:
        UsageError: Features that are not finite.
        BundleError: A damaged record that is not to be skipped.
    """
    rows = np.empty((loader.n_examples, encoder.n_features), np.float32)
    done = 0
    with progress.task("embed", loader.n_examples) as advance:
        for batch in loader:
            made = _rows(encoder, batch, "float32")
            rows[done : done + len(made)] = made
            done += len(made)
            advance(len(made))
    return rows[:done]


def embed_bundle(
    bundle: Bundle,
    encoder: Encoder,
    out: Path,
    device: torch.device,
    *,
    dtype: Dtype = "float32",
    batch_size: int = 256,
    backend: str = "auto",
    on_error: OnError = "fail",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> EmbeddingReport:
    """Write the embeddings of every example, in the bundle's order, as an ``.npy`` file.

    Rows are written as they are made, under a hidden name, and the file appears when it is whole.
    What a killed run has left can be resumed by the same call with ``resume``, and ends with the
    same bytes. See :mod:`tamis.encoders.embedding_file` for what follows the array.

    Memory: batches, and O(n) for ids. With ``on_error="skip"`` the rows of damaged examples are
    NaN, so that row i always belongs to the bundle's example i.

    Args:
        bundle: The examples.
        encoder: Makes the rows.
        out: The file to write.
        device: Where batches go; the encoder's.
        dtype: Of the numbers in the file. float16 halves it, and keeps three digits.
        batch_size: Images a batch.
        backend: See :func:`encoder_loader`.
        on_error: ``fail``, or ``skip`` damaged examples.
        overwrite: Replace an existing file, and what an interrupted run left.
        resume: Go on with what it left.
        progress: Told of every batch.

    Raises:
        UsageError: The output exists; what is resumed was another task; features that are not
            finite, or too large for float16.
        BundleError: A damaged record that is not to be skipped.
        WorkFailedError: The file cannot be written.
    """
    start = time.perf_counter()
    backend = choose_streaming(device) if backend == "auto" else backend
    task = {
        "bundle": bundle.digest,
        "encoder": encoder.provenance(),
        "dtype": dtype,
        "batch_size": batch_size,
        "loader": backend,
        "device": device.type,
        "tamis": __version__,
    }
    header = npy_header((bundle.n_examples, encoder.n_features), dtype)
    with unfinished_rows(out, task, header, overwrite=overwrite, resume=resume) as work:
        n_resumed = work.n_rows
        with progress.task("embed", bundle.n_examples) as advance:
            advance(n_resumed)
            if n_resumed < bundle.n_examples:
                loader = encoder_loader(
                    bundle,
                    encoder,
                    device,
                    batch_size=batch_size,
                    backend=backend,
                    on_error=on_error,
                    progress=progress,
                )
                for n_new in _embed_rest(work, bundle, encoder, loader, dtype):
                    advance(n_new)
        provenance = {**task, "skipped": sorted(work.skipped)}
        work.finish(provenance_trailer(provenance))
    seconds = time.perf_counter() - start
    return EmbeddingReport(
        n_examples=bundle.n_examples,
        n_features=encoder.n_features,
        dtype=dtype,
        bytes=out.stat().st_size,
        seconds=seconds,
        n_resumed=n_resumed,
        images_per_second=(bundle.n_examples - n_resumed) / seconds,
        skipped=tuple(Skipped(key, **one) for key, one in sorted(work.skipped.items())),
        provenance=provenance,
    )


def _embed_rest(
    work: UnfinishedRows, bundle: Bundle, encoder: Encoder, loader: Loader, dtype: Dtype
) -> Iterator[int]:
    """Append the rows that are missing; yields how many at a time."""
    if work.state is not None:
        loader.load_state_dict(work.state)
    in_order = np.argsort(bundle.example_ids, kind="stable")

    def append(rows: NDArray[Any], state: dict[str, Any] | None) -> int:
        new = {
            one.example_id: {"path": one.path, "reason": one.reason}
            for one in loader.skipped
            if one.example_id not in work.skipped
        }
        work.append(rows, state, new)
        return len(rows)

    def left_out(end: int) -> Iterator[int]:
        """Rows of damaged examples, up to a position."""
        while work.n_rows < end:
            n = min(end - work.n_rows, loader.batch_size)
            # The loader stands after the batch that comes next.
            yield append(np.full((n, encoder.n_features), np.nan, dtype), work.state)

    for batch in loader:
        found = np.searchsorted(bundle.example_ids, batch.example_ids, sorter=in_order)
        positions = in_order[found]
        yield from left_out(int(positions[0]))
        rows = np.full((positions[-1] + 1 - positions[0], encoder.n_features), np.nan, dtype)
        rows[positions - positions[0]] = _rows(encoder, batch, dtype)
        yield append(rows, loader.state_dict())
    yield from left_out(bundle.n_examples)


def _rows(encoder: Encoder, batch: Batch, dtype: Dtype) -> NDArray[Any]:
    """Features of a batch on the host, (b, d) of ``dtype``."""
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

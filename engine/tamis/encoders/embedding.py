"""Images of a bundle → rows of an ``.npy`` file, in the bundle's order and in one pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis import __version__
from tamis.bundles.bundle import Bundle
from tamis.cluster import ClusterOptions
from tamis.encoders.base import Encoder
from tamis.encoders.embedding_file import npy_header, provenance_trailer
from tamis.encoders.on_cluster import blocks_from_cluster
from tamis.encoders.rows import (
    Dtype,
    RowBlock,
    RowSettings,
    encoder_loader,
    features_of,
    row_blocks,
)
from tamis.encoders.unfinished import UnfinishedRows, unfinished_rows
from tamis.errors import UsageError
from tamis.loaders.batch import Loader, Skipped
from tamis.loaders.opening import choose_streaming
from tamis.loaders.settings import OnError
from tamis.progress import QUIET, Progress

__all__ = ["EmbeddingReport", "embed_bundle", "embed_examples"]


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
            made = features_of(encoder, batch, "float32")
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
    cluster: ClusterOptions | None = None,
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
        backend: See :class:`tamis.encoders.rows.RowSettings`.
        on_error: ``fail``, or ``skip`` damaged examples.
        overwrite: Replace an existing file, and what an interrupted run left.
        resume: Go on with what it left.
        cluster: Embed on a Ray cluster instead, see :mod:`tamis.encoders.on_cluster`: the file's
            rows are the same, and either can go on with what the other left.
        progress: Told of every batch.

    Raises:
        UsageError: The output exists; what is resumed was another task; features that are not
            finite, or too large for float16; with a cluster, skipping without a loader that
            streams; or as :func:`tamis.cluster.run_on_cluster`.
        BundleError: A damaged record that is not to be skipped.
        WorkFailedError: The file cannot be written.
    """
    start = time.perf_counter()
    if backend == "auto":
        backend = choose_streaming(device, encoder.decoding["resample"])
    task = {
        "bundle": bundle.digest,
        "encoder": encoder.provenance(),
        "dtype": dtype,
        "batch_size": batch_size,
        "loader": backend,
        "device": device.type,
        "tamis": __version__,
    }
    if cluster is not None and backend == "memory" and on_error == "skip":
        raise UsageError(
            "--on-error skip",
            expected="with a cluster, a loader that streams",
            found="--loader memory, whose batches close the gaps",
            do="pass --loader ffcv or dali, or leave it out",
        )
    settings = RowSettings(dtype, batch_size, backend, on_error)
    header = npy_header((bundle.n_examples, encoder.n_features), dtype)
    with unfinished_rows(out, task, header, overwrite=overwrite, resume=resume) as work:
        n_resumed = work.n_rows
        with progress.task("embed", bundle.n_examples) as advance:
            advance(n_resumed)
            if n_resumed < bundle.n_examples:
                blocks = _missing_rows(bundle, encoder, device, settings, work, cluster, progress)
                for block in blocks:
                    _append(work, block)
                    advance(len(block.rows))
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


def _missing_rows(
    bundle: Bundle,
    encoder: Encoder,
    device: torch.device,
    settings: RowSettings,
    work: UnfinishedRows,
    cluster: ClusterOptions | None,
    progress: Progress,
) -> Iterator[RowBlock]:
    start, state = work.n_rows, work.state
    if cluster is not None:
        return blocks_from_cluster(
            bundle, encoder, device, settings, cluster, n_rows=start, state=state
        )
    loader = encoder_loader(bundle, encoder, device, settings, progress=progress)
    if state is not None:
        loader.load_state_dict(state)
    return row_blocks(bundle, encoder, loader, settings.dtype, start, bundle.n_examples)


def _append(work: UnfinishedRows, block: RowBlock) -> None:
    new = {
        one.example_id: {"path": one.path, "reason": one.reason}
        for one in block.skipped
        if one.example_id not in work.skipped
    }
    work.append(block.rows, block.state, new)

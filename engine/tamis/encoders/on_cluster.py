"""Embeddings on a Ray cluster: each task is a range of a bundle, in the batches of one machine.

So that on CPUs, with as many threads, the rows are those of one machine to the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import chdir, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis.bundles.bundle import Bundle
from tamis.bundles.opening import open_bundle
from tamis.cluster import ClusterOptions, GivenUp, run_on_cluster
from tamis.encoders.base import Encoder, unusable
from tamis.encoders.opening import is_opened_by_name, open_encoder
from tamis.encoders.rows import RowBlock, RowSettings, encoder_loader, row_blocks
from tamis.errors import BundleError, WorkFailedError
from tamis.loaders.base import ScheduledLoader
from tamis.loaders.schedule import Schedule
from tamis.loaders.settings import Decoding

__all__ = ["blocks_from_cluster"]

_MOST_BYTES = 2**24  # of a range's rows, which wait in memory for those before them
_MOST_BATCHES = 32
_LEAST_RANGES = 16  # where there are as many batches: a worker that is late is not waited for long


@dataclass(frozen=True)
class _Job:
    """What a worker is told; a network that cannot be opened by its name comes along."""

    bundle: Path
    digest: str
    encoder: Encoder | str
    resolution: int
    decoding: Decoding
    provenance: dict[str, Any]
    device: str
    settings: RowSettings
    folder: Path


@dataclass(frozen=True)
class _Range:
    """Positions of the bundle.

    Attributes:
        start: The first that is decoded; at the beginning of a batch.
        first: The first whose row is wanted.
        stop: The one after the last.
    """

    start: int
    first: int
    stop: int


def blocks_from_cluster(
    bundle: Bundle,
    encoder: Encoder,
    device: torch.device,
    settings: RowSettings,
    options: ClusterOptions,
    *,
    n_rows: int,
    state: dict[str, Any] | None,
) -> Iterator[RowBlock]:
    """Rows that are missing, in the bundle's order.

    Memory: the ranges that are finished before an earlier one.

    Args:
        bundle: The examples, in a file that all nodes see.
        encoder: Makes the rows; its files are seen by all nodes, too.
        device: The encoder's; workers use one of its kind.
        settings: How.
        options: Where.
        n_rows: How many there are already.
        state: Of the loader after them, see :class:`RowBlock`.

    Raises:
        UsageError: As :func:`tamis.cluster.run_on_cluster`, or where a worker opens another
            encoder.
        BundleError: A damaged record that is not to be skipped, or another bundle.
        WorkFailedError: A range that cost three workers, or a cluster that went away.
    """
    by_name = is_opened_by_name(encoder.spec)
    job = _Job(
        bundle.path.resolve(),
        bundle.digest,
        encoder.spec if by_name else encoder,
        encoder.resolution,
        encoder.decoding,
        encoder.provenance(),
        device.type,
        settings,
        Path.cwd(),
    )
    ranges = _ranges(bundle, encoder.n_features, settings, n_rows, state)
    if not ranges:  # what is missing is damaged
        left_out = bundle.n_examples - n_rows, encoder.n_features
        yield RowBlock(np.full(left_out, np.nan, settings.dtype), state, ())
        return
    waiting: dict[int, list[RowBlock]] = {}
    due = deque(ranges)
    use_gpus = device.type == "cuda"
    for one, blocks in run_on_cluster(partial(_open, job), ranges, options, use_gpus=use_gpus):
        if isinstance(blocks, GivenUp):
            raise WorkFailedError(
                f"embed: examples {one.start:,} to {one.stop - 1:,}",
                expected="a worker that embeds them",
                found=blocks.reason,
                do="run the same command with --resume: what is finished is kept",
            )
        waiting[one.start] = blocks
        while due and due[0].start in waiting:
            yield from waiting.pop(due.popleft().start)


def _ranges(
    bundle: Bundle,
    n_features: int,
    settings: RowSettings,
    n_rows: int,
    state: dict[str, Any] | None,
) -> list[_Range]:
    """Each of whole batches, as one machine would take them."""
    batch = settings.batch_size
    row_bytes = n_features * np.dtype(settings.dtype).itemsize
    n_batches = -(-bundle.n_examples // batch)
    most = min(_MOST_BATCHES, _MOST_BYTES // (batch * row_bytes), n_batches // _LEAST_RANGES)
    step = batch * max(1, most)
    # Rows of damaged examples may have gone on beyond what the loader had given by then.
    begin = max(int(state["n_seen"]) if state else 0, n_rows // batch * batch)
    starts = range(begin, bundle.n_examples, step)
    ranges = [_Range(s, s, min(s + step, bundle.n_examples)) for s in starts]
    return [replace(one, first=n_rows) for one in ranges[:1]] + ranges[1:]


def _open(job: _Job, threads: int) -> Callable[[_Range], list[RowBlock]]:
    bundle = open_bundle(job.bundle)
    if bundle.digest != job.digest:
        raise BundleError(
            job.bundle,
            expected="the bundle that was opened where the command was called",
            found="another one on a node of the cluster",
            do="put it where all nodes see it",
        )
    device = torch.device(job.device)
    encoder = job.encoder
    if isinstance(encoder, str):
        # Where the command was called, if it is there: the name may be a relative path.
        with chdir(job.folder) if job.folder.is_dir() else nullcontext():
            encoder = open_encoder(
                encoder, device, resolution=job.resolution, decoding=job.decoding
            )
    found = encoder.provenance()
    if differing := [name for name in job.provenance if job.provenance[name] != found.get(name)]:
        raise unusable(
            encoder.spec,
            expected="the same encoder on all nodes",
            found=f"another {', '.join(differing)} on one of them",
            do="install the same versions and weights there",
        )
    return partial(_embed_range, bundle, encoder, device, job.settings)


def _embed_range(
    bundle: Bundle, encoder: Encoder, device: torch.device, settings: RowSettings, one: _Range
) -> list[RowBlock]:
    selection = bundle.example_ids[one.start : one.stop]
    loader = encoder_loader(bundle, encoder, device, settings, selection=selection)
    assert isinstance(loader, ScheduledLoader)
    # As the loader of the whole bundle would stand: one machine can go on from there.
    whole = Schedule(bundle.example_ids, loader.settings).state_dict()

    def of_whole(state: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if state is None else whole | {"n_seen": one.start + state["n_seen"]}

    blocks = row_blocks(bundle, encoder, loader, settings.dtype, one.first, one.stop)
    return [replace(block, state=of_whole(block.state)) for block in blocks]

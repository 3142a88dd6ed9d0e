"""Bundle → several bundles of equal size."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tamis.atomic import refuse_existing
from tamis.bundles.assembly import Part, write_parts
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import Order, arrange
from tamis.errors import UsageError
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress

__all__ = ["ShardReport", "shard"]


@dataclass(frozen=True)
class ShardReport:
    """What a split did.

    Attributes:
        files: The shards, in order.
        n_examples: Of each shard.
    """

    files: tuple[Path, ...]
    n_examples: tuple[int, ...]
    bytes: int
    seconds: float
    bytes_per_second: float


def shard(
    bundle: Bundle,
    folder: Path,
    n_shards: int,
    *,
    order: Order = "parent",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> ShardReport:
    """Split a bundle into bundles whose sizes differ by at most one example.

    The shards are ``<name>-00000-of-00008.beton`` and so on. Ids, paths and classes are the
    bundle's; merging the shards in order gives it back.

    Args:
        bundle: What to split.
        folder: Where the shards go; made where it does not exist.
        n_shards: How many, 1 to the number of examples.
        order: See :func:`tamis.bundles.cut.arrange`; with ``shuffled`` each shard is a random
            sample of the bundle.
        seed: Of ``shuffled``.
        overwrite: Replace existing shards.
        progress: Told of every byte copied.

    Raises:
        UsageError: More shards than examples, an output that exists or cannot be written, or
            shards of another split in the folder.
    """
    start = time.perf_counter()
    if not 1 <= n_shards <= bundle.n_examples:
        raise UsageError(
            "-n",
            expected=f"1 to {bundle.n_examples:,} shards, one example each at least",
            found=str(n_shards),
            do="choose a number in between",
        )
    folder.mkdir(exist_ok=True)
    stem = bundle.path.stem
    files = tuple(
        folder / f"{stem}-{index:05d}-of-{n_shards:05d}.beton" for index in range(n_shards)
    )
    for file in files:
        refuse_existing(file, overwrite)
    _refuse_other_shards(folder, stem, n_shards)
    positions = np.array_split(arrange(bundle, bundle.example_ids, order, seed), n_shards)
    for index, (file, part) in enumerate(zip(files, positions, strict=True)):
        manifest = Manifest(
            operation="shard",
            settings={"shard": index, "of": n_shards, "order": order, "order_seed": seed},
            classes=bundle.classes,
            parents=bundle.lineage,
            skipped=bundle.manifest.skipped if bundle.manifest else (),
        )
        write_parts([Part(bundle, part)], file, manifest, overwrite=overwrite, progress=progress)
    seconds = time.perf_counter() - start
    written = sum(file.stat().st_size for file in files)
    counts = tuple(len(part) for part in positions)
    return ShardReport(files, counts, written, seconds, written / seconds)


def _refuse_other_shards(folder: Path, stem: str, n_shards: int) -> None:
    """Raise where ``folder/*.beton`` would be shards of two splits, each example in both."""
    shards = re.compile(re.escape(stem) + r"-\d{5}-of-(\d{5})\.beton")
    for file in sorted(folder.iterdir()):
        found = shards.fullmatch(file.name)
        if found and int(found[1]) != n_shards:
            raise UsageError(
                folder,
                expected=f"no shards of {stem} but those of a split into {n_shards}",
                found=file.name,
                do="remove them or name another folder",
            )

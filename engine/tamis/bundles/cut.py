"""Bundle + kept ids → pruned bundle, by copying encoded records byte for byte, or with tiles."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.arrays import n_repeated
from tamis.bundles.assembly import Part, write_parts
from tamis.bundles.bundle import Bundle
from tamis.bundles.virtual import write_virtual
from tamis.errors import UsageError
from tamis.hashing import shuffled_order
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress

__all__ = ["CutReport", "Order", "arrange", "cut"]

Order = Literal["parent", "shuffled", "ids"]


@dataclass(frozen=True)
class CutReport:
    """What a cut did.

    Attributes:
        n_examples: Kept.
        keep_fraction: Of the bundle it was cut from.
        n_tiled: Images that were written again with restart tiles.
        bytes: Of the file.
        seconds: Wall time.
        bytes_per_second: Written.
        peak_rss_bytes: Of the process.
    """

    n_examples: int
    keep_fraction: float
    n_tiled: int
    bytes: int
    seconds: float
    bytes_per_second: float
    peak_rss_bytes: int


def cut(
    bundle: Bundle,
    out: Path,
    example_ids: NDArray[np.int64],
    *,
    order: Order = "parent",
    seed: int = 0,
    virtual: bool = False,
    tiles: bool = False,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> CutReport:
    """Write the given examples of a bundle as a new bundle.

    Fields, ids, paths, checksums and page size are the parent's. The manifest records the parent
    and its ancestors.

    Args:
        bundle: The parent.
        out: The bundle to write.
        example_ids: (k,) int64 ids to keep, distinct, k ≥ 1.
        order: See :func:`arrange`.
        seed: Of ``order="shuffled"``.
        virtual: Write only the list of examples and a reference to the parent
            (:mod:`tamis.bundles.virtual`).
        tiles: Rewrite JPEGs without loss with restart markers, so that loaders can decode a part
            of them alone (:mod:`tamis.bundles.tiling`).
        settings: How they were selected, for the manifest.
        overwrite: Replace an existing ``out``.
        progress: Told of every byte copied.

    Raises:
        BundleError: An id that the bundle does not hold.
        UsageError: No ids, repeated ids, tiles in a virtual bundle, or an output that cannot be
            written.
    """
    if virtual and tiles:
        raise UsageError(
            "--tiles",
            expected="a bundle with images of its own",
            found="--virtual, which refers to those of its parent",
            do="leave one of the two out",
        )
    start = time.perf_counter()
    positions = arrange(bundle, _distinct(bundle, example_ids), order, seed)
    arranged: dict[str, Any] = {} if order == "parent" else {"order": order}
    if order == "shuffled":
        arranged["order_seed"] = seed
    if tiles:
        arranged["tiles"] = True
    manifest = Manifest(
        operation="cut",
        settings={**(settings or {}), **arranged},
        classes=bundle.classes,
        parents=bundle.lineage,
        skipped=bundle.manifest.skipped if bundle.manifest else (),
    )
    n_tiled, part = 0, Part(bundle, positions)
    if virtual:
        write_virtual(bundle, positions, out, manifest, overwrite=overwrite)
    elif tiles:
        from tamis.bundles.tiling import write_tiled  # numba is a second that others need not wait

        n_tiled = write_tiled(part, out, manifest, overwrite=overwrite, progress=progress)
    else:
        write_parts([part], out, manifest, overwrite=overwrite, progress=progress)
    seconds = time.perf_counter() - start
    written = out.stat().st_size
    return CutReport(
        n_examples=len(positions),
        keep_fraction=len(positions) / bundle.n_examples,
        n_tiled=n_tiled,
        bytes=written,
        seconds=seconds,
        bytes_per_second=written / seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def arrange(
    bundle: Bundle, example_ids: NDArray[np.int64], order: Order, seed: int
) -> NDArray[np.int64]:
    """Positions of examples in the order in which a new bundle shall hold them.

    Args:
        bundle: Where the examples are.
        example_ids: (k,) int64.
        order: ``parent`` as they lie in ``bundle``; ``shuffled`` at random, so that FFCV's
            quasi-random order, which mixes within pages, does not meet clumps of one class;
            ``ids`` as ``example_ids`` lists them.
        seed: Of ``shuffled``.

    Returns:
        (k,) int64.

    Raises:
        BundleError: An id that the bundle does not hold.
        UsageError: An unknown order.
    """
    positions = bundle.positions(example_ids)
    if order == "ids":
        return positions
    positions = np.sort(positions)
    if order == "parent":
        return positions
    if order == "shuffled":
        return positions[shuffled_order(bundle.example_ids[positions], seed, 0)]
    raise UsageError(
        "--order", expected="parent, shuffled or ids", found=str(order), do="choose one of them"
    )


def _distinct(bundle: Bundle, example_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    ids = np.asarray(example_ids, np.int64)
    repeated = n_repeated(ids)
    if not len(ids) or repeated:
        raise UsageError(
            "selection",
            expected=f"distinct example ids, 1 to {bundle.n_examples} of them",
            found=f"{repeated} repeated ones" if len(ids) else "none",
            do="write the selection with: tamis select",
        )
    return ids

"""Several bundles → one, by copying encoded records byte for byte."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tamis.bundles.assembly import Part, write_parts
from tamis.bundles.bundle import Bundle
from tamis.errors import BundleError, UsageError
from tamis.manifest import Manifest, Parent
from tamis.progress import QUIET, Progress

__all__ = ["MergeReport", "merge"]


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    n_examples: int
    n_bundles: int
    bytes: int
    seconds: float
    bytes_per_second: float


def merge(
    bundles: Sequence[Bundle],
    out: Path,
    *,
    renumber: bool = False,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> MergeReport:
    """Write all examples of several bundles, one bundle after the other.

    Merging the shards of a bundle gives that bundle again: the same content digest.

    Args:
        bundles: Two or more, with equal fields and classes.
        out: The bundle to write.
        renumber: Give the examples new ids, 0…n-1. Scores and selections of the merged bundles
            then no longer apply, and are refused.
        overwrite: Replace an existing ``out``.
        progress: Told of every byte copied.

    Raises:
        BundleError: Bundles with different fields, or that number their classes differently.
        UsageError: Fewer than two bundles, ids that clash, or an output that cannot be written.
    """
    start = time.perf_counter()
    if len(bundles) < 2:
        raise UsageError(
            "merge", expected="two or more bundles", found=str(len(bundles)), do="name them all"
        )
    for bundle in bundles[1:]:
        _check_fields(bundles[0], bundle)
    classes = _common_classes(bundles)
    n_examples = sum(bundle.n_examples for bundle in bundles)
    if not renumber:
        _check_ids(bundles)
    manifest = Manifest(
        operation="merge",
        settings={
            "bundles": [asdict(bundle.lineage[0]) for bundle in bundles],
            "renumber": renumber,
        },
        classes=classes,
        # An ancestor's ids must mean the same examples here; renumbered ones have none.
        parents=() if renumber else _united(bundles),
        skipped=tuple(entry for b in bundles if b.manifest for entry in b.manifest.skipped),
    )
    write_parts(
        [Part(bundle, np.arange(bundle.n_examples)) for bundle in bundles],
        out,
        manifest,
        example_ids=np.arange(n_examples) if renumber else None,
        overwrite=overwrite,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    written = out.stat().st_size
    return MergeReport(n_examples, len(bundles), written, seconds, written / seconds)


def _check_fields(first: Bundle, other: Bundle) -> None:
    if [field.descriptor for field in other.fields] == [f.descriptor for f in first.fields]:
        return
    shown = [
        ", ".join(f"{f.name}: {f.type.name.lower()}" for f in b.fields) for b in (first, other)
    ]
    if shown[0] == shown[1]:
        shown[1] += ", of other shapes or dtypes"
    raise BundleError(
        other.path,
        expected=f"the fields of {first.path} ({shown[0]})",
        found=shown[1],
        do="write both with the same fields",
    )


def _common_classes(bundles: Sequence[Bundle]) -> tuple[str, ...] | None:
    named = [bundle for bundle in bundles if bundle.classes]
    for bundle in named[1:]:
        if bundle.classes != named[0].classes:
            raise BundleError(
                bundle.path,
                expected=f"the classes of {named[0].path}, in its order",
                found="another class list",
                do="convert both with the same --classes FILE",
            )
    return named[0].classes if named else None


def _check_ids(bundles: Sequence[Bundle]) -> None:
    ids = np.concatenate([bundle.example_ids for bundle in bundles])
    owner = np.repeat(np.arange(len(bundles)), [bundle.n_examples for bundle in bundles])
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if not len(twice):
        return
    first, second = order[twice[0]], order[twice[0] + 1]
    raise UsageError(
        bundles[owner[second]].path,
        expected=f"no example id of {bundles[owner[first]].path}",
        found=f"{len(twice):,} ids that occur twice, the first is {ids[first]}",
        do="name each bundle once and the shards of one split only, or pass --renumber",
    )


def _united(bundles: Sequence[Bundle]) -> tuple[Parent, ...]:
    """All bundles, then all their ancestors, each once."""
    seen: dict[str, Parent] = {bundle.digest: bundle.lineage[0] for bundle in bundles}
    for bundle in bundles:
        for parent in bundle.lineage[1:]:
            seen.setdefault(parent.digest, parent)
    return tuple(seen.values())

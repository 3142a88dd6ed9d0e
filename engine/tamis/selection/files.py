"""Selections as files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.arrays import n_repeated
from tamis.atomic import atomic_path, refuse_other_suffix
from tamis.bundles.bundle import Bundle
from tamis.errors import ScoreTableError, first_line
from tamis.selection.selecting import Selection

__all__ = ["read_selected_ids", "write_selection"]


def write_selection(selection: Selection, out: Path, *, overwrite: bool = False) -> None:
    """Write the kept ids as Parquet, with how they were chosen as schema metadata.

    Raises:
        UsageError: ``out`` exists, its folder does not, or it does not end in .parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_other_suffix(out, ".parquet")
    how = {
        **asdict(selection.settings),
        "keep_fraction": selection.keep_fraction,
        "prune_fraction": 1 - selection.keep_fraction,
        "n_total": selection.n_total,
        "listed": "kept",
        "embeddings": selection.embeddings_digest,
    }
    schema = pa.schema(
        [pa.field("example_id", pa.int64())],
        metadata={"tamis_bundle": selection.bundle_digest, "tamis_selection": json.dumps(how)},
    )
    with atomic_path(out, overwrite=overwrite) as partial:
        pq.write_table(pa.table([pa.array(selection.example_ids)], schema=schema), partial)


def read_selected_ids(path: Path, bundle: Bundle) -> NDArray[np.int64]:
    """Kept ids from a selection (.parquet), an .npy of ids, or a text file of source paths.

    Raises:
        ScoreTableError: An unreadable file, no or repeated ids, a selection for another bundle,
            or a path that the bundle does not hold or holds twice.
    """
    try:
        ids = _listed_ids(path, bundle)
        if not len(ids) or n_repeated(ids):
            raise ValueError("repeated ids" if len(ids) else "no ids")
        return ids
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ScoreTableError(
            path,
            expected="a selection: .parquet from tamis select, .npy of ids, or text of paths",
            found=first_line(error),
            do="write one with: tamis select SCORES KEPT.parquet",
        ) from error


def _listed_ids(path: Path, bundle: Bundle) -> NDArray[np.int64]:
    if path.suffix == ".parquet":
        return _read_parquet_ids(path, bundle)
    if path.suffix == ".npy":
        ids = _read_array(path)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"an array {ids.shape} of {ids.dtype}")
        return np.asarray(ids, np.int64)
    lines = path.read_text(encoding="utf-8").splitlines()
    return _ids_of_paths([line.strip() for line in lines if line.strip()], bundle)


def _read_array(path: Path) -> NDArray[Any]:
    """An .npy file, mapped into memory."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of several arrays")
    return array


def _read_parquet_ids(path: Path, bundle: Bundle) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
        if table.column_names != ["example_id"]:
            others = [name for name in table.column_names if name != "example_id"]
            raise ValueError(f"a table with the columns {', '.join(others)[:80]}, a score table?")
        if table["example_id"].null_count:
            raise ValueError("missing ids")
        ids = table["example_id"].cast(pa.int64()).to_numpy()
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(str(error)) from error
    digest = (table.schema.metadata or {}).get(b"tamis_bundle", b"").decode()
    if digest and digest not in (ancestor.digest for ancestor in bundle.lineage):
        raise ScoreTableError(
            path,
            expected=f"a selection from {bundle.path} ({bundle.digest}) or from its ancestors",
            found=f"one from another bundle ({digest})",
            do="select again from the scores of this bundle",
        )
    return np.asarray(ids, np.int64)


def _ids_of_paths(paths: list[str], bundle: Bundle) -> NDArray[np.int64]:
    known = [] if bundle.paths is None else bundle.paths.to_pylist()
    counts = Counter(known)
    missing = [path for path in paths if counts[path] != 1]
    if missing:
        some = missing[0]
        why = "several examples have" if counts[some] else "the bundle does not hold"
        raise ValueError(f"{len(missing)} unusable paths; {some!r} is one that {why}")
    ids = dict(zip(known, bundle.example_ids.tolist(), strict=True))
    return np.array([ids[path] for path in paths], np.int64)

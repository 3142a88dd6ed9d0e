"""A score table → the files that other people's scripts read."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.atomic import atomic_path, refuse_existing
from tamis.errors import ScoreTableError, UsageError, first_line
from tamis.score_table import ScoreTable

__all__ = ["ExportReport", "export_list", "export_scores"]


@dataclass(frozen=True)
class ExportReport:
    """A written file.

    Attributes:
        metrics: The columns in it; none in a list.
        n_examples: Its rows.
        bytes: Its size.
    """

    metrics: tuple[str, ...]
    n_examples: int
    bytes: int


def export_scores(
    table: ScoreTable, out: Path, metrics: tuple[str, ...] = (), *, overwrite: bool = False
) -> ExportReport:
    """Write scores, higher = harder, in the table's order.

    By the end of the name: ``.npy`` one float32 vector; ``.npz`` a vector for each metric and
    ``example_id``; ``.csv`` example_id, path, label and the metrics; ``.pickle`` or ``.pkl`` a dict
    of metric name → float32 tensor with ``targets``, as CCS reads it.

    Args:
        table: The scores.
        out: The file.
        metrics: The columns to write; empty for all.
        overwrite: Whether an existing file is replaced.

    Raises:
        UsageError: ``out`` exists, ends in no known way, or is .npy and there are several metrics.
        ScoreTableError: A metric that the table does not hold.
    """
    if out.suffix not in _WRITERS:
        raise UsageError(
            out,
            expected="a name that ends in " + ", ".join(_WRITERS) + ", or .txt with --selection",
            found=out.suffix or "none",
            do="choose the format by the name",
        )
    refuse_existing(out, overwrite)
    columns = {name: table.column(name).values for name in metrics or table.columns}
    if not columns or (out.suffix == ".npy" and len(columns) > 1):
        raise UsageError(
            out,
            expected="one metric, which is what an .npy holds" if columns else "metrics",
            found=", ".join(columns) or "none in the table",
            do="pass --metric NAME, or name the file .npz" if columns else "score something first",
        )
    with atomic_path(out, overwrite=overwrite) as partial:
        with partial.open("wb") as sink:
            _WRITERS[out.suffix](table, columns, sink)
        n_bytes = partial.stat().st_size
    return ExportReport(tuple(columns), len(table.example_ids), n_bytes)


_Columns = dict[str, NDArray[np.float32]]


def _write_npy(table: ScoreTable, columns: _Columns, sink: io.BufferedWriter) -> None:
    (values,) = columns.values()
    np.save(sink, values, allow_pickle=False)


def _write_npz(table: ScoreTable, columns: _Columns, sink: io.BufferedWriter) -> None:
    arrays: dict[str, NDArray[Any]] = {**columns, "example_id": table.example_ids}
    np.savez(sink, allow_pickle=False, **arrays)


def _write_csv(table: ScoreTable, columns: _Columns, sink: io.BufferedWriter) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    parts = {"example_id": pa.array(table.example_ids)}
    style = "none"
    if None not in table.paths:
        parts["path"] = paths = pa.array(table.paths, pa.string())
        if pc.any(pc.match_substring_regex(paths, '[",\r\n]')).as_py():
            style = "needed"  # which quotes every text
    parts |= {name: pa.array(values) for name, values in {"label": table.labels, **columns}.items()}
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(parts)
    sink.write(header.getvalue().encode())
    options = arrow_csv.WriteOptions(include_header=False, quoting_style=style)
    arrow_csv.write_csv(pa.table(parts), sink, options)


def _write_pickle(table: ScoreTable, columns: _Columns, sink: io.BufferedWriter) -> None:
    import torch

    # Tensors, since CCS sorts them by methods that arrays lack.
    tensors = {"targets": torch.tensor(table.labels)}
    tensors |= {name: torch.tensor(values) for name, values in columns.items()}
    pickle.dump(tensors, sink, protocol=4)


_WRITERS: dict[str, Callable[[ScoreTable, _Columns, io.BufferedWriter], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".pickle": _write_pickle,
    ".pkl": _write_pickle,
}


def export_list(
    table: ScoreTable, selection: Path, out: Path, *, overwrite: bool = False
) -> ExportReport:
    """Write the kept examples as lines ``path label``, which DALI's file reader takes.

    Args:
        table: The score table, for paths and labels; the list has its order.
        selection: The kept ids, from ``tamis select``.
        out: The list, a .txt.
        overwrite: Whether an existing file is replaced.

    Raises:
        UsageError: ``out`` exists.
        ScoreTableError: A selection that is not from this table's bundle, or kept examples without
            a path that fits on a line.
    """
    refuse_existing(out, overwrite)
    kept = np.flatnonzero(np.isin(table.example_ids, _selected_ids(table, selection)))
    paths = [table.paths[row] for row in kept]
    bad = [path for path in paths if path is None or not path.strip() or len(path.splitlines()) > 1]
    if bad:
        raise ScoreTableError(
            "score table",
            expected="a source path for each kept example",
            found=f"{len(bad):,} of {len(paths):,} without one that fits on a line",
            do="cut the bundle instead: tamis cut BUNDLE OUT.beton --selection KEPT.parquet",
        )
    labels = table.labels[kept].tolist()
    text = "".join(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True))
    with atomic_path(out, overwrite=overwrite) as partial:
        n_bytes = partial.write_bytes(text.encode())
    return ExportReport((), len(kept), n_bytes)


def _selected_ids(table: ScoreTable, selection: Path) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(selection, partitioning=None)
        if stored.column_names != ["example_id"]:
            raise ValueError("a table with other columns than example_id")
        digest = (stored.schema.metadata or {}).get(b"tamis_bundle", b"").decode()
        if digest != table.bundle_digest:
            raise ValueError(f"one from another bundle ({digest or 'unknown'})")
        ids = np.asarray(stored["example_id"].cast(pa.int64()).to_numpy(), np.int64)
        if not np.isin(ids, table.example_ids).all():
            raise ValueError("ids that the score table lacks")
        return ids
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ScoreTableError(
            selection,
            expected=f"a selection from the scored bundle ({table.bundle_digest})",
            found=first_line(error),
            do="write one with: tamis select SCORES KEPT.parquet",
        ) from error

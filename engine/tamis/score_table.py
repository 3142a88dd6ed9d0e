"""The score table: example ids × metrics, as Parquet.

Every score is stored so that a higher score means harder; what was flipped to get there, and how
the numbers came about, stands in the column's metadata. The schema's metadata holds the digest
of the bundle that was scored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.arrays import n_repeated, positions_of
from tamis.atomic import atomic_path, refuse_other_suffix
from tamis.bundles.bundle import Bundle
from tamis.errors import ScoreTableError, first_line

__all__ = [
    "LeftOut",
    "ScoreColumn",
    "ScoreTable",
    "merge_columns",
    "read_score_table",
    "unscored_table",
    "write_score_table",
]

_IDENTITY = ("example_id", "path", "label")


@dataclass(frozen=True)
class ScoreColumn:
    """The scores of one metric.

    Attributes:
        values: (n,) float32, higher = harder, finite.
        info: Metric version, parameters, seeds, whether labels were used, what was flipped.
    """

    values: NDArray[np.float32]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the values."""
        return hashlib.sha256(np.ascontiguousarray(self.values).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class LeftOut:
    """Examples of the bundle that have no scores, as damaged ones with ``--on-error skip``.

    Attributes:
        ids: (k,) int64.
        positions: (k,) int64, ascending: where they stand in the bundle that was scored.
    """

    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class ScoreTable:
    """Scores of the examples of a bundle.

    Attributes:
        bundle_digest: Content digest of the bundle that was scored.
        example_ids: (n,) int64, distinct, in the bundle's order.
        labels: (n,) int32.
        paths: n source paths, None where unknown.
        columns: Metric name → scores.
        left_out: The bundle's other examples.
    """

    bundle_digest: str
    example_ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    paths: list[str | None]
    columns: dict[str, ScoreColumn]
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            finite = np.isfinite(column.values)
            if column.values.shape != self.example_ids.shape or not finite.all():
                raise ScoreTableError(
                    f"metric {name}",
                    expected=f"{len(self.example_ids)} finite scores",
                    found=f"{int(finite.sum())} finite of {len(column.values)}",
                    do="compute the metric again",
                )

    def column(self, metric: str) -> ScoreColumn:
        """The scores of a metric.

        Raises:
            ScoreTableError: The table does not hold it.
        """
        if metric not in self.columns:
            raise ScoreTableError(
                "metric",
                expected="one of the table's metrics: " + ", ".join(self.columns),
                found=metric,
                do=f"choose one of them, or run: tamis score … --metrics {metric}",
            )
        return self.columns[metric]

    @property
    def n_in_bundle(self) -> int:
        """Examples of the bundle that was scored, with those that were left out."""
        return len(self.example_ids) + len(self.left_out.ids)

    def rows_of(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        """The table's rows of an array that has one for each example of the bundle.

        Args:
            rows: (:attr:`n_in_bundle`, …), as embeddings.
        """
        return np.delete(rows, self.left_out.positions, axis=0) if len(self.left_out.ids) else rows

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse a bundle that is neither the scored one nor cut from it.

        Raises:
            ScoreTableError: Another bundle.
        """
        if self.bundle_digest not in (ancestor.digest for ancestor in bundle.lineage):
            raise ScoreTableError(
                "score table",
                expected=f"scores of {bundle.path} ({bundle.digest}) or of its ancestors",
                found=f"scores of another bundle ({self.bundle_digest})",
                do=f"run: tamis score {bundle.path} SCORES.parquet",
            )

    def for_bundle(self, bundle: Bundle) -> ScoreTable:
        """The rows of the bundle's examples, in the bundle's order; no row for those left out.

        Raises:
            ScoreTableError: As :meth:`check_bundle`, or no example has a score.
        """
        self.check_bundle(bundle)
        out = np.isin(bundle.example_ids, self.left_out.ids)
        wanted = bundle.example_ids[~out]
        rows, missing = positions_of(wanted, self.example_ids)
        if not len(wanted) or missing.any():
            raise ScoreTableError(
                "score table",
                expected=f"a score for each of the {bundle.n_examples} examples of {bundle.path}",
                found="a table that lacks some of them",
                do="use the whole table, not a part of it",
            )
        return self.take(rows, LeftOut(bundle.example_ids[out], np.flatnonzero(out)))

    def take(self, rows: NDArray[np.int64], left_out: LeftOut | None = None) -> ScoreTable:
        """Some rows, (k,) int64, in their order; of the same bundle."""
        return ScoreTable(
            self.bundle_digest,
            self.example_ids[rows],
            self.labels[rows],
            [self.paths[row] for row in rows],
            {
                name: ScoreColumn(column.values[rows], column.info)
                for name, column in self.columns.items()
            },
            left_out or LeftOut(),
        )


def unscored_table(bundle: Bundle, positions: NDArray[np.int64] | None = None) -> ScoreTable:
    """Examples of a bundle without any scores, for selections that use none.

    Args:
        bundle: An opened bundle.
        positions: (k,) int64, the examples to list; None for all.
    """
    if positions is None:
        positions = np.arange(bundle.n_examples)
    out = np.setdiff1d(np.arange(bundle.n_examples), positions)
    paths: list[str | None] = [None] * len(positions)
    if bundle.paths is not None:
        paths = bundle.paths.take(positions).to_pylist()
    labels = bundle.labels[positions].astype(np.int32)
    left_out = LeftOut(bundle.example_ids[out], out)
    return ScoreTable(bundle.digest, bundle.example_ids[positions], labels, paths, {}, left_out)


def merge_columns(table: ScoreTable, newer: ScoreTable) -> ScoreTable:
    """One table with the columns of both; a column of both is the newer one.

    Raises:
        ScoreTableError: They score different bundles, or list the examples differently.
    """
    if table.bundle_digest != newer.bundle_digest:
        raise ScoreTableError(
            "score table",
            expected=f"scores of the same bundle ({newer.bundle_digest})",
            found=f"scores of another one ({table.bundle_digest})",
            do="write the new scores to a file of their own",
        )
    if not np.array_equal(table.example_ids, newer.example_ids):
        left_out = [len(one.left_out.ids) for one in (table, newer)]
        raise ScoreTableError(
            "score table",
            expected="both to hold the same examples in the same order",
            found=f"tables of {len(table.example_ids)} and {len(newer.example_ids)} examples,"
            f" which leave out {left_out[0]} and {left_out[1]} of the bundle's",
            do="write the new scores to a file of their own",
        )
    return replace(table, columns=table.columns | newer.columns)


def write_score_table(table: ScoreTable, out: Path, *, overwrite: bool = False) -> None:
    """Write a table atomically as Parquet.

    Raises:
        UsageError: ``out`` exists, its folder does not, or it does not end in .parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_other_suffix(out, ".parquet")
    fields = [
        pa.field("example_id", pa.int64()),
        pa.field("path", pa.string()),
        pa.field("label", pa.int32()),
    ]
    arrays = [pa.array(table.example_ids), pa.array(table.paths, pa.string())]
    arrays.append(pa.array(table.labels))
    for name, column in table.columns.items():
        info = json.dumps(column.info, sort_keys=True)
        fields.append(pa.field(name, pa.float32(), metadata={"tamis": info}))
        arrays.append(pa.array(column.values))
    about = {"tamis_bundle": table.bundle_digest}
    if len(table.left_out.ids):
        about["tamis_left_out"] = json.dumps(
            {"ids": table.left_out.ids.tolist(), "positions": table.left_out.positions.tolist()}
        )
    schema = pa.schema(fields, metadata=about)
    with atomic_path(out, overwrite=overwrite) as partial:
        pq.write_table(pa.table(arrays, schema=schema), partial, compression="zstd")


def read_score_table(path: Path) -> ScoreTable:
    """Read a table.

    Raises:
        ScoreTableError: The file is missing, not Parquet, or not a score table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
        table.validate(full=True)  # that paths are UTF-8
        metadata = table.schema.metadata or {}
        if b"tamis_bundle" not in metadata:
            raise ValueError("a Parquet file without a bundle digest")
        columns = {}
        for part in table.schema:
            if part.name not in _IDENTITY:
                info = json.loads((part.metadata or {}).get(b"tamis", b"{}"))
                values = table[part.name].cast(pa.float32()).to_numpy()
                columns[part.name] = ScoreColumn(values, info)
        ids = table["example_id"].cast(pa.int64()).to_numpy()
        if table["example_id"].null_count or not len(ids) or n_repeated(ids):
            raise ValueError("repeated, missing or no example ids")
        if table["label"].null_count:
            raise ValueError("missing labels")
        return ScoreTable(
            metadata[b"tamis_bundle"].decode(),
            ids,
            table["label"].cast(pa.int32()).to_numpy(),
            table["path"].to_pylist(),
            columns,
            _left_out(metadata),
        )
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ScoreTableError(
            path,
            expected="a score table",
            found=first_line(error),
            do="write one with: tamis score BUNDLE SCORES.parquet",
        ) from error


def _left_out(metadata: dict[bytes, bytes]) -> LeftOut:
    found = json.loads(metadata.get(b"tamis_left_out", b'{"ids": [], "positions": []}'))
    return LeftOut(np.array(found["ids"], np.int64), np.array(found["positions"], np.int64))

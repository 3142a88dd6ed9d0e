"""Records as one table, for people who analyse them elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tamis.atomic import atomic_path, refuse_existing, refuse_other_suffix
from tamis.errors import UsageError
from tamis.sweep.records import TrialRecord, read_records

__all__ = ["export_records"]


def export_records(folder: Path, out: Path, *, overwrite: bool = False) -> int:
    """Write all records of a sweep's folder, those of earlier settings too, as Parquet.

    One row per trial: its cell (``metric``, ``side``, ``keep``, ``size``, ``recipe``, ``budget``,
    ``seed``), then what its run says (see :class:`tamis.training.records.RunRecord`): numbers and
    words as they are, lists as lists, the rest as JSON.

    Args:
        folder: Of a sweep.
        out: Ends in ``.parquet``.
        overwrite: Replace an existing file.

    Returns:
        The number of rows.

    Raises:
        UsageError: No records there, or an output that cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_other_suffix(out, ".parquet")
    refuse_existing(out, overwrite)
    records = read_records(folder / "records.jsonl")
    if not records:
        raise UsageError(
            folder,
            expected="a sweep's folder with finished trials in records.jsonl",
            found="none",
            do=f"run first: tamis sweep SWEEP.yaml --out {folder}",
        )
    table = pa.Table.from_pylist([_row(record) for record in records.values()])
    for number, field in enumerate(table.schema):
        if pa.types.is_null(field.type):  # nobody had any: of the type that it would have had
            kind = pa.float64() if field.name == "energy_joules" else pa.string()
            table = table.set_column(number, field.name, table[field.name].cast(kind))
    with atomic_path(out, overwrite=overwrite) as partial:
        pq.write_table(table, partial, compression="zstd")
    return len(records)


# A sweep's runs have one seed for all.
_OF_THE_TRIAL = ("seed", "order_seed", "augmentation_seed", "budget")


def _row(record: TrialRecord) -> dict[str, Any]:
    run = {name: value for name, value in record.run.items() if name not in _OF_THE_TRIAL}
    run["recipe_values"] = run.pop("recipe")
    own = {"key": record.key, **asdict(record.trial), "keep_fraction": record.keep_fraction}
    per_class = {"per_class_kept": json.dumps(record.per_class_kept)}
    return own | {name: _cell(value) for name, value in run.items()} | per_class


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        # Of an empty list, or one of objects, nobody could tell the type.
        plain = value and all(isinstance(part, int | float | None) for part in value)
        return list(value) if plain else json.dumps(value)
    return value

"""CSV files of scores: which column says whose a row is, and which are scores.

The separator is found, not asked for, and so is whether the first line names the columns. A column
of paths or ids is told by its name, else by its content; what is left and holds numbers is scores.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis.score_exchange.raw_scores import RawScores

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_csv"]

_SEPARATORS = "\t;|, "  # in this order: paths hold commas and spaces sooner than the others
_SAMPLE = 1000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_PATHS = {
    "path", "paths", "file", "files", "filename", "file_name", "filepath", "file_path", "relpath",
    "image", "image_name", "image_path", "img", "img_path", "name", "key", "__key__",
}  # fmt: skip
_EXAMPLE_IDS = {"example_id", "example_ids"}
# Ids where nothing better is there, else mere row numbers; the last two are pandas' own.
_INDEX = {"id", "ids", "idx", "index", "sample_id", "sample_idx", "", "unnamed: 0"}
_LABELS = {"label", "labels", "target", "targets", "class", "class_id", "y", "wnid", "synset"}
_NAMELESS = {"score", "scores", "value", "values", "metric", "0"}


@dataclass(frozen=True, eq=False)
class _Column:
    """One column.

    Attributes:
        name: As the header has it; its number where there is no header.
        role: The name as it is looked up; "?" where there is no header.
        cells: Its texts.
        numeric: Whether most of them are numbers.
    """

    name: str
    role: str
    cells: pa.ChunkedArray
    numeric: bool


def read_csv(path: Path) -> RawScores:
    """Read scores by path, by example id, or one score a line in the dataset's order.

    Raises:
        ValueError: No scores in it, a score that is no number, or columns that could be several
            things.
        OSError: The file cannot be read.
    """
    columns = _columns(path)
    paths = _path_column(columns)
    labels = next((column for column in columns if column.role in _LABELS), None)
    ids = _id_column(columns, with_paths=paths is not None)
    rest = [column for column in columns if column not in (paths, labels, ids)]
    scores = [column for column in rest if column.numeric and column.role not in _INDEX]
    if len(scores) > 1 and scores[0].role == "?" and _counts_rows(scores[0]):
        scores = scores[1:]
    if not scores:
        raise ValueError("no column of scores (a list of kept paths has the ending .txt)")
    names = [column.name for column in scores]
    if len(scores) == 1 and scores[0].role in {"?", *_NAMELESS}:
        names = [path.stem]
    return RawScores(
        "csv",
        {name: _numbers(column) for name, column in zip(names, scores, strict=True)},
        paths=None if paths is None else paths.cells.combine_chunks(),
        example_ids=None if ids is None else _integers(ids.cells),
        labels=None if labels is None else np.array(labels.cells.to_pylist()),
        ignored=tuple(column.name or "(unnamed)" for column in rest if column not in scores),
    )


def _columns(path: Path) -> list[_Column]:
    """The table as texts, without its header."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    separator, n_columns = _layout(path)
    table = arrow_csv.read_csv(
        path,
        arrow_csv.ReadOptions(autogenerate_column_names=True),
        arrow_csv.ParseOptions(delimiter=separator),
        arrow_csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(n_columns)}),
    )
    sample = table.slice(min(1, len(table) - 1), _SAMPLE).to_pydict()
    numeric = [_mostly_numbers(cells) for cells in sample.values()]
    first = [cells[0].as_py() for cells in table.columns]
    has_header = any(
        is_numeric and not _is_number(cell) for is_numeric, cell in zip(numeric, first, strict=True)
    )
    if not has_header:
        names, roles = [f"column{i + 1}" for i in range(n_columns)], ["?"] * n_columns
    else:
        table = table.slice(1)
        names = [cell.strip() for cell in first]
        roles = [name.lower() for name in names]
    if len(set(names)) < len(names):
        raise ValueError("two columns of the same name")
    return [_Column(*parts) for parts in zip(names, roles, table.columns, numeric, strict=True)]


def _layout(path: Path) -> tuple[str, int]:
    """Separator and number of columns: the first separator that all lines have as often."""
    with path.open("rb") as stream:
        start = stream.read(1 << 16)
        lines = start.decode("utf-8-sig", "replace").splitlines()
        if stream.read(1):
            lines.pop()  # the last one may be cut
    lines = [line for line in lines if line.strip()][:50]
    if not lines:
        raise ValueError("an empty file")
    for separator in _SEPARATORS:
        counts = {len(row) for row in csv.reader(lines, delimiter=separator)}
        if len(counts) == 1 and counts != {1}:
            return separator, counts.pop()
    return ",", len(next(csv.reader(lines)))


def _is_number(cell: str) -> bool:
    cell = cell.strip()
    # 00012 is a name, not twelve.
    return _NUMBER.fullmatch(cell) is not None and re.match(r"0\d", cell) is None


def _mostly_numbers(cells: list[str]) -> bool:
    return 2 * sum(map(_is_number, cells)) > len(cells)


def _path_column(columns: list[_Column]) -> _Column | None:
    named = [column for column in columns if column.role in _PATHS]
    found = [column for column in named if column.role == "path"] or named
    if not found:
        texts = [column for column in columns if not column.numeric and column.role not in _LABELS]
        has_ids = any(column.role in _EXAMPLE_IDS | _INDEX and column.numeric for column in columns)
        found = texts if len(texts) == 1 and not has_ids else [c for c in texts if _distinct(c)]
    if len(found) > 1:
        found = [column for column in found if _distinct(column)] or found
    if len(found) > 1:
        names = ", ".join(column.name for column in found)
        raise ValueError(f"several columns that could be paths ({names}): call one of them path")
    return found[0] if found else None


def _id_column(columns: list[_Column], *, with_paths: bool) -> _Column | None:
    numeric = [column for column in columns if column.numeric and column.role not in _LABELS]
    roles = [_EXAMPLE_IDS] if with_paths else [_EXAMPLE_IDS, _INDEX]
    for names in roles:
        for column in numeric:
            if column.role in names:
                return column
    if with_paths or len(numeric) < 2 or numeric[0].role != "?":
        return None
    try:
        _integers(numeric[0].cells)
    except ValueError:
        return None
    return numeric[0] if _distinct(numeric[0]) else None


def _distinct(column: _Column) -> bool:
    import pyarrow.compute as pc

    return bool(pc.count_distinct(column.cells).as_py() == len(column.cells))


def _counts_rows(column: _Column) -> bool:
    """Whether a column only numbers the rows, from 0 or 1."""
    try:
        numbers = _integers(column.cells)
    except ValueError:
        return False
    return numbers[0] in (0, 1) and np.array_equal(numbers - numbers[0], np.arange(len(numbers)))


def _integers(cells: pa.ChunkedArray) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.utf8_trim_whitespace(cells).cast(pa.int64()).to_numpy(), np.int64)


def _numbers(column: _Column) -> NDArray[np.float32]:
    """Straight to float32: by way of float64 some decimals would be rounded twice."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        cells = pc.utf8_trim_whitespace(column.cells)
        return np.asarray(cells.cast(pa.float32()).to_numpy(), np.float32)
    except pa.ArrowInvalid:
        texts = enumerate(column.cells.to_pylist(), start=1)
        bad = [(row, text) for row, text in texts if not _NUMBER.fullmatch(text.strip())]
        if not bad:
            raise
        row, text = bad[0]
        count = f"{len(bad):,} scores that are no numbers" if len(bad) > 1 else "a score that is no"
        count += "; the first is" if len(bad) > 1 else " number:"
        raise ValueError(f"{count} {text[:40]!r} in row {row:,} of {column.name}") from None

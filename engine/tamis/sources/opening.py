"""From what the user typed to a source."""

from __future__ import annotations

from pathlib import Path

from tamis.errors import SourceError, UsageError
from tamis.sources.base import Source
from tamis.sources.digits import DIGITS_SPECS, open_digits
from tamis.sources.image_folder import open_image_folder
from tamis.sources.labels import read_classes
from tamis.sources.parquet import open_parquet

__all__ = ["open_source"]


def open_source(
    spec: str, *, classes_file: Path | None = None, label_file: Path | None = None
) -> Source:
    """Open a source by its name on the command line.

    Args:
        spec: ``digits``, ``digits:train``, ``digits:test``, a folder of class folders, a Parquet
            file, or a folder of Parquet files.
        classes_file: A class list that fixes the labels; see
            :func:`tamis.sources.labels.read_classes`.
        label_file: For an image folder without class folders; see
            :func:`tamis.sources.labels.read_labels`.

    Raises:
        SourceError: Nothing is there, or nothing that tamis can read.
        UsageError: A label file with a source that has its own labels.
    """
    classes = read_classes(classes_file) if classes_file else None
    path = Path(spec)
    is_parquet = path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))
    if label_file and (spec in DIGITS_SPECS or is_parquet):
        raise UsageError(
            "--labels",
            expected="an image folder as the source",
            found=spec,
            do="leave --labels out: this source has its own labels",
        )
    if spec in DIGITS_SPECS:
        if classes is not None:
            raise UsageError(
                "--classes",
                expected="images whose classes can be listed",
                found=spec,
                do="leave it out: digits have the classes 0 to 9",
            )
        return open_digits(spec)
    if is_parquet and path.exists():
        return open_parquet(path, classes=classes)
    if path.is_dir():
        return open_image_folder(path, classes=classes, label_file=label_file)
    raise SourceError(
        spec,
        expected="an image folder, a .parquet file or folder of them, or digits[:train|:test]",
        found="a file of another kind" if path.exists() else "nothing there",
        do="check the path",
    )

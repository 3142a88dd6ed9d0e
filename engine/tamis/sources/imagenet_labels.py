"""The labels of ImageNet's validation images, as Kaggle and the ILSVRC 2012 devkit give them."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from tamis.errors import SourceError, first_line
from tamis.sources.mat_struct import read_struct
from tamis.sources.tar import read_member, walk_tar

__all__ = ["devkit_labels", "imagenet_labels"]

_KAGGLE_HEADER = "ImageId,PredictionString"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_MAX_BYTES = 16 << 20  # each of the devkit's files has less than 1 MB


def imagenet_labels(path: Path, lines: list[str]) -> dict[str, str] | None:
    """Labels from Kaggle's ``LOC_val_solution.csv`` or the devkit's ground truth.

    The ground truth counts classes in an order of its own, not that of the WordNet ids;
    ``meta.mat``, which must lie beside it, says which is which.

    Args:
        path: ``LOC_val_solution.csv`` or ``ILSVRC2012_validation_ground_truth.txt``, of any name.
        lines: The file's lines, by which it is recognised.

    Returns:
        File name → WordNet id of each image, in the order of the names; None where the file is
        neither.

    Raises:
        SourceError: It is damaged, or ``meta.mat`` is missing.
    """
    if lines and lines[0].strip() == _KAGGLE_HEADER:
        return _from_kaggle(path, lines)
    if lines and all(line.strip().isdecimal() for line in lines):
        return _from_truth(path, lines, _beside(path))
    return None


def _from_kaggle(path: Path, lines: list[str]) -> dict[str, str]:
    """Rows ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``: the class, then boxes."""
    labels: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines[1:]), start=2):
        if not row:
            continue
        words = row[1].split() if len(row) == 2 else []
        name = f"{row[0]}.JPEG"
        if not words or name in labels:
            raise SourceError(
                f"{path}, line {number}",
                expected="a new image and its class, as 'ImageId,wnid box'",
                found=repr(",".join(row)[:80]),
                do="download the file again",
            )
        labels[name] = words[0]
    # Kaggle shuffles its rows; in the order of names ids are those that the devkit gives.
    return dict(sorted(labels.items()))


def _from_truth(subject: object, lines: list[str], meta: bytes) -> dict[str, str]:
    """Line i is the class of image i, counted from 1."""
    wnids = _wnids(meta, subject)
    labels = {}
    for number, line in enumerate(lines, start=1):
        wnid = wnids.get(line.strip())
        if wnid is None:
            raise SourceError(
                f"{subject}, line {number}",
                expected=f"the ILSVRC2012_ID of one of the {len(wnids)} classes in {_META}",
                found=repr(line[:30]),
                do="download the devkit again",
            )
        labels[f"ILSVRC2012_val_{number:08d}.JPEG"] = wnid
    return labels


def _wnids(meta: bytes, subject: object) -> dict[str, str]:
    """ILSVRC2012_ID as text → WordNet id of the classes without sub-classes."""
    fields = "ILSVRC2012_ID", "WNID", "num_children"
    wnids: dict[str, str] = {}
    for number, wnid, children in read_struct(meta, "synsets", fields, f"{subject}: {_META}"):
        key = f"{number:.0f}" if isinstance(number, float) else ""
        if not key or not isinstance(wnid, str) or key in wnids:
            raise SourceError(
                f"{subject}: {_META}",
                expected="the devkit's table of synsets: an ILSVRC2012_ID and a WNID each",
                found=f"{number!r} and {wnid!r}",
                do="download the devkit again",
            )
        if children == 0:
            wnids[key] = wnid
    return wnids


def _beside(path: Path) -> bytes:
    meta = path.with_name(_META)
    try:
        if meta.stat().st_size <= _MAX_BYTES:
            return meta.read_bytes()
        found = f"{meta.stat().st_size} bytes"
    except OSError as error:
        found = first_line(error)
    raise SourceError(
        meta,
        expected=f"the devkit's {_META} beside {path.name}, which numbers the classes",
        found=found,
        do="give ILSVRC2012_devkit_t12.tar.gz itself, or lines 'path,class'",
    )


def devkit_labels(path: Path) -> dict[str, str]:
    """Labels from ``ILSVRC2012_devkit_t12.tar.gz``: its ground truth and its ``meta.mat``.

    Returns:
        File name → WordNet id of each image, in the order of the names.

    Raises:
        SourceError: Another archive, or a damaged one.
    """
    files: dict[str, bytes] = {}
    try:
        with gzip.open(path) as file:
            for member in walk_tar(file, path):
                folder, _, name = member.name.rpartition("/")
                if name in (_TRUTH, _META) and folder.endswith("data"):
                    files[name] = read_member(file, member, _MAX_BYTES, path)
    except OSError as error:
        raise SourceError(
            path,
            expected="a label file or ILSVRC2012_devkit_t12.tar.gz",
            found=first_line(error),
            do="check the path, or download it again",
        ) from error
    for name in (_TRUTH, _META):
        if name not in files:
            raise SourceError(
                path,
                expected=f"ILSVRC2012's devkit with data/{name}",
                found="an archive without it",
                do="give ILSVRC2012_devkit_t12.tar.gz, or lines 'path,class'",
            )
    lines = files[_TRUTH].decode("ascii", "replace").splitlines()
    return _from_truth(path, lines, files[_META])

"""Images and scores as a folder that FiftyOne loads, for people who want to browse them all.

Intended behaviour: the folder appears whole or not at all. FiftyOne itself is no dependency: the
folder holds the images, ``samples.jsonl`` with a line each, and ``load.py``, which needs nothing
but FiftyOne's public API.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import numpy as np

from tamis.atomic import refuse_missing_folder
from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import RAW_MODE
from tamis.errors import UsageError
from tamis.hashing import example_hash
from tamis.images import encode_png
from tamis.progress import QUIET, Progress
from tamis.score_table import ScoreTable

__all__ = ["write_browsing_folder"]

_PER_FOLDER = 1000  # file managers and some file systems get slow with more


def write_browsing_folder(
    bundle: Bundle,
    table: ScoreTable,
    out: Path,
    *,
    max_images: int | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> int:
    """Write a dataset for FiftyOne.

    Each sample has the fields ``ground_truth``, ``example_id``, ``source_path`` where there is one,
    and ``score_…`` for each metric, in which what is no letter or digit is an underscore. JPEGs are
    copied byte for byte; raw pixels become PNG.

    Args:
        bundle: The training bundle.
        table: Scores of its examples.
        out: The folder.
        max_images: Write no more, drawn at random, the same ones in every call.
        overwrite: Replace a folder that this wrote before.
        progress: Told of every image.

    Returns:
        The number of images.

    Raises:
        UsageError: The folder exists and may not be replaced, or its parent does not.
    """
    _refuse(out, overwrite)
    rows = np.arange(len(table.example_ids))
    if max_images is not None and max_images < len(rows):
        drawn = example_hash(table.example_ids, 0, "browse")
        rows = np.sort(np.lexsort((table.example_ids, drawn))[:max_images])
    fields = _fields(table.columns)
    positions = bundle.positions(table.example_ids[rows])
    unique = uuid4().hex[:12]
    partial, replaced = (out.with_name(f".{out.name}.{unique}.{end}") for end in ("new", "old"))
    try:
        partial.mkdir()
        with (
            (partial / "samples.jsonl").open("w", encoding="utf-8") as sink,
            progress.task("images", len(rows)) as advance,
        ):
            for number, (row, position) in enumerate(zip(rows, positions, strict=True)):
                example = int(table.example_ids[row])
                name = f"images/{number // _PER_FOLDER:04d}/{example}"
                sample: dict[str, object] = {
                    "image": _write_image(bundle, int(position), partial, name),
                    "label": bundle.class_names[int(table.labels[row])],
                    "example_id": example,
                }
                if table.paths[row]:
                    sample["source_path"] = table.paths[row]
                for metric, field in fields.items():
                    sample[field] = float(table.columns[metric].values[row])
                sink.write(json.dumps(sample, ensure_ascii=False) + "\n")
                advance()
        script = files("tamis.report").joinpath("template/load.py.txt").read_text(encoding="utf-8")
        (partial / "load.py").write_text(script, encoding="utf-8")
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return len(rows)


def _refuse(out: Path, overwrite: bool) -> None:
    refuse_missing_folder(out.absolute())
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not all((out / name).is_file() for name in ("samples.jsonl", "load.py")):
        raise UsageError(
            out,
            expected="a new folder, or one that this command wrote",
            found="something else",
            do="name another one",
        )
    if not overwrite:
        raise UsageError(
            out,
            expected="a new output",
            found="an existing one",
            do="pass --overwrite to replace it",
        )


def _fields(metrics: Iterable[str]) -> dict[str, str]:
    """Metric → name of its field; names that would fall together are numbered."""
    fields: dict[str, str] = {}
    for metric in metrics:
        name = field = "score_" + re.sub(r"[^0-9A-Za-z]", "_", metric)
        number = 1
        while field in fields.values():
            number += 1
            field = f"{name}_{number}"
        fields[metric] = field
    return fields


def _write_image(bundle: Bundle, position: int, folder: Path, name: str) -> str:
    """Write one image; its path in the folder."""
    mode, width, height, record = bundle.image_record(position)
    raw = mode == RAW_MODE
    data = encode_png(record.reshape(height, width, 3)) if raw else record.tobytes()
    image = f"{name}.png" if raw else f"{name}.jpg"
    path = folder / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return image

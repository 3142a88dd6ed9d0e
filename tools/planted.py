"""Label errors and duplicates of known place; see tools/run-cifar10-planted.

planted.py plant TRAIN.parquet OUT.parquet N  N images, 5 % relabelled, 2 % twice, 0.5 % four times
planted.py report FOLDER                      what the scores make of them, as summary.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from campaign_summary import parameters_of, run_environment, seconds_of

from tamis.duplicates import duplicates
from tamis.score_table import ScoreTable, read_score_table

FLIPPED = 0.05
GROUPS = {2: 0.02, 4: 0.005}  # times that an image is there → share of the images
EPS = 1e-4  # copies are exact
CAMPAIGNS = ("learning", "by-heart")  # see tools/run-cifar10-planted


def plant(source: Path, out: Path, n: int) -> None:
    """Draw n images; give a random twentieth another label, and repeat some of the others."""
    table = pq.read_table(source)
    rng = np.random.default_rng(0)
    table = table.take(np.sort(rng.permutation(len(table))[:n]))
    name = next(field.name for field in table.schema if pa.types.is_integer(field.type))
    labels = table[name].to_numpy().copy()
    flipped = rng.permutation(n)[: round(FLIPPED * n)]
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, len(flipped))) % 10
    column = pa.array(labels, table.schema.field(name).type)
    table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    unused = rng.permutation(np.setdiff1d(np.arange(n), flipped))
    copies: list[int] = []
    for size, share in GROUPS.items():
        originals, unused = np.split(unused, [max(round(share * n), 1)])
        copies += np.repeat(originals, size - 1).tolist()
    pq.write_table(pa.concat_tables([table, table.take(pa.array(copies))]), out)
    known = {"n": n, "flipped": sorted(flipped.tolist()), "copies_of": copies}
    out.with_suffix(".json").write_text(json.dumps(known))


def found_flips(table: ScoreTable, known: dict[str, Any]) -> dict[str, float]:
    """Metric → share of the wrong labels that are among the hardest tenth."""
    n_hardest = len(table.example_ids) // 10
    flipped = set(known["flipped"])
    return {
        name: len(flipped & set(np.argsort(-column.values, kind="stable")[:n_hardest].tolist()))
        / len(flipped)
        for name, column in table.columns.items()
    }


def groups_of(known: dict[str, Any]) -> list[list[int]]:
    """Ids of the examples that are the same image, for every image that is there more than once."""
    groups: dict[int, list[int]] = {}
    for place, original in enumerate(known["copies_of"], start=known["n"]):
        groups.setdefault(original, [original]).append(place)
    return list(groups.values())


def found_copies(table: ScoreTable, known: dict[str, Any]) -> dict[str, float]:
    """How many copies are removed that are to be; and what copies do to memorization.

    One of each group is to be left: where none is, nothing counts as found.
    """
    groups = groups_of(known)
    removed = set(np.flatnonzero(duplicates(table.columns["semdedup"].values, EPS)).tolist())
    found = [len(removed & set(group)) % len(group) for group in groups]
    memorization = table.columns["memorization"].values
    alone = np.setdiff1d(np.arange(known["n"]), [*known["copies_of"], *known["flipped"]])
    return {
        "semdedup_precision": sum(found) / max(1, len(removed)),
        "semdedup_recall": sum(found) / len(known["copies_of"]),
        "memorization_of_single_images": float(memorization[alone].mean()),
        **{
            f"memorization_of_images_there_{size}_times": float(
                memorization[[i for group in groups if len(group) == size for i in group]].mean()
            )
            for size in GROUPS
        },
    }


def report(folder: Path) -> None:
    """Everything in one file, without the scores of single images."""
    known = json.loads((folder / "planted.json").read_text())
    tables = {name: read_score_table(folder / f"{name}.parquet") for name in CAMPAIGNS}
    found = {name: found_flips(table, known) for name, table in tables.items()}
    summary = {
        "examples": len(tables["by-heart"].example_ids),
        "environment": run_environment(),
        "parameters": {name: parameters_of(table) for name, table in tables.items()},
        "seconds": {name: seconds_of(folder / f"{name}.json") for name in CAMPAIGNS},
        "wrong_labels": len(known["flipped"]),
        "of_them_in_the_hardest_tenth": found,
        **found_copies(tables["by-heart"], known),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    print(f"{folder / 'summary.json'}: all of it")


if __name__ == "__main__":
    if sys.argv[1] == "plant":
        plant(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        report(Path(sys.argv[2]))

"""Label errors and duplicates of known place; see tools/run-cifar10-metrics.

planted.py plant TRAIN.parquet OUT.parquet N    N images, 5 % relabelled, 2 % repeated
planted.py report FOLDER                        what the scores make of them, as summary.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.bundles.opening import open_bundle
from tamis.duplicates import duplicates
from tamis.score_table import ScoreTable, read_score_table
from tamis.training.records import environment

FLIPPED, REPEATED = 0.05, 0.02
EPS = 1e-4  # copies are exact


def plant(source: Path, out: Path, n: int) -> None:
    """Draw n images; give a random twentieth another label, and repeat a random fiftieth."""
    table = pq.read_table(source)
    rng = np.random.default_rng(0)
    table = table.take(np.sort(rng.permutation(len(table))[:n]))
    name = next(field.name for field in table.schema if pa.types.is_integer(field.type))
    labels = table[name].to_numpy().copy()
    flipped = rng.permutation(n)[: round(FLIPPED * n)]
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, len(flipped))) % 10
    column = pa.array(labels, table.schema.field(name).type)
    table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    sound = np.setdiff1d(np.arange(n), flipped)
    copies = rng.permutation(sound)[: round(REPEATED * n)]
    pq.write_table(pa.concat_tables([table, table.take(copies)]), out)
    known = {"n": n, "flipped": sorted(flipped.tolist()), "copies_of": copies.tolist()}
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


def found_copies(table: ScoreTable, known: dict[str, Any]) -> dict[str, float]:
    """Of each pair one is to be removed; and what copies do to memorization."""
    n, originals = known["n"], np.array(known["copies_of"])
    removed = set(np.flatnonzero(duplicates(table.columns["semdedup"].values, EPS)).tolist())
    pairs = [(int(original), n + i) for i, original in enumerate(originals)]
    hits = sum(len(removed & set(pair)) == 1 for pair in pairs)
    memorization = table.columns["memorization"].values
    paired = np.concatenate([originals, np.arange(n, len(memorization))])
    alone = np.setdiff1d(np.arange(n), np.concatenate([originals, known["flipped"]]))
    return {
        "semdedup_precision": hits / max(1, len(removed)),
        "semdedup_recall": hits / len(pairs),
        "memorization_of_copies": float(memorization[paired].mean()),
        "memorization_of_others": float(memorization[alone].mean()),
    }


def top_classes(folder: Path) -> dict[str, list[str]]:
    """Metric → the three classes that have most of the hardest tenth."""
    table = read_score_table(folder / "scores-0.parquet")
    names = open_bundle(folder / "train.beton").classes or ()
    tops = {}
    for metric, column in table.columns.items():
        hardest = np.argsort(-column.values, kind="stable")[: len(table.labels) // 10]
        counts = Counter(table.labels[hardest].tolist()).most_common(3)
        tops[metric] = [f"{names[label]} {count / len(hardest):.0%}" for label, count in counts]
    return tops


def report(folder: Path) -> None:
    """Everything in one file, without the scores of single images."""
    import torch

    known = json.loads((folder / "planted.json").read_text())
    planted = read_score_table(folder / "planted-scores.parquet")
    agreement = json.loads((folder / "agreement.json").read_text())
    table = read_score_table(folder / "scores-0.parquet")
    summary = {
        "examples": len(table.example_ids),
        "environment": environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "parameters": {name: shorter(c.info["parameters"]) for name, c in table.columns.items()},
        "seconds": {
            name: {metric: row["seconds"] for metric, row in read_metrics(path).items()}
            for name, path in {
                "campaign": folder / "score-0.json", "planted": folder / "score-planted.json"
            }.items()
        },
        "between_campaigns": agreement["campaigns"],
        "order": agreement["order"],
        "spearman": agreement["spearman"],
        "top_classes": top_classes(folder),
        "planted": {
            "examples": len(planted.example_ids),
            "wrong_labels": len(known["flipped"]),
            "of_them_in_the_hardest_tenth": found_flips(planted, known),
            **found_copies(planted, known),
        },
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps({"planted": summary["planted"]}, indent=1))
    print(f"{folder / 'summary.json'}: all of it")


def shorter(parameters: dict[str, Any]) -> dict[str, Any]:
    """Without the list of networks."""
    return {key: value for key, value in parameters.items() if key != "networks"}


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """What `tamis score --json` said."""
    metrics: dict[str, dict[str, float]] = json.loads(path.read_text())["metrics"]
    return metrics


if __name__ == "__main__":
    if sys.argv[1] == "plant":
        plant(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        report(Path(sys.argv[2]))

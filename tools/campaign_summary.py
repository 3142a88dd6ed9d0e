"""What two campaigns on the same images say, in one file; see tools/run-cifar10-metrics.

campaign_summary.py FOLDER      writes FOLDER/summary.json, without the scores of single images
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tamis.bundles.opening import open_bundle
from tamis.score_table import ScoreTable, read_score_table
from tamis.training.records import environment


def run_environment() -> dict[str, Any]:
    """Of the device that campaigns take by default."""
    import torch

    return environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def parameters_of(table: ScoreTable) -> dict[str, dict[str, Any]]:
    """Metric → what its column was computed with, without the list of networks."""
    return {
        name: {k: v for k, v in column.info["parameters"].items() if k != "networks"}
        for name, column in table.columns.items()
    }


def seconds_of(printed: Path) -> dict[str, float]:
    """Metric → seconds, from what ``tamis score --json`` said."""
    metrics: dict[str, dict[str, float]] = json.loads(printed.read_text())["metrics"]
    return {name: row["seconds"] for name, row in metrics.items()}


def top_classes(table: ScoreTable, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Metric → the three classes that have most of the hardest tenth."""
    tops = {}
    for metric, column in table.columns.items():
        hardest = np.argsort(-column.values, kind="stable")[: len(table.labels) // 10]
        counts = Counter(table.labels[hardest].tolist()).most_common(3)
        tops[metric] = [f"{names[label]} {count / len(hardest):.0%}" for label, count in counts]
    return tops


def summarise(folder: Path) -> None:
    """Write the file, and print where it is."""
    agreement = json.loads((folder / "agreement.json").read_text())
    table = read_score_table(folder / "scores-0.parquet")
    names = open_bundle(folder / "train.beton").classes or ()
    summary = {
        "examples": len(table.example_ids),
        "environment": run_environment(),
        "parameters": parameters_of(table),
        "seconds": seconds_of(folder / "score-0.json"),
        "between_campaigns": agreement["campaigns"],
        "order": agreement["order"],
        "spearman": agreement["spearman"],
        "top_classes": top_classes(table, names),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{folder / 'summary.json'}: all of it")


if __name__ == "__main__":
    summarise(Path(sys.argv[1]))

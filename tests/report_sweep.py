"""A finished sweep of known numbers, as the report's tests read it; nothing is trained."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tamis.benchmarks.measuring import Row
from tamis.benchmarks.records import append_record
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.score_table import ScoreColumn, ScoreTable, write_score_table
from tamis.sources.opening import open_source
from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord
from tamis.sweep.spec import SweepSpec

__all__ = [
    "ACCURACY",
    "BENCH_LOADER",
    "BENCH_ROWS",
    "SIZES",
    "known_records",
    "random_scores",
    "write_bench_record",
    "write_report_sweep",
]

ACCURACY = {
    ("full", "full", 1.0): [0.95, 0.96, 0.94],
    ("random", "random", 0.5): [0.90, 0.91, 0.92],
    ("el2n", "hard", 0.5): [0.931, 0.940, 0.952],
    ("el2n", "easy", 0.5): [0.85, 0.86, 0.84],
    ("random", "random", 0.2): [0.80, 0.81, 0.79],
    ("el2n", "hard", 0.2): [0.70, 0.72, 0.69],
    ("loss", "hard", 0.2): [0.81, 0.79, 0.80],
}
"""Test accuracies by seed, of the whole training set."""
SIZES = {1.0: 0.0, 0.5: 0.1}
"""Size of the initial set → by how much less accurate everything is."""
BENCH_ROWS = (
    Row("ffcv: a <crop> to 224 px", 1227.1, "images/s", "plain FFCV", 654.3, 1.875, 1.3),
    Row("memory: epochs", 466.0, "MB", goal=400.0, lower_is_better=True),
)
"""Of the record of a bench: a goal that is met, and one that is not."""
BENCH_LOADER = {
    "mode": "score", "loader": "plain FFCV", "images_per_second": 654.33,
    "megabytes_per_second": 32.58, "cpu_seconds": 2.88, "first_batch": 12.68, "memory": 490512384,
}  # fmt: skip
_N_EXAMPLES = 1347


def known_records(sizes: dict[float, float] | None = None) -> list[TrialRecord]:
    """Records of :data:`ACCURACY`, of the whole training set unless sizes are given.

    Of seed s, class s is 20 points worse than the mean, and the run takes keep · 10 + s seconds.
    """
    found = []
    for size, loss in (sizes or {1.0: 0.0}).items():
        for (metric, side, keep), accuracies in ACCURACY.items():
            for seed, accuracy in enumerate(accuracies):
                trial = Trial(metric, side, keep, seed, "steps", size, "small")  # type: ignore[arg-type]
                per_class = np.full(10, accuracy - loss + 0.2 / 9)
                per_class[seed] = accuracy - loss - 0.2
                n_kept = round(keep * round(size * _N_EXAMPLES))
                run = {
                    "test_accuracy": accuracy - loss, "per_class_accuracy": per_class.tolist(),
                    "train_seconds": 10 * keep + seed, "n_examples": n_kept,
                    "test_digest": "xxh3:0", "recipe": {"name": "small"}, "recipe_digest": "0",
                    "environment": {"device": "a CPU", "commit": "abc"},
                }  # fmt: skip
                kept = {str(label): round(134 * size * keep) for label in range(10)}
                key = f"{size}{metric}{side}{keep}{seed}"
                found.append(TrialRecord(key, trial, keep, kept, run))
    return found


def random_scores(bundle: Bundle, metrics: tuple[str, ...]) -> ScoreTable:
    """Scores without a meaning; paths that a page has to escape."""
    rng = np.random.default_rng(0)
    info = {"labels_used": True, "flipped": True, "high_means": "nothing & <all>"}
    columns = {
        name: ScoreColumn(rng.random(bundle.n_examples).astype(np.float32), info)
        for name in metrics
    }
    paths: list[str | None] = [f"<i>{i}" for i in range(bundle.n_examples)]
    labels = bundle.labels.astype(np.int32)
    return ScoreTable(bundle.digest, bundle.example_ids, labels, paths, columns)


def write_report_sweep(train: Path, folder: Path) -> SweepSpec:
    """Write ``test.beton``, ``scores.parquet``, ``sweep.json`` and ``records.jsonl``."""
    convert(open_source("digits:test"), folder / "test.beton")
    table = random_scores(open_bundle(train), ("random", "el2n", "loss"))
    write_score_table(table, folder / "scores.parquet")
    spec = SweepSpec(
        train=train, test=folder / "test.beton", scores=folder / "scores.parquet",
        metrics=["random", "el2n", "loss"], keep=[1.0, 0.5, 0.2], side=["hard", "easy"],
        sizes=list(SIZES),
    )  # fmt: skip
    (folder / "sweep.json").write_text(spec.model_dump_json())
    sweep = Sweep(spec)
    records = [replace(record, key=sweep.key(record.trial)) for record in known_records(SIZES)]
    # A record of other settings, as an edited sweep file leaves it: not to be counted.
    stale = replace(records[0], key="stale", run={**records[0].run, "test_accuracy": 0.0})
    lines = [json.dumps(asdict(record)) for record in [*records, stale]]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return spec


def write_bench_record(path: Path) -> None:
    """An earlier record, and one of :data:`BENCH_ROWS` and :data:`BENCH_LOADER`."""
    append_record(path, BENCH_ROWS[:1], {"commit": "earlier"})
    around: dict[str, str | int] = {"processor": "a <CPU>", "cores": 2}
    append_record(path, BENCH_ROWS, around, loaders=[BENCH_LOADER], left_out=["dali: not here"])

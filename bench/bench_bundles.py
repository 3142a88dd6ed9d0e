"""Measure the work on bundles and append the result to the records.

``python bench/bench_bundles.py [BUNDLE] [FOLDER]``: whose images to work on (made-up pictures
without it), and a folder on the disk to measure (here without it). The same as
``tamis bench bundles --record bench/records/bundles.jsonl``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tamis.cli.bench import bench

RECORDS = Path(__file__).resolve().parent / "records" / "bundles.jsonl"

if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:3]]
    bundle, folder = (*given, None, None)[:2]
    bench("bundles", bundle, folder, repetitions=5, record=RECORDS, json=False)

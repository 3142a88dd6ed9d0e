"""nearest_prototype against faiss, scikit-learn and bare products.

``python bench/bench_nearest_prototype.py [--device cpu|gpu] [--turns N] [--quick]`` prints a table
and, last, one JSON object, which it appends to ``bench/records/kernels.jsonl``. Where tamis is not
installed, set ``PYTHONPATH=engine:kernels``; it needs NumPy and Numba, for a GPU torch and CuPy.
"""

from __future__ import annotations

from pathlib import Path

from tamis.benchmarks.kernels.running import main

RECORDS = Path(__file__).resolve().parent / "records" / "kernels.jsonl"

if __name__ == "__main__":
    main(("nearest_prototype",), RECORDS)

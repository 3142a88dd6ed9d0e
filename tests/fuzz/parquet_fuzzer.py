"""Parquet from strangers: sources, score tables and selections, damaged and forged.

From the folder ``tests``: ``python -m fuzz.parquet_fuzzer FIRST STOP FOLDER`` tries mutants in one
process and prints what they ended in as JSON; the number of the last one stands in ``FOLDER/last``.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.parquet_mutants import mutate_parquet
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.errors import TamisError
from tamis.score_table import read_score_table, unscored_table, write_score_table
from tamis.selection.files import read_selected_ids, write_selection
from tamis.selection.selecting import select
from tamis.selection.settings import SelectionSettings
from tamis.sources.opening import open_source
from tamis.sources.parquet import open_parquet

MEMORY = 1 << 30  # address space that a mutant may add

Reader = Callable[[Path], object]


def seeds(folder: Path) -> list[tuple[bytes, Reader]]:
    """Sound files as (bytes, what reads them): plainly written, and as Arrow writes by default."""
    convert(open_source("digits:test"), folder / "digits.beton")
    bundle = open_bundle(folder / "digits.beton")
    table = unscored_table(bundle)
    write_score_table(table, folder / "scores.parquet")
    write_selection(
        select(table, SelectionSettings(side="random", count=30)), folder / "kept.parquet"
    )
    images = [{"bytes": bytes([i]) * 40, "path": f"{i}.png"} for i in range(20)]
    image = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    source = pa.table({"image": image, "label": pa.array(np.arange(20) % 3)})
    found: list[tuple[bytes, Reader]] = []
    for content, read in (
        (source, _read_source),
        (pq.read_table(folder / "scores.parquet", partitioning=None), read_score_table),
        (
            pq.read_table(folder / "kept.parquet", partitioning=None),
            lambda path: read_selected_ids(path, bundle),
        ),
    ):
        for options in (
            {"compression": "zstd", "use_dictionary": False, "data_page_version": "1.0"},
            {},
            {"compression": "none", "data_page_version": "2.0", "write_page_index": True},
        ):
            sink = io.BytesIO()
            pq.write_table(content, sink, **options)
            found.append((sink.getvalue(), read))
    return found


def _read_source(path: Path) -> object:
    return [item.load() for item in open_parquet(path).items()]


def mutant(sound: list[tuple[bytes, Reader]], number: int) -> tuple[bytes, Reader]:
    """One lie in a plainly written file, or a few changed bytes, most of them in the footer."""
    rng = random.Random(number)
    chosen = rng.randrange(len(sound))
    blob, read = sound[chosen]
    if chosen % 3 == 0 and rng.random() < 0.7:
        return mutate_parquet(rng, blob)[1], read
    data = bytearray(blob)
    footer_at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(footer_at if rng.random() < 0.6 else 0, len(data))
        data[at] = rng.choice((data[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255))
    return bytes(data), read


def main(first: int, stop: int, folder: Path) -> None:
    """Try mutants; print outcomes and failures."""
    sound = seeds(folder)
    for blob, read in sound:
        (folder / "sound.parquet").write_bytes(blob)
        read(folder / "sound.parquet")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(first, stop):
        (folder / "last").write_text(str(number))
        blob, read = mutant(sound, number)
        (folder / "mutant.parquet").write_bytes(blob)
        try:
            read(folder / "mutant.parquet")
            outcomes["read"] += 1
        except TamisError:
            outcomes["refused"] += 1
        except BaseException as error:
            failures.append(f"{number}: {type(error).__name__}: {error}"[:300])
    print(json.dumps({"outcomes": outcomes, "failures": failures}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

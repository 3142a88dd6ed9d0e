"""What must hold of every damaged bundle, and the process that tries mutants.

From the folder ``tests``: ``python -m fuzz.bundle_fuzzer SEED`` replays one mutant.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuzz.bundle_mutants import Mutant, make_mutant
from fuzz.bundle_seeds import Seed, make_seeds
from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import RAW_MODE, FieldType
from tamis.bundles.opening import open_bundle
from tamis.bundles.verify import VerifyReport, verify
from tamis.errors import BundleError, ImageError
from tamis.images import decode_jpeg

__all__ = ["check", "main"]

MEMORY = 1 << 30  # bytes that a mutant may make the process take
SECONDS = 30
MAX_FAILURES = 5


def check(mutant: Mutant, path: Path) -> str:
    """Open, prove and read one mutant.

    Returns:
        ``refused``, ``opened`` (nothing wrong with it) or ``damaged`` (opened, and verify says so).

    Raises:
        AssertionError: It was believed where it should not be.
        Exception: Whatever else came out of tamis.
    """
    path.unlink(missing_ok=True)  # a new file: an older mutant may still be mapped
    path.write_bytes(mutant.data)
    try:
        bundle = open_bundle(path)
    except BundleError:
        return "refused"
    if mutant.seed.bundle.trailer is not None and not mutant.forged:
        _check_content(bundle, mutant.seed.bundle)
    report = verify(bundle, workers=1)
    _check_report(bundle, report, mutant)
    _read_everything(bundle, report)
    return "opened" if report.ok else "damaged"


def _check_content(bundle: Bundle, original: Bundle) -> None:
    """Nothing that the digest covers differs."""
    assert bundle.trailer is not None, "the trailer went unnoticed"
    assert original.paths is not None
    assert bundle.paths is not None
    assert np.array_equal(bundle.example_ids, original.example_ids), "other ids"
    assert np.array_equal(bundle.labels, original.labels), "other labels"
    assert bundle.paths.to_pylist() == original.paths.to_pylist(), "other paths"
    assert bundle.fields == original.fields, "other fields"
    assert bundle.manifest == original.manifest, "another manifest"
    assert np.array_equal(bundle.extents[..., 1], original.extents[..., 1]), "other sizes"
    for index in bundle.payload_fields:
        rows, others = bundle.metadata[f"f{index}"], original.metadata[f"f{index}"]
        for name in rows.dtype.names or ():
            assert name == "ptr" or np.array_equal(rows[name], others[name]), f"another {name}"


def _check_report(bundle: Bundle, report: VerifyReport, mutant: Mutant) -> None:
    """Damage is where bytes changed; with checksums, wherever they did."""
    damaged = [damage.position for damage in report.damaged]
    assert damaged == sorted(set(damaged))
    if mutant.forged or bundle.extents.shape != mutant.seed.bundle.extents.shape:
        return
    changed = _changed(bundle, mutant.seed)
    if report.checksums:
        assert damaged == changed, f"changed: {changed}, reported: {damaged}"
    else:
        assert set(damaged) <= set(changed), f"changed: {changed}, reported: {damaged}"


def _changed(bundle: Bundle, seed: Seed) -> list[int]:
    """Positions whose payload, or whose row in the metadata, is not the original's."""
    original = seed.bundle
    return [
        position
        for position in range(bundle.n_examples)
        if _payloads(bundle, position) != _payloads(original, position)
        or (bundle.trailer is None and bundle.metadata[position] != original.metadata[position])
    ]


def _payloads(bundle: Bundle, position: int) -> list[bytes]:
    return [bundle.data[o : o + size].tobytes() for o, size in bundle.extents[position].tolist()]


def _read_everything(bundle: Bundle, report: VerifyReport) -> None:
    types = [field.type for field in bundle.fields]
    assert np.array_equal(bundle.positions(bundle.example_ids), np.arange(bundle.n_examples))
    assert bundle.digest.startswith("xxh3:")
    if FieldType.INT in types:
        with suppress(BundleError):  # labels below 0
            assert bundle.n_classes >= 1
    if FieldType.RGB_IMAGE not in types:
        return
    damaged = {damage.position for damage in report.damaged}
    for position in range(bundle.n_examples):
        _, width, height, _ = bundle.image_record(position)
        try:
            image = _decoded(bundle, position)
        except ImageError:
            continue
        assert image.shape == (height, width, 3) or position in damaged, f"another size: {position}"


def _decoded(bundle: Bundle, position: int) -> NDArray[np.uint8]:
    mode, width, height, record = bundle.image_record(position)
    if mode == RAW_MODE:
        return record.reshape(height, width, 3)
    return decode_jpeg(record)


def main(arguments: list[str]) -> None:
    """``SEED`` replays; ``FIRST STOP STEP FOLDER`` tries many and prints a report as JSON."""
    warnings.simplefilter("error")
    if len(arguments) > 1:
        first, stop, step = map(int, arguments[:3])
        _run(range(first, stop, step), Path(arguments[3]))
        return
    with tempfile.TemporaryDirectory(prefix="tamis-fuzz-") as folder:
        mutant = make_mutant(make_seeds(Path(folder)), int(arguments[0]))
        print(f"{mutant.seed.name}: {mutant.how}")
        print(check(mutant, Path(folder) / "mutant.beton"))


def _run(indices: range, folder: Path) -> None:
    """Try mutants under limits of memory and time; the last index tried stands in ``last``."""
    seeds = make_seeds(folder)
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, object]] = []
    with (folder / "last").open("wb", buffering=0) as last:
        for count, index in enumerate(indices):
            if count == 200:  # what is imported and allocated once is in place
                _limit_memory()
            os.pwrite(last.fileno(), f"{index:12}".encode(), 0)
            signal.alarm(SECONDS)  # kills the process: a hang in C would not see an exception
            mutant = make_mutant(seeds, index)
            try:
                outcomes[check(mutant, folder / "mutant.beton")] += 1
            except Exception:
                how = f"{mutant.seed.name}: {mutant.how}"
                failures.append({"seed": index, "how": how, "error": traceback.format_exc()})
                if len(failures) == MAX_FAILURES:
                    break
    print(json.dumps({"outcomes": outcomes, "failures": failures}))


def _limit_memory() -> None:
    used = re.search(r"VmSize:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert used is not None
    limit = int(used[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])

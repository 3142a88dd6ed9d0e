"""Scores that a sweep computes itself: for each size, from its initial set alone.

Intended behaviour: each initial set is written once as a virtual bundle, scored by one campaign for
all metrics, and its table kept; a sweep that is interrupted goes on with the networks that are
finished, and one with more metrics computes only the new ones.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.virtual import restrict
from tamis.cluster import ClusterOptions
from tamis.metrics.campaign import plan_campaign, score
from tamis.metrics.registry import get_metrics
from tamis.progress import QUIET, Progress
from tamis.score_table import merge_columns, read_score_table, write_score_table
from tamis.sweep.grid import Sweep, initial_set
from tamis.sweep.spec import SweepSpec

__all__ = ["open_sweep", "plan_scoring", "score_initial_sets", "scoring_seconds", "table_files"]


def open_sweep(spec: SweepSpec, out: Path) -> Sweep:
    """A sweep with the scores that it has computed so far in its folder.

    Raises:
        TamisError: As :class:`Sweep`.
    """
    sweep = Sweep(spec)
    return sweep.with_tables(table_files(sweep, out))


def table_files(sweep: Sweep, out: Path) -> dict[float, Path]:
    """Size → score table, of those that the sweep computed; of other settings other files."""
    if sweep.spec.scores is not None or not sweep.spec.scored_metrics:
        return {}
    files = {size: _table_path(sweep, out, size) for size in sweep.spec.sizes}
    return {size: path for size, path in files.items() if path.exists()}


def score_initial_sets(
    sweep: Sweep,
    out: Path,
    device: torch.device,
    *,
    cluster: ClusterOptions | None = None,
    progress: Progress = QUIET,
) -> dict[float, Path]:
    """Compute what is missing of the scores.

    Args:
        sweep: A checked sweep.
        out: Its folder; tables go to ``scores/`` in it, with what they were computed from.
        device: Where to train.
        cluster: Where most of the networks are trained instead, see
            :func:`tamis.metrics.campaign.score`.
        progress: Told of everything.

    Returns:
        Size → file, for all sizes; empty where the sweep needs no scores or names a table.

    Raises:
        As :func:`tamis.metrics.campaign.score`.
    """
    for size, path, missing in _missing(sweep, out):
        path.parent.mkdir(parents=True, exist_ok=True)
        bundle = _initial_bundle(sweep, path.parent, size)
        start = time.perf_counter()
        done = score(
            bundle,
            get_metrics(missing),
            sweep.spec.campaign(),
            device,
            work=path.with_suffix(".campaign"),
            cluster=cluster,
            progress=progress,
        )
        before = read_score_table(path) if path.exists() else None
        table = merge_columns(before, done.table) if before else done.table
        write_score_table(table, path, overwrite=True)
        _note(out, size, missing, time.perf_counter() - start)
    return table_files(sweep, out)


def plan_scoring(sweep: Sweep, out: Path, device: torch.device) -> float:
    """Estimate, in seconds, of what :func:`score_initial_sets` has to do; trains some steps.

    Raises:
        As :func:`tamis.metrics.campaign.plan_campaign`.
    """
    seconds = 0.0
    for size, path, missing in _missing(sweep, out):
        bundle = restrict(sweep.train, sweep.train.positions(initial_set(sweep.train, size)))
        metrics, work = get_metrics(missing), path.with_suffix(".campaign")
        seconds += plan_campaign(bundle, metrics, sweep.spec.campaign(), device, work=work).seconds
    return seconds


def scoring_seconds(out: Path) -> dict[float, float]:
    """Size → what computing its scores took on this sweep's device, in all its calls.

    Of a call that was interrupted nothing is counted, nor is a line that a crash cut off.
    """
    path, seconds = out / "scoring.jsonl", dict[float, float]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            note = json.loads(line)
            size, own = float(note["size"]), float(note["seconds"])
        except (ValueError, TypeError, KeyError):
            continue
        seconds[size] = seconds.get(size, 0.0) + own
    return seconds


def _missing(sweep: Sweep, out: Path) -> Iterator[tuple[float, Path, list[str]]]:
    spec = sweep.spec
    if spec.scores is not None:
        return
    for size in spec.sizes:
        path = _table_path(sweep, out, size)
        known = read_score_table(path).columns if path.exists() else {}
        missing = [metric for metric in spec.scored_metrics if metric not in known]
        if missing:
            yield size, path, missing


def _table_path(sweep: Sweep, out: Path, size: float) -> Path:
    facts = {"train": sweep.train.digest, "campaign": asdict(sweep.spec.campaign())}
    text = json.dumps(facts, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    return out / "scores" / f"size-{size:g}-{key}.parquet"


def _initial_bundle(sweep: Sweep, folder: Path, size: float) -> Bundle:
    if size == 1:
        return sweep.train
    path = folder / f"size-{size:g}.beton"
    settings = {"initial set": size}
    ids = initial_set(sweep.train, size)
    cut(sweep.train, path, ids, virtual=True, settings=settings, overwrite=True)
    return open_bundle(path)


def _note(out: Path, size: float, metrics: list[str], seconds: float) -> None:
    line = json.dumps({"size": size, "metrics": metrics, "seconds": seconds})
    with (out / "scoring.jsonl").open("a", encoding="utf-8") as sink:
        sink.write(line + "\n")

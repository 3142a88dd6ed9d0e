"""Running the trials that have no record yet.

Intended behaviour: every finished trial is one line of ``records.jsonl``, written and synced before
the next begins to count; a killed sweep loses only the trials under way, and a second call runs
only what is missing. A trial that fails is reported and leaves no record, so that the next call
tries it again; the others go on. One that is given up, where the sweep asks for that, leaves a line
in ``stopped.jsonl`` instead. One process at a time runs a sweep in a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tamis.atomic import atomic_path
from tamis.cluster import ClusterOptions
from tamis.devices import resolve_device
from tamis.progress import QUIET, Progress
from tamis.sweep.lines import append_lines
from tamis.sweep.local import run_here
from tamis.sweep.on_ray import run_on_ray
from tamis.sweep.records import Trial, TrialRecord, read_records
from tamis.sweep.runner import Job, Result
from tamis.sweep.scoring import open_sweep, score_initial_sets, table_files
from tamis.sweep.spec import SweepSpec
from tamis.sweep.stopping import (
    STOPPED,
    StoppedTrial,
    given_up_by,
    read_stopped,
)
from tamis.sweep.tracking import SweepTracks

__all__ = ["SweepReport", "run_sweep"]


@dataclass(frozen=True)
class SweepReport:
    """What a call of a sweep did; ``failures`` are one line each, ``n_stopped`` are given up."""

    n_trials: int
    n_done: int
    n_stopped: int
    n_failed: int
    failures: tuple[str, ...]
    records: Path


def run_sweep(
    spec: SweepSpec,
    out: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    cluster: ClusterOptions | None = None,
    track: str | None = None,
    progress: Progress = QUIET,
) -> SweepReport:
    """Run the trials of a sweep that have no record yet; before them, compute scores it lacks.

    Args:
        spec: See :class:`SweepSpec`.
        out: Folder of ``sweep.json`` (the spec), ``records.jsonl`` and, of trials that were given
            up, ``stopped.jsonl``; made where it is missing.
        device: As in :func:`tamis.devices.resolve_device`.
        workers: Processes on this machine, 1 by default; the CPU's cores are shared out among them.
        cluster: Run the trials on a Ray cluster instead, and train what scores are read off.
        track: Who is told of finished trials, see :class:`SweepTracks`.
        progress: Told of every trial.

    Raises:
        TamisError: Before any trial, where the spec does not fit its files.
    """
    where = None if cluster is not None else resolve_device(device)
    sweep = open_sweep(spec, out)
    out.mkdir(parents=True, exist_ok=True)
    records_path = out / "records.jsonl"
    with ExitStack() as stack:
        append = stack.enter_context(append_lines(records_path))
        known = read_records(records_path)
        with atomic_path(out / "sweep.json", overwrite=True) as partial:
            partial.write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if not sweep.is_scored:
            scoring_device = where or resolve_device(device)
            score_initial_sets(sweep, out, scoring_device, cluster=cluster, progress=progress)
            sweep = open_sweep(spec, out)
        keys = {trial: sweep.key(trial) for trial in sweep.trials}
        given_up = given_up_by(spec.early_stop, read_stopped(out / STOPPED)).keys() - known.keys()
        stopped = given_up & set(keys.values())
        missing = [t for t, key in keys.items() if key not in known and key not in stopped]
        if spec.early_stop is not None:
            give_up = stack.enter_context(append_lines(out / STOPPED))
        tracks = SweepTracks(out, track)
        for key in keys.values():
            if key in known:
                tracks.tell(known[key])
        advance = stack.enter_context(progress.task("sweep", len(keys)))
        advance(len(keys) - len(missing))
        failures: list[str] = []
        job = Job(spec, table_files(sweep, out), device)
        for result in _execute(job, missing, workers, cluster):
            if isinstance(result, TrialRecord):
                append(result)
                tracks.tell(result)
            elif isinstance(result, StoppedTrial):
                give_up(result)
                stopped.add(result.key)
            else:
                failures.append(result)
            advance()
    n_done = len(keys) - len(failures) - len(stopped)
    counts = (len(keys), n_done, len(stopped), len(failures))
    return SweepReport(*counts, tuple(failures), records_path)


def _execute(
    job: Job, trials: list[Trial], workers: int | None, cluster: ClusterOptions | None
) -> Iterator[Result]:
    if not trials:
        return iter(())
    if cluster is not None:
        return run_on_ray(job, trials, cluster)
    return run_here(job, trials, workers or 1)

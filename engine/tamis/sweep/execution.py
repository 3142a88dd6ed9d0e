"""Running the trials that have no record yet.

Intended behaviour: every finished trial is one line of ``records.jsonl``, written and synced before
the next begins to count; a killed sweep loses only the trials under way, and a second call runs
only what is missing. A trial that fails is reported and leaves no record, so that the next call
tries it again; the others go on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tamis.atomic import atomic_path
from tamis.devices import n_cores, resolve_device
from tamis.errors import TamisError, WorkFailedError, first_line
from tamis.progress import QUIET, Progress
from tamis.selection.selecting import select
from tamis.sweep.grid import Sweep
from tamis.sweep.records import Trial, TrialRecord, append_records, read_records
from tamis.sweep.spec import SweepSpec
from tamis.training.many import Trainer, TrainSpec
from tamis.training.runs import RunOptions

__all__ = ["SweepReport", "run_sweep"]


@dataclass(frozen=True)
class SweepReport:
    """What a call of a sweep did; ``failures`` are one line each."""

    n_trials: int
    n_done: int
    n_failed: int
    failures: tuple[str, ...]
    records: Path


def run_sweep(
    spec: SweepSpec,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    progress: Progress = QUIET,
) -> SweepReport:
    """Run the trials of a sweep that have no record yet.

    Args:
        spec: See :class:`SweepSpec`.
        out: Folder of ``sweep.json`` (the spec) and ``records.jsonl``; made where it is missing.
        device: As in :func:`tamis.devices.resolve_device`.
        workers: Processes; the CPU's cores are shared out among them.
        progress: Told of every trial.

    Raises:
        TamisError: Before any trial, where the spec does not fit its files.
    """
    resolve_device(device)
    sweep = Sweep(spec)
    out.mkdir(parents=True, exist_ok=True)
    records_path = out / "records.jsonl"
    known = read_records(records_path)
    with atomic_path(out / "sweep.json", overwrite=True) as partial:
        partial.write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
    trials = sweep.trials
    missing = [trial for trial in trials if sweep.key(trial) not in known]
    failures: list[str] = []
    with (
        append_records(records_path) as append,
        progress.task("sweep", len(trials)) as advance,
    ):
        advance(len(trials) - len(missing))
        for result in _execute(sweep, missing, device, workers):
            if isinstance(result, TrialRecord):
                append(result)
            else:
                failures.append(result)
            advance()
    n_done = len(trials) - len(failures)
    return SweepReport(len(trials), n_done, len(failures), tuple(failures), records_path)


def _execute(
    sweep: Sweep, trials: list[Trial], device: str, workers: int
) -> Iterator[TrialRecord | str]:
    """Results as they finish: a record, or one line on what failed."""
    workers = max(1, min(workers, len(trials)))
    if workers == 1:
        runner = _Runner(sweep, device)
        for trial in trials:
            yield runner.run(trial)
        return
    threads = max(1, n_cores() // workers)
    context = multiprocessing.get_context("spawn")  # a fork would share torch's thread pools
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(sweep.spec, device, threads)
    ) as pool:
        futures = [pool.submit(_run_in_worker, trial) for trial in trials]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkFailedError(
                "a sweep worker",
                expected="it to finish its trial",
                found="that its process died (out of memory, or killed)",
                do="run the same command again, with fewer --workers: finished trials are kept",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # nobody waits for the trials under way any more
            raise


class _Runner:
    """Decodes both sets once and runs trials on parts of the training set."""

    def __init__(self, sweep: Sweep, device: str, threads: int | None = None) -> None:
        self.sweep = sweep
        where = resolve_device(device)
        self.trainer = Trainer(sweep.train, sweep.test, where, workers=threads)

    def run(self, trial: Trial) -> TrialRecord | str:
        try:
            return self._run(trial)
        except (WorkFailedError, RuntimeError) as error:  # RuntimeError: torch, out of memory too
            return f"{trial}: {first_line(error)}"

    def _run(self, trial: Trial) -> TrialRecord:
        sweep = self.sweep
        kept = select(sweep.table, sweep.selection(trial))
        options = RunOptions(trial.budget, sweep.train.n_examples, trial.seed)
        _, record = self.trainer.run(TrainSpec(sweep.recipe, kept.example_ids, options))
        fraction = len(kept.example_ids) / sweep.train.n_examples
        per_class = {str(label): count for label, count in kept.per_class.items()}
        return TrialRecord(sweep.key(trial), trial, fraction, per_class, asdict(record))


_runner: _Runner | TamisError | None = None
_threads = 1


def _start_worker(spec: SweepSpec, device: str, threads: int) -> None:
    global _runner, _threads
    _threads = threads
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _runner = _Runner(Sweep(spec), device, threads)
    except TamisError as error:
        _runner = (
            error  # raised by the first trial: a failing initializer would only break the pool
        )


def _end_with_parent() -> None:
    """A worker whose parent was killed ends too, instead of training on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(trial: Trial) -> TrialRecord | str:
    assert _runner is not None  # set by _start_worker
    if isinstance(_runner, TamisError):
        raise _runner
    # Before every trial, not once: libraries that share torch's pool set it back when they load
    # or run, and processes that all spin on all cores wait for each other.
    torch.set_num_threads(_threads)
    return _runner.run(trial)

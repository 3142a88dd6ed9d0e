"""Trials on this machine, in this process or in several."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from tamis.devices import n_cores, use_threads
from tamis.errors import TamisError, WorkFailedError
from tamis.sweep.records import Trial
from tamis.sweep.runner import Job, Result, Runner

__all__ = ["run_here"]


def run_here(job: Job, trials: Sequence[Trial], workers: int) -> Iterator[Result]:
    """Run trials.

    Args:
        job: Their sweep.
        trials: In the order in which they are begun.
        workers: Processes; the CPU's cores are shared out among them.

    Yields:
        As they finish.

    Raises:
        TamisError: As :class:`Runner`.
        WorkFailedError: A process died.
    """
    workers = max(1, min(workers, len(trials)))
    if workers == 1:
        runner = Runner(job)
        for trial in trials:
            yield runner.run(trial)
        return
    threads = max(1, n_cores() // workers)
    context = multiprocessing.get_context("spawn")  # a fork would share torch's thread pools
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(job, threads)
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


_runner: Runner | TamisError | None = None
_threads = 1


def _start_worker(job: Job, threads: int) -> None:
    global _runner, _threads
    _threads = threads
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _runner = Runner(job, threads)
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


def _run_in_worker(trial: Trial) -> Result:
    assert _runner is not None  # set by _start_worker
    if isinstance(_runner, TamisError):
        raise _runner
    # Before every trial, not once: libraries that share torch's pool set it back when they load
    # or run, and processes that all spin on all cores wait for each other.
    use_threads(_threads)
    return _runner.run(trial)

"""Trials on a Ray cluster: workers that keep their decoded sets and compiled networks.

The only file that imports Ray.

Intended behaviour: a worker that is lost, with its node or alone, costs the trial that it was
running and nothing else; the trial is run again by another one. Records are written by whoever
called, never by a worker: none is lost, none is counted twice. A trial that loses three workers is
reported as failed, because it may be what kills them. Nodes that join later get workers, too.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tamis.errors import TamisError, UsageError, WorkFailedError, first_line
from tamis.sweep.records import Trial, TrialRecord
from tamis.sweep.runner import Job, Runner

__all__ = ["RayOptions", "run_on_ray"]

_MOST_LOSSES = 3
_LOOK = 5.0  # seconds between two looks at whether the cluster is still there
_PATIENCE = 300.0  # seconds without any node that could hold a worker


@dataclass(frozen=True)
class RayOptions:
    """Where on a cluster the trials run.

    Attributes:
        address: Of the cluster, ``auto`` for the one of this machine; None starts one here, and
            stops it at the end.
        workers: How many at most; None as many as the cluster holds.
        cpus: Cores of a worker, which are its threads.
        gpus: GPUs of a worker, or a share of one; None takes one where the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float | None = None


def run_on_ray(
    job: Job, trials: Sequence[Trial], options: RayOptions
) -> Iterator[TrialRecord | str]:
    """Run trials.

    Args:
        job: Their sweep; its files lie where all nodes see them, under the same names.
        trials: In the order in which they are begun.
        options: Where.

    Yields:
        As they finish: a record, or one line on what failed.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or none of its nodes holds a worker.
        TamisError: As :class:`Runner`, of a worker.
        WorkFailedError: The cluster went away.
    """
    ray = _ray()
    with _connected(ray, options.address):
        try:
            yield from _Pool(ray, job, trials, options).results()
        except ray.exceptions.RayError as error:
            raise WorkFailedError(
                "the Ray cluster",
                expected="it to run the trials",
                found=first_line(error),
                do="run the same command again: finished trials are kept",
            ) from error


def _ray() -> Any:
    # No word to Ray's makers: nothing here needs the network that the user has not named.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--executor ray",
            expected="the package ray",
            found=first_line(error),
            do='run: pip install "tamis[ray]"',
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    own: dict[str, Any] = {"address": address}
    if address is None:
        # Trials read bundles from the disk: the store of objects holds nothing but specs.
        own = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    try:
        _knock(address)
        ray.init(log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # OSError, ValueError, RuntimeError: Ray's own vary
        raise UsageError(
            "--address",
            expected="a Ray cluster that answers",
            found=f"{address or 'none'}: {first_line(error)}",
            do="start one with: ray start --head; or leave --address out",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError where nobody listens; Ray itself would ask again for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_LOOK).close()


class _Worker:
    """Runs in a process of the cluster."""

    def __init__(self, job: Job, threads: int) -> None:
        self._threads = threads
        self._runner: Runner | TamisError
        try:
            self._runner = Runner(job, threads)
        except TamisError as error:
            self._runner = error  # for whoever asks for a trial: it says more than a dead worker

    def begin(self) -> TamisError | None:
        """Answered as soon as the worker has a place; what kept it from opening the sweep."""
        return self._runner if isinstance(self._runner, TamisError) else None

    def run(self, trial: Trial) -> TrialRecord | str:
        import torch

        assert isinstance(self._runner, Runner)
        torch.set_num_threads(self._threads)  # again: libraries that share the pool set it back
        return self._runner.run(trial)


class _Pool:
    def __init__(self, ray: Any, job: Job, trials: Sequence[Trial], options: RayOptions) -> None:
        self._ray, self._job, self._options = ray, job, options
        has_gpus = any(_resources(node).get("GPU") for node in _alive(ray))
        wants_gpu = job.device != "cpu" and has_gpus
        self._gpus = options.gpus if options.gpus is not None else float(wants_gpu)
        if not self._capacity():
            raise UsageError(
                "--cpus-per-trial, --gpus-per-trial",
                expected=f"a node with {options.cpus} CPUs and {self._gpus:g} GPUs",
                found="; ".join(_text(node) for node in _alive(ray)) or "no node",
                do="ask for less, or add nodes",
            )
        self._queue = deque(trials)
        self._losses: dict[Trial, int] = {}
        self._n_workers = self._failed_starts = 0
        self._looked, self._held = 0.0, time.monotonic()
        self._idle: list[Any] = []
        # What is waited for → the worker, and what it does: a trial, or None while it begins. A
        # worker for which there is no room any more waits without a trial that others could run.
        self._pending: dict[Any, tuple[Any, Trial | None]] = {}

    def results(self) -> Iterator[TrialRecord | str]:
        ray = self._ray
        while self._queue or any(trial for _, trial in self._pending.values()):
            self._look()
            while self._idle and self._queue:
                worker, trial = self._idle.pop(), self._queue.popleft()
                self._pending[worker.run.remote(trial)] = worker, trial
            ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=_LOOK)
            if not ready:
                continue
            worker, done = self._pending.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except ray.exceptions.RayActorError as error:
                self._start_worker()  # waits until there is room for it
                if (line := self._lost(done, error)) is not None:
                    yield line
                continue
            self._idle.append(worker)
            if isinstance(result, TamisError):
                raise result
            if done is None:
                self._failed_starts = 0
            else:
                yield result

    def _look(self) -> None:
        """Every few seconds: workers for nodes that have joined; the end of patience with none."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked, capacity = now, self._capacity()
        wanted = min(capacity, self._options.workers or capacity, len(self._queue))
        for _ in range(self._n_workers, wanted):
            self._n_workers += 1
            self._start_worker()
        if capacity:
            self._held = now
        elif now - self._held > _PATIENCE:
            raise WorkFailedError(
                "the Ray cluster",
                expected="a node that holds a worker",
                found=f"none for {_PATIENCE / 60:.0f} minutes",
                do="add nodes and run the same command again: finished trials are kept",
            )

    def _start_worker(self) -> None:
        cpus = self._options.cpus
        remote = self._ray.remote(num_cpus=cpus, num_gpus=self._gpus)(_Worker)
        worker = remote.remote(self._job, cpus)
        self._pending[worker.begin.remote()] = worker, None

    def _lost(self, trial: Trial | None, error: Exception) -> str | None:
        """Have the trial run again, or say why it is given up."""
        if trial is None:
            self._failed_starts += 1
            if self._failed_starts == _MOST_LOSSES:
                raise error
            return None
        self._losses[trial] = self._losses.get(trial, 0) + 1
        if self._losses[trial] == _MOST_LOSSES:
            return f"{trial}: its worker died {_MOST_LOSSES} times: {first_line(error)}"
        self._queue.appendleft(trial)
        return None

    def _capacity(self) -> int:
        """Workers that the nodes hold at once."""
        wanted = {"CPU": self._options.cpus, "GPU": self._gpus}
        return sum(
            min(
                int(_resources(node).get(kind, 0) / count + 1e-9)
                for kind, count in wanted.items()
                if count
            )
            for node in _alive(self._ray)
        )


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resources(node: dict[str, Any]) -> dict[str, float]:
    return node["Resources"]  # type: ignore[no-any-return]


def _text(node: dict[str, Any]) -> str:
    found = _resources(node)
    return f"one with {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"

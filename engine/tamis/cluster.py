"""Work on a Ray cluster: workers that keep what they have opened, and tasks that go to them.

The only file that imports Ray.

Intended behaviour: a worker that is lost, with its node or alone, costs the task that it was
working on and nothing else; another one does it again. Results come to whoever called: none is
lost, none comes twice. A task that loses three workers is given up, because it may be what kills
them. Nodes that join later get workers, too.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tamis.devices import use_threads
from tamis.errors import TamisError, UsageError, WorkFailedError, first_line

__all__ = ["ClusterOptions", "GivenUp", "run_on_cluster"]


_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_MOST_LOSSES = 3
_LOOK = 5.0  # seconds between two looks at whether the cluster is still there
_PATIENCE = 300.0  # seconds without any node that could hold a worker


@dataclass(frozen=True)
class ClusterOptions:
    """Where on a cluster tasks are done.

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


@dataclass(frozen=True)
class GivenUp:
    """In place of a result: the task's workers died, for the reason of the last one."""

    reason: str


def run_on_cluster(
    open_worker: Callable[[int], Callable[[_Task], _Result]],
    tasks: Sequence[_Task],
    options: ClusterOptions,
    *,
    use_gpus: bool,
) -> Iterator[tuple[_Task, _Result | GivenUp]]:
    """Have tasks done.

    Args:
        open_worker: Called once in each worker with its number of threads; gives what does a task.
            It can be pickled, and so can tasks and results. Files that it names lie where all nodes
            see them.
        tasks: Hashable, in the order in which they are begun.
        options: Where.
        use_gpus: Whether a worker takes a GPU where there are any and ``options`` do not say.

    Yields:
        Each task with its result, as they finish.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or none of its nodes holds a worker.
        TamisError: Of a worker that cannot begin, or of a task.
        WorkFailedError: The cluster went away.
    """
    ray = _ray()
    with _connected(ray, options.address):
        try:
            yield from _Pool(ray, open_worker, tasks, options, use_gpus).results()
        except ray.exceptions.RayError as error:
            raise WorkFailedError(
                "the Ray cluster",
                expected="it to do the work",
                found=first_line(error),
                do="run the same command again: what is finished is kept",
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
            do="run: pip install ray",
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    own: dict[str, Any] = {"address": address}
    if address is None:
        # Workers read files: the store of objects holds nothing but small tasks and results.
        # "local": an address that the environment names is not this machine's own cluster.
        own = {"address": "local", "include_dashboard": False, "object_store_memory": 100 * 2**20}
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
    """Lives in a process of the cluster."""

    def __init__(self, open_worker: Callable[[int], Callable[[Any], Any]], threads: int) -> None:
        self._threads = threads
        self._work: Callable[[Any], Any] | TamisError
        try:
            self._work = open_worker(threads)
        except TamisError as error:
            self._work = error  # for whoever asks: it says more than a dead worker

    def begin(self) -> TamisError | None:
        """Answered as soon as the worker has a place; what kept it from opening its work."""
        return self._work if isinstance(self._work, TamisError) else None

    def do(self, task: Any) -> Any:
        assert not isinstance(self._work, TamisError)
        use_threads(self._threads)  # again: libraries that share the pool set it back
        try:
            return self._work(task)
        except TamisError as error:
            return error  # Ray would wrap it


class _Pool:
    def __init__(
        self,
        ray: Any,
        open_worker: Callable[[int], Callable[[Any], Any]],
        tasks: Sequence[Any],
        options: ClusterOptions,
        use_gpus: bool,
    ) -> None:
        self._ray, self._open_worker, self._options = ray, open_worker, options
        has_gpus = any(_resources(node).get("GPU") for node in _alive(ray))
        self._gpus = options.gpus if options.gpus is not None else float(use_gpus and has_gpus)
        if not self._capacity():
            raise UsageError(
                "--cpus-per-worker, --gpus-per-worker",
                expected=f"a node with {options.cpus} CPUs and {self._gpus:g} GPUs",
                found="; ".join(_text(node) for node in _alive(ray)) or "no node",
                do="ask for less, or add nodes",
            )
        self._queue = deque(tasks)
        self._losses: dict[Any, int] = {}
        self._n_workers = self._failed_starts = 0
        self._looked, self._held = 0.0, time.monotonic()
        self._idle: list[Any] = []
        # What is waited for → the worker, and its task, or None while it begins. A worker for
        # which there is no room any more waits without a task that others could do.
        self._pending: dict[Any, tuple[Any, Any]] = {}

    def results(self) -> Iterator[tuple[Any, Any]]:
        ray = self._ray
        while self._queue or any(task is not None for _, task in self._pending.values()):
            self._look()
            while self._idle and self._queue:
                worker, task = self._idle.pop(), self._queue.popleft()
                self._pending[worker.do.remote(task)] = worker, task
            ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=_LOOK)
            if not ready:
                continue
            worker, task = self._pending.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except ray.exceptions.RayActorError as error:
                self._start_worker()  # waits until there is room for it
                if (lost := self._lost(task, error)) is not None:
                    yield task, lost
                continue
            self._idle.append(worker)
            if isinstance(result, TamisError):
                raise result
            if task is None:
                self._failed_starts = 0
            else:
                yield task, result

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
                do="add nodes and run the same command again: what is finished is kept",
            )

    def _start_worker(self) -> None:
        cpus = self._options.cpus
        remote = self._ray.remote(num_cpus=cpus, num_gpus=self._gpus)(_Worker)
        worker = remote.remote(self._open_worker, cpus)
        self._pending[worker.begin.remote()] = worker, None

    def _lost(self, task: Any, error: Exception) -> GivenUp | None:
        """Have the task done again, or give it up."""
        if task is None:
            self._failed_starts += 1
            if self._failed_starts == _MOST_LOSSES:
                raise error
            return None
        self._losses[task] = self._losses.get(task, 0) + 1
        if self._losses[task] == _MOST_LOSSES:
            return GivenUp(f"its worker died {_MOST_LOSSES} times: {first_line(error)}")
        self._queue.appendleft(task)
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

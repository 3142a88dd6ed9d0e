"""One loader in a process of its own, which goes through epochs when it is told to.

Reads a line of JSON for each epoch, answers with one. So contenders take turns, and none shares
another's threads, compiled code or memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from typing import Any

from tamis.benchmarks.loaders.contenders import Task, open_contender
from tamis.errors import WorkFailedError
from tamis.progress import Advance

__all__ = ["LoaderProcess", "Turn", "take_turns"]


@dataclass(frozen=True)
class Turn:
    """One epoch.

    Attributes:
        n_images: Images given.
        seconds: Wall time, until all of it is on the device and has been taken there.
        first_batch: Seconds until the first batch; of the first epoch from the process's start,
            with imports, opening, compiling, decoding into memory.
        cpu_seconds: Of the process and its children.
        memory: Bytes that it and its children hold now, shared ones of children counted once.
    """

    n_images: int
    seconds: float
    first_batch: float
    cpu_seconds: float
    memory: int


class LoaderProcess:
    """A contender that waits for its turns, until it is closed.

    Attributes:
        first: The first epoch, which is over when this is made.
    """

    def __init__(self, name: str, task: Task) -> None:
        command = [sys.executable, "-m", __name__, name, json.dumps(asdict(task))]
        self._name = name
        # A pipe that nobody reads would fill up.
        self._says = TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._says,
            text=True,
        )
        try:
            self.first = self._answer()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._says.close()

    def turn(self) -> Turn:
        """Go through an epoch.

        Raises:
            WorkFailedError: It failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer will say so
        return self._answer()

    def _answer(self) -> Turn:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._says.seek(0)
            says = self._says.read().decode("utf-8", "replace")
            raise WorkFailedError(
                self._name,
                expected="a loader that goes through an epoch",
                found=(says.strip().splitlines() or ["its end"])[-1],
                do="leave it out with --only",
            )
        return Turn(**json.loads(line))


def take_turns(
    asked: Mapping[str, tuple[str, Task]],
    repetitions: int,
    advance: Advance,
    *,
    before: Callable[[str], None] = lambda name: None,
) -> dict[str, list[Turn]]:
    """Epochs of loaders in turns, each in a process of its own.

    Args:
        asked: Name → contender and what it is given; all of as many images.
        repetitions: Epochs of each, besides the first.
        advance: Told of every epoch.
        before: Called with the name before each epoch but the first.

    Returns:
        Name → its epochs, the first one first.

    Raises:
        WorkFailedError: One failed, or gave another number of images than the others.
    """
    turns: dict[str, list[Turn]] = {}
    with ExitStack() as stack:
        processes = {}
        for name, (contender, task) in asked.items():
            processes[name] = stack.enter_context(closing(LoaderProcess(contender, task)))
            turns[name] = [processes[name].first]
            advance()
        for _ in range(repetitions):
            for name, process in processes.items():
                before(name)
                time.sleep(0.05)  # until the last one's threads are asleep
                turns[name].append(process.turn())
                advance()
    counts = {turn.n_images for taken in turns.values() for turn in taken}
    if len(counts) > 1:
        raise WorkFailedError(
            "bench loaders",
            expected="every loader to give every image once",
            found=str({name: taken[-1].n_images for name, taken in turns.items()}),
            do="leave out the odd one with --only",
        )
    return turns


def _processes() -> list[Any]:
    import psutil

    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu_seconds() -> float:
    times = [process.cpu_times() for process in _processes()]
    return float(sum(time.user + time.system for time in times))


def _memory() -> int:
    own, *children = _processes()
    total = int(own.memory_info().rss)
    return total + sum(int(child.memory_full_info().uss) for child in children)


def _nothing(images: Any) -> None:
    """Take a batch, and do nothing with it."""


def _main(name: str, asked: str) -> None:
    import os

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print are not in the way
    import psutil
    import torch

    from tamis.benchmarks.loaders.feeding import training_step

    task = Task(**json.loads(asked))
    device = torch.device(task.device)
    if task.feed:
        take = training_step(device)
    else:
        torch.set_num_threads(1)
        take = _nothing
    born = psutil.Process().create_time()
    epoch = open_contender(name, task)
    number = 0
    while True:
        before, start = _cpu_seconds(), time.perf_counter()
        n_images, first = 0, 0.0
        for images in epoch(number):
            if not n_images:
                first = time.perf_counter() - start if number else time.time() - born
            n_images += len(images)
            take(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        turn = Turn(n_images, seconds, first, _cpu_seconds() - before, _memory())
        if device.type == "cuda":
            torch.cuda.empty_cache()  # for those whose turn it is
        print(json.dumps(asdict(turn)), file=answers, flush=True)
        if not sys.stdin.readline():
            return
        number += 1


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])

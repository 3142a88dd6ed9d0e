"""Signals that end a training after its step, instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamis.errors import InterruptedRunError
from tamis.training.workers import Workers

__all__ = ["NEVER", "StopRequest"]

_AGREE_EVERY = 16  # steps, of several processes that have to stop after the same one


class StopRequest:
    """Whether somebody asked for an early end.

    Args:
        armed: False for a training that nobody interrupts.
    """

    def __init__(self, *, armed: bool = True) -> None:
        self._armed, self._steps = armed, 0
        self.name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C as requests; a second Ctrl-C interrupts at once.

        Outside the main thread, which alone gets signals, nothing changes.
        """
        if not self._armed or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def asked(self, workers: Workers) -> bool:
        """Asked after each step; the same in all processes."""
        if not self._armed:
            return False
        if workers.size == 1:
            return self.name is not None
        self._steps += 1
        if self._steps % _AGREE_EVERY:
            return False
        return bool(workers.sum(workers.tensor(float(self.name is not None))) > 0)

    def obey(self, kept: Path | None) -> None:
        """End the training.

        Raises:
            InterruptedRunError: Always.
        """
        raise InterruptedRunError(
            "training",
            expected="to go on to its end",
            found=self.name or "that another process was asked to stop",
            do="go on with the same command and --resume" if kept else "nothing is kept of it",
        )


NEVER = StopRequest(armed=False)
"""Of trainings that are not kept."""

"""What long work tells whoever waits for it.

The stages take a :class:`Progress` and know nothing of terminals; the command line passes one
that draws bars.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["QUIET", "Advance", "Progress"]


class Advance(Protocol):
    """Counts finished units of a task."""

    def __call__(self, units: int = 1, /) -> None:
        """Add ``units`` to what is done."""


class Progress(Protocol):
    """Opens tasks that can be advanced."""

    def task(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
        """Open a task of ``total`` units (None: unknown); the context closes it."""


class _Quiet:
    def task(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
        return nullcontext(_ignore)


def _ignore(units: int = 1, /) -> None:
    pass


QUIET: Progress = _Quiet()

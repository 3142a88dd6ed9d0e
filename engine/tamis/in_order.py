"""Work on threads whose results come in the order of what was asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_in_order"]

_A = TypeVar("_A")
_T = TypeVar("_T")


def map_in_order(
    work: Callable[[_A], _T], items: Iterable[_A], workers: int, name: str
) -> Generator[_T]:
    """Call ``work`` with each item on threads, a bounded number ahead.

    An exception here or in the caller, Ctrl-C too, or closing the generator ends the threads after
    what they have begun.

    Args:
        work: Called on a thread.
        items: Taken on the caller's, at most 2 · workers + 1 before their results.
        workers: Threads.
        name: Of the threads.

    Yields:
        What ``work`` returned, in the order of the items.
    """
    pending: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix=name) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

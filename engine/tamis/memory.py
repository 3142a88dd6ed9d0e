"""Memory that allocators keep for later: given back to the system, or not."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

__all__ = ["keep_freed", "release_unused"]

# Of glibc's mallopt. A block from the first size on is a mapping of its own, which leaves with it;
# of the others' room up to the second is kept. The first may be no larger.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_OWN_MAPPING, _KEPT = 32 << 20, 1 << 30


@cache
def keep_freed() -> None:
    """Let the C library keep up to 1 GB of what is freed, from now on.

    A training step on a CPU, or a batch that a network answers, frees what the next one needs
    again. By default the pages go back to the system and come anew, zeroed, thousands of them a
    step: up to 9 % of the time of ``small``, a quarter of that of ResNet-18's answers
    (bench/records/NOTES.md). :func:`release_unused` gives them back still. Does nothing where the C
    library has no such call.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _OWN_MAPPING)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)


def release_unused() -> None:
    """Give freed memory back: after the tables of a million examples that is 100 MB and more.

    Arrow's pool and glibc's heap keep what was freed. Takes milliseconds; does nothing where the C
    library has no such call.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

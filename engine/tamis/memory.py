"""Memory that allocators keep for later, given back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["release_unused"]


def release_unused() -> None:
    """Give freed memory back: after the tables of a million examples that is 100 MB and more.

    Arrow's pool and glibc's heap keep what was freed. Takes milliseconds; does nothing where the C
    library has no such call.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

"""What Numba has compiled is kept from run to run; dropped, where the sources have changed.

Numba looks at the file of a loop alone. Where a function has changed that the loop calls from
another file, as after an update of a checkout, it would go on with the old one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["forget_stale"]


def forget_stale(folder: Path) -> None:
    """Have loops of a folder's modules compiled anew if any of its modules has changed since.

    To be called by modules whose loops call those of others, before Numba looks for what it keeps.
    The modules of ``tamis_kernels.cpu`` count as the folder's own. What Numba keeps elsewhere
    (``NUMBA_CACHE_DIR``, or a folder that may not be written to) is not looked at.

    Args:
        folder: Where the modules lie.
    """
    with suppress(OSError):  # a folder that only others may write to is not one that changes
        sources = [*folder.glob("*.py"), *(Path(__file__).parent / "cpu").glob("*.py")]
        changed = max((source.stat().st_mtime_ns for source in sources), default=0)
        for index in (folder / "__pycache__").glob("*.nbi"):
            if index.stat().st_mtime_ns < changed:
                index.unlink(missing_ok=True)

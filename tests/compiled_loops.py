"""How many variants of the kernels' loops Numba has compiled."""

from __future__ import annotations

import sys

from numba.core.dispatcher import Dispatcher

__all__ = ["n_compiled"]


def n_compiled() -> int:
    """Of all loops of ``tamis_kernels.cpu`` in this process."""
    modules = [found for name, found in sys.modules.items() if name.startswith("tamis_kernels.cpu")]
    loops = {v for found in modules for v in vars(found).values() if isinstance(v, Dispatcher)}
    return sum(len(loop.overloads) for loop in loops)

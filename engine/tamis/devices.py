"""Where the work runs, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from tamis.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["autocast", "multiplies_bfloat16", "n_cores", "resolve_device", "use_threads"]


def n_cores() -> int:
    """Cores that this process may use, which in a container or job are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(n: int) -> None:
    """Let torch and Numba use ``n`` threads when the calling thread asks them for something.

    Both: Numba's OpenMP layer gives its own number to torch, which shares the pool, with every call
    of a kernel; and in how many parts numbers are added decides their last bits.
    """
    import numba
    import torch

    torch.set_num_threads(n)
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(n, most))


def resolve_device(spec: str = "auto") -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UsageError: Another name, or a GPU that is not there.
    """
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = ("cuda" if n_gpus else "cpu") if spec == "auto" else spec
    kind, _, index = name.partition(":")
    known = (kind == "cpu" and not index) or (kind == "cuda" and (not index or index.isdecimal()))
    if not known or (kind == "cuda" and int(index or 0) >= n_gpus):
        raise UsageError(
            "--device",
            expected="auto, cpu" + "".join(f", cuda:{i}" for i in range(n_gpus)),
            found=spec,
            do="leave it out to use the GPU where there is one",
        )
    return torch.device(name)


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 for convolutions and products where the hardware multiplies it, else float32.

    On a CPU that means AVX512-BF16 or AMX; elsewhere bfloat16 is emulated and slower.
    """
    import torch

    # Autocast's cache of cast weights is dropped at the end of each context.
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device's hardware multiplies bfloat16."""
    return device.type == "cuda" or _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    from tamis_kernels import processor

    return processor.multiplies_bfloat16()

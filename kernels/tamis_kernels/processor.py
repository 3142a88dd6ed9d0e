"""What the machine's processor is and can do, as Linux has it in /proc/cpuinfo."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["flags", "model_name", "multiplies_bfloat16"]


def flags() -> frozenset[str]:
    """Names of its instruction sets, as ``avx512f``; none where nobody says."""
    return frozenset(_first("flags").split())


def multiplies_bfloat16() -> bool:
    """Whether it has products of bfloat16: AVX512-BF16 or AMX."""
    return bool({"avx512_bf16", "amx_bf16"} & flags())


def model_name() -> str:
    """Its maker's name for it, or what Python calls it."""
    return _first("model name") or platform.processor() or platform.machine()


@cache
def _first(field: str) -> str:
    """What a field says of the first core."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")

"""Numba twins of the kernels. They assume checked input; call the public functions instead."""

from pathlib import Path

from tamis_kernels.compiled import forget_stale

forget_stale(Path(__file__).parent)

"""Numba twins of the kernels. They assume checked input; call the public functions instead."""

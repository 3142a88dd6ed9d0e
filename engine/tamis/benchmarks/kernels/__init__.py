"""``tamis bench kernels``: the kernels against named peers and this machine's measured ceilings.

``running`` is the entry; ``protocol`` holds what all share, ``processor`` and ``gpu`` the ceilings
and clocks of the two kinds of hardware; each other file is named after its kernel. Beside NumPy and
``tamis_kernels`` every library is imported where it is first needed, so that a machine with torch,
CuPy and Numba alone can run what concerns it; what is missing is left out, and said so.
"""

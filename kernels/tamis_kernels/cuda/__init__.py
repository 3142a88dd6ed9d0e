"""CUDA C++ sources of the kernels, and how they are launched on arrays of a GPU."""

"""CUDA sources on a CPU: the shim, and a runtime for the launch code."""

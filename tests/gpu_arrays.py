"""NumPy arrays to a GPU and back, for the tests marked gpu."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["on_gpu", "to_host"]


def on_gpu(library: str, array: NDArray[Any]) -> Any:
    """A CuPy array or a torch tensor on the first GPU."""
    if library == "cupy":
        import cupy

        return cupy.asarray(array)
    import torch

    return torch.from_numpy(array).cuda()


def to_host(array: Any) -> NDArray[Any]:
    """A CuPy array or a torch tensor as a NumPy array."""
    found: NDArray[Any] = array.get() if hasattr(array, "get") else array.cpu().numpy()
    return found

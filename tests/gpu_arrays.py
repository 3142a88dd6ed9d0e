"""NumPy arrays to a GPU and back, for the tests marked gpu."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["nothing_may_wait", "on_gpu", "to_host"]


def on_gpu(library: str, array: NDArray[Any]) -> Any:
    """A CuPy array or a torch tensor on the first GPU; of uint16 a tensor of bfloat16."""
    if library == "cupy":
        import cupy

        return cupy.asarray(array)
    import torch

    tensor = torch.from_numpy(array).cuda()
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def to_host(array: Any) -> NDArray[Any]:
    """A CuPy array or a torch tensor as a NumPy array."""
    found: NDArray[Any] = array.get() if hasattr(array, "get") else array.cpu().numpy()
    return found


@contextmanager
def nothing_may_wait() -> Iterator[None]:
    """torch raises where the host would wait for the GPU."""
    import torch

    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")

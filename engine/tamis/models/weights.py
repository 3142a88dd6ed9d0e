"""The identity of a network's weights, and what reading them from a file may raise."""

from __future__ import annotations

import pickle

import torch
import xxhash
from torch import nn

__all__ = ["UNREADABLE", "weights_digest"]

UNREADABLE = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What torch.load and load_state_dict raise for files that are damaged or hold something else."""


def weights_digest(module: nn.Module) -> str:
    """xxh3 over names, types, shapes and values of all tensors of a network, by name."""
    state = xxhash.xxh3_128()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(flat.view(torch.uint8).numpy().data)
    return "xxh3:" + state.hexdigest()

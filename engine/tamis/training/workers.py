"""Processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from tamis.errors import UsageError

__all__ = ["Workers", "is_one_of_several", "joined_workers", "own_device"]


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workers:
    """This process among those that train together; by default it is alone.

    Attributes:
        rank: From 0; the first one writes.
        size: How many there are.
        device: Through which they speak to each other.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def writes(self) -> bool:
        """Whether files and words are this process's task."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Of all processes; the argument itself where there is one."""
        if self.size > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def tensor(self, value: float) -> Tensor:
        """A number where they exchange numbers."""
        return torch.full((), value, dtype=torch.float64, device=self.device)

    def share(self, module: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                distributed.broadcast(tensor.data, src=0)

    def together(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with gradients that are means over all processes."""
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids)

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """Join the processes that torchrun started (``RANK``, ``WORLD_SIZE``), or be alone.

    By NCCL between GPUs, by Gloo between CPUs.

    Args:
        device: Of this process, see :func:`own_device`.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield Workers()
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=size)
    try:
        yield Workers(rank, size, device)
    finally:
        distributed.destroy_process_group()


def is_one_of_several() -> bool:
    """Whether torchrun started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(device: torch.device) -> torch.device:
    """This process's GPU: that of its place on its machine.

    Args:
        device: What was asked for; not one GPU by its number, where there are several processes.

    Raises:
        UsageError: It is; or more processes than GPUs, or nobody says which place this one has.
    """
    if device.type != "cuda" or not is_one_of_several():
        return device
    if "LOCAL_RANK" not in os.environ or (device.index or 0) > 0:
        raise UsageError(
            "--device",
            expected="cuda or auto, and LOCAL_RANK, which torchrun sets",
            found=f"{device}, LOCAL_RANK {os.environ.get('LOCAL_RANK', 'not set')}",
            do="start it with torchrun, without --device",
        )
    local = int(os.environ["LOCAL_RANK"])
    n_gpus = torch.cuda.device_count()
    if local >= n_gpus:
        raise UsageError(
            "torchrun",
            expected=f"at most {n_gpus} processes, as many as there are GPUs",
            found=f"process {local + 1}",
            do=f"pass --nproc-per-node {n_gpus}",
        )
    return torch.device("cuda", local)

"""What a GPU has used, as NVML counts it. The only file that imports pynvml."""

from __future__ import annotations

import torch

__all__ = ["energy_joules"]


def energy_joules(device: torch.device) -> float | None:
    """Of a GPU since its driver was loaded; differences of it are what a run took.

    None on a CPU, without the package nvidia-ml-py, and on GPUs older than Volta.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        )
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError:
        return None

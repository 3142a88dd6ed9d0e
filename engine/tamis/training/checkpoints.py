"""The folder of a run: ``record.json`` and ``model.pt``."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import torch

from tamis.atomic import atomic_path
from tamis.errors import BundleError, first_line
from tamis.models.small_resnet import SmallResNet
from tamis.training.runs import RunRecord

__all__ = ["load_checkpoint", "write_run"]


def write_run(out: Path, record: RunRecord, model: SmallResNet) -> None:
    """Write ``record.json`` and ``model.pt`` (weights and architecture) into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "model.pt", overwrite=True) as partial:
        torch.save({"config": model.config, "state": model.state_dict()}, partial)
    with atomic_path(out / "record.json", overwrite=True) as partial:
        partial.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def load_checkpoint(run_dir: Path, device: torch.device) -> SmallResNet:
    """The network of a run written by :func:`write_run`; loads tensors only, no code.

    Raises:
        BundleError: No checkpoint, or a damaged one.
    """
    try:
        raw = torch.load(run_dir / "model.pt", map_location=device, weights_only=True)
        model = SmallResNet(**raw["config"])
        model.load_state_dict(raw["state"])
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise BundleError(
            run_dir,
            expected="a run folder with the file model.pt",
            found=first_line(error),
            do="give the --out folder of a finished: tamis train",
        ) from error
    return model.to(device).eval()

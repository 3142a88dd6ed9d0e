"""The folder of a run: ``record.json`` and ``model.pt``."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from tamis.atomic import atomic_path
from tamis.errors import BundleError, first_line
from tamis.models.small_resnet import SmallResNet
from tamis.training.runs import RunRecord
from tamis.training.selfsup_runs import SelfsupRecord

__all__ = ["Checkpoint", "Objective", "load_checkpoint", "write_run"]


Objective = Literal["supervised", "selfsup"]


@dataclass(frozen=True)
class Checkpoint:
    """A network and what it was trained for.

    Attributes:
        model: In evaluation mode.
        objective: ``selfsup`` saw no labels.
    """

    model: SmallResNet
    objective: Objective


def write_run(out: Path, record: RunRecord | SelfsupRecord, model: SmallResNet) -> None:
    """Write ``record.json`` and ``model.pt`` (weights and architecture) into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    objective: Objective = "selfsup" if isinstance(record, SelfsupRecord) else "supervised"
    content = {"config": model.config, "state": model.state_dict(), "objective": objective}
    with atomic_path(out / "model.pt", overwrite=True) as partial:
        torch.save(content, partial)
    with atomic_path(out / "record.json", overwrite=True) as partial:
        partial.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def load_checkpoint(run_dir: Path, device: torch.device) -> Checkpoint:
    """The network of a run written by :func:`write_run`; loads tensors only, no code.

    Raises:
        BundleError: No checkpoint, or a damaged one.
    """
    try:
        raw = torch.load(run_dir / "model.pt", map_location=device, weights_only=True)
        model = SmallResNet(**raw["config"])
        model.load_state_dict(raw["state"])
        objective = raw.get("objective", "supervised")
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
    return Checkpoint(model.to(device).eval(), objective)

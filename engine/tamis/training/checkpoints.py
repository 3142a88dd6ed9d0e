"""The folder of a run: ``record.json`` and ``model.pt``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tamis.atomic import atomic_path
from tamis.errors import BundleError, first_line
from tamis.loaders.settings import USUAL_DECODING, Decoding
from tamis.models.network import Network
from tamis.models.registry import build_network
from tamis.models.weights import UNREADABLE
from tamis.training.records import RunRecord
from tamis.training.selfsup_runs import SelfsupRecord

__all__ = ["Checkpoint", "Objective", "load_checkpoint", "write_run"]


Objective = Literal["supervised", "selfsup"]


@dataclass(frozen=True)
class Checkpoint:
    """A network and what it was trained for.

    Attributes:
        model: In evaluation mode.
        objective: ``selfsup`` saw no labels.
        resolution: Side in pixels of the images that it is to be shown.
        center_ratio: Side of their centred square by the shorter side.
        decoding: How they become pixels.
    """

    model: Network
    objective: Objective
    resolution: int
    center_ratio: float
    decoding: Decoding


def write_run(out: Path, record: RunRecord | SelfsupRecord, model: Network) -> None:
    """Write ``record.json`` and ``model.pt`` (weights and architecture) into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    objective: Objective = "selfsup" if isinstance(record, SelfsupRecord) else "supervised"
    recipe, tested = record.recipe, objective == "supervised"  # encoders are probed as trained
    content = {
        "config": model.config,
        "state": model.state_dict(),
        "objective": objective,
        "resolution": (tested and recipe["test_resolution"]) or recipe["resolution"],
        "center_ratio": recipe["center_ratio"] if tested else 1.0,
        "decoding": {name: recipe[name] for name in USUAL_DECODING},
    }
    with atomic_path(out / "model.pt", overwrite=True) as partial:
        torch.save(content, partial)
    with atomic_path(out / "record.json", overwrite=True) as partial:
        partial.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def load_checkpoint(
    run_dir: Path,
    device: torch.device,
    build: Callable[[Mapping[str, Any]], Network] = build_network,
) -> Checkpoint:
    """The network of a run written by :func:`write_run`; loads tensors only, no code.

    Args:
        run_dir: The run's folder.
        device: Where the network goes.
        build: Makes a network of its config; may raise ValueError where it will not.

    Raises:
        BundleError: No checkpoint, a damaged one, or a network that is not built.
        As ``build``.
    """
    try:
        raw = torch.load(run_dir / "model.pt", map_location=device, weights_only=True)
        model = build(raw["config"])
        model.load_state_dict(raw["state"])
        objective = raw.get("objective", "supervised")
        # Checkpoints of the first version have it with the network alone.
        resolution = int(raw["resolution"] if "resolution" in raw else model.config["resolution"])
        center_ratio = float(raw.get("center_ratio", 1.0))
        # Before there was a choice, areas it was.
        decoding: Decoding = raw.get("decoding", {"resample": "area", "exact": True})
    except UNREADABLE as error:
        raise BundleError(
            run_dir,
            expected="a run folder with the file model.pt",
            found=first_line(error),
            do="give the --out folder of a finished: tamis train",
        ) from error
    return Checkpoint(model.to(device).eval(), objective, resolution, center_ratio, decoding)

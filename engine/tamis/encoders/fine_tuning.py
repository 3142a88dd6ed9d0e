"""Networks of others with a classifier on top: to be fine-tuned, and as they were kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tamis.encoders.network import NetworkEncoder
from tamis.encoders.opening import open_encoder
from tamis.errors import UsageError
from tamis.models.backbone import Backbone
from tamis.models.network import Network
from tamis.models.registry import build_network
from tamis.training.checkpoints import Checkpoint, load_checkpoint

__all__ = ["load_run", "open_backbone"]


def open_backbone(spec: str, n_classes: int, resolution: int, device: torch.device) -> Backbone:
    """A network that somebody else trained, with a new classifier.

    Args:
        spec: Of :func:`tamis.encoders.opening.open_encoder`, as ``timm:vit_base_patch16_224``.
        n_classes: Of the new task.
        resolution: Side of its images in pixels.
        device: Where it goes.

    Raises:
        UsageError: An encoder that is no network, or as ``open_encoder``.
    """
    encoder = open_encoder(spec, device, resolution=resolution)
    if not isinstance(encoder, NetworkEncoder):
        raise UsageError(
            "--start", expected="a network", found=spec, do="name one of timm, torchhub or a file"
        )
    return Backbone(
        n_classes, encoder.module, encoder.n_features, encoder.mean, encoder.std, spec, resolution
    ).to(device)


def load_run(run_dir: Path, device: torch.device) -> Checkpoint:
    """The network of any run, also of one that was fine-tuned.

    That is opened by what it was started from, which has to be there, and then given its own
    weights. From torch.hub it is not: a folder from elsewhere could name any code.

    Raises:
        BundleError: No run, a damaged one, or one that was started from torch.hub.
        UsageError: What it was started from cannot be opened any more.
    """

    def build(config: Mapping[str, Any]) -> Network:
        if config.get("network") != Backbone.kind:
            return build_network(config)
        if config["spec"].startswith("torchhub:"):
            raise ValueError(
                f"one fine-tuned from {config['spec']}, whose code it does not get to run"
            )
        return open_backbone(config["spec"], config["n_classes"], config["resolution"], device)

    return load_checkpoint(run_dir, device, build)

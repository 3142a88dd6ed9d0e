"""Networks of others with a classifier on top: to be fine-tuned, and as they were kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tamis.encoders.local_files import is_torchscript
from tamis.encoders.network import NetworkEncoder
from tamis.encoders.opening import open_encoder
from tamis.encoders.spec import parse_spec
from tamis.errors import UsageError
from tamis.models.backbone import Backbone
from tamis.models.network import Network
from tamis.models.registry import build_network
from tamis.training.checkpoints import Checkpoint, load_checkpoint

__all__ = ["load_run", "open_backbone"]


def open_backbone(
    spec: str, n_classes: int, resolution: int | None, device: torch.device, *, seed: int = 0
) -> Backbone:
    """A network that somebody else trained, with a new classifier.

    Args:
        spec: Of :func:`tamis.encoders.opening.open_encoder`, as ``timm:vit_base_patch16_224``.
        n_classes: Of the new task.
        resolution: Side of its images in pixels; None takes the network's own.
        device: Where it goes.
        seed: Of the classifier.

    Raises:
        UsageError: An encoder that is no network, or as ``open_encoder``.
    """
    encoder = open_encoder(spec, device, resolution=resolution)
    if not isinstance(encoder, NetworkEncoder):
        raise UsageError(
            "--start", expected="a network", found=spec, do="name one of timm, torchhub or a file"
        )
    with torch.random.fork_rng(devices=[]):  # whatever the library has drawn before
        torch.manual_seed(seed)
        network = Backbone(
            n_classes, encoder.module, encoder.n_features, encoder.mean, encoder.std, spec,
            encoder.resolution,
        )  # fmt: skip
    return network.to(device)


def load_run(run_dir: Path, device: torch.device) -> Checkpoint:
    """The network of any run, also of one that was fine-tuned.

    That is opened by what it was started from, which has to be there, and then given its own
    weights. A folder from elsewhere may name what it likes: networks that timm knows and files of
    tensors are opened, nothing that is a program or is fetched from a place that it chooses.

    Raises:
        BundleError: No run, a damaged one, or one that was started from something else.
        UsageError: What it was started from cannot be opened any more.
    """

    def build(config: Mapping[str, Any]) -> Network:
        if config.get("network") != Backbone.kind:
            return build_network(config)
        spec = config["spec"]
        if not _is_harmless(spec):
            raise ValueError(f"one fine-tuned from {spec}, which a run folder does not get to open")
        return open_backbone(spec, config["n_classes"], config.get("resolution"), device)

    return load_checkpoint(run_dir, device, build)


def _is_harmless(text: str) -> bool:
    spec = parse_spec(text)
    if spec.kind == "timm":
        return ":" not in spec.argument  # hf-hub:…, local-dir:…
    return spec.kind == "file" and not is_torchscript(Path(spec.argument))

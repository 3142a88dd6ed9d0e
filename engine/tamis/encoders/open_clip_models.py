"""The one door to open_clip: ``open_clip:NAME/PRETRAINED``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tamis.encoders.base import Preparation, levels, unusable
from tamis.encoders.checkpoints import file_digest, read_tensors
from tamis.encoders.network import NetworkEncoder, Origin, quietly
from tamis.encoders.optional import missing_library
from tamis.encoders.spec import EncoderSpec
from tamis.errors import first_line
from tamis.models.weights import weights_digest

__all__ = ["open_open_clip"]


def open_open_clip(
    spec: EncoderSpec, device: torch.device, resolution: int | None
) -> NetworkEncoder:
    """Open the image tower of a CLIP, with its own preparation of images.

    ``open_clip:ViT-B-32/openai`` names weights that open_clip fetches or finds in its cache;
    ``open_clip:ViT-B-32?weights=PATH`` a checkpoint on this machine;
    ``open_clip:hf-hub:OWNER/REPO`` a network of the Hugging Face hub.

    Raises:
        UsageError: open_clip is not installed, has no such network or weights, or the checkpoint
            is of another one.
    """
    name, pretrained = _named(spec)
    weights = spec.options.get("weights")
    if weights is not None:
        read_tensors(Path(weights), spec.text)  # refuses, in our words, what open_clip could not
    try:
        with quietly():
            import open_clip
    except Exception as error:
        raise missing_library(spec.text, "open_clip", "open_clip_torch", error) from error
    try:
        with quietly():
            model: nn.Module = open_clip.create_model(
                name,
                weights or pretrained,
                force_image_size=resolution,
                require_pretrained=True,
                weights_only=True,
            )
            prepared = open_clip.get_model_preprocess_cfg(model)
    except Exception as error:  # also whatever its downloads raise
        raise unusable(
            spec.text,
            expected="a network of open_clip with weights",
            found=first_line(error),
            do="see open_clip.list_pretrained(), or give weights: open_clip:NAME?weights=PATH",
        ) from error
    size = prepared["size"]
    preparation = Preparation(
        size if isinstance(size, int) else size[-1],
        1.0,
        levels(prepared["mean"]),
        levels(prepared["std"]),
    )
    tower = _ImageTower(model)
    digest = weights_digest(tower) if weights is None else file_digest(Path(weights), spec.text)
    # Captions are no class labels.
    origin = Origin(spec.text, digest, f"open_clip {open_clip.__version__}", False)
    return NetworkEncoder(origin, tower, preparation, device)


def _named(spec: EncoderSpec) -> tuple[str, str | None]:
    """Network and tag; with local weights, or from the hub, there is no tag."""
    if spec.argument.startswith("hf-hub:"):
        return spec.argument, None
    name, _, tag = spec.argument.partition("/")
    if bool(tag) == ("weights" in spec.options):
        raise unusable(
            spec.text,
            expected="one source of weights",
            found="two" if tag else "none",
            do="write open_clip:NAME/PRETRAINED or open_clip:NAME?weights=PATH",
        )
    return name, tag or None


class _ImageTower(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = model.get_submodule("visual")

    def forward(self, x: Tensor) -> Tensor:
        rows = self.visual(x)
        # CoCa's tower gives the pooled features and the tokens.
        return rows[0] if isinstance(rows, tuple) else rows  # type: ignore[no-any-return]

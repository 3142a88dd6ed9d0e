"""The one door to timm: ``timm:NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tamis.encoders.base import Preparation, levels, unusable
from tamis.encoders.checkpoints import file_digest, find_tensors, read_tensors
from tamis.encoders.network import NetworkEncoder, Origin, quietly
from tamis.encoders.optional import missing_library
from tamis.encoders.spec import EncoderSpec
from tamis.errors import first_line
from tamis.models.weights import weights_digest

__all__ = ["open_timm"]

# In tags of timm's weights: what is trained on these sets is trained on their classes.
_LABELLED = ("in1k", "in12k", "in21k", "in22k")


def open_timm(spec: EncoderSpec, device: torch.device, resolution: int | None) -> NetworkEncoder:
    """Open a network of timm without its classifier, with its own preparation of images.

    Its weights come from timm's source (the Hugging Face hub or its cache on this machine), or
    from ``?weights=PATH`` in timm's own names. A network whose preparation squashes or pads the
    whole image is shown the centred square instead.

    Raises:
        UsageError: timm is not installed, has no such network, cannot fetch its weights, or the
            weights are of another one.
    """
    weights = spec.options.get("weights")
    tensors = None if weights is None else read_tensors(Path(weights), spec.text)
    try:
        with quietly():
            import timm
            from timm.data import resolve_model_data_config
    except Exception as error:
        raise missing_library(spec.text, "timm", "timm", error) from error
    try:
        with quietly():
            module: nn.Module = timm.create_model(
                spec.argument,
                pretrained=tensors is None,
                num_classes=0,
                **_size(timm, spec.argument, resolution),
            )
            prepared = resolve_model_data_config(module)
    except Exception as error:  # also whatever its downloads raise
        raise unusable(
            spec.text,
            expected="a network of timm with weights",
            found=first_line(error),
            do="see timm.list_models(pretrained=True), or give weights: timm:NAME?weights=PATH",
        ) from error
    about: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    digest, labels = weights_digest(module), _labels_used(about)
    if tensors is not None and weights is not None:
        module.load_state_dict(find_tensors(tensors, module.state_dict(), spec.text))
        digest, labels = file_digest(Path(weights), spec.text), None
    preparation = Preparation(
        prepared["input_size"][-1] if resolution is None else resolution,
        prepared["crop_pct"],
        levels(prepared["mean"]),
        levels(prepared["std"]),
    )
    origin = Origin(spec.text, digest, f"timm {timm.__version__}", labels)
    return NetworkEncoder(origin, module, preparation, device)


def _size(timm: Any, name: str, resolution: int | None) -> dict[str, int]:
    """Transformers are built for one size; convolutional networks take any and no argument."""
    about = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    fixed = about is not None and about.fixed_input_size
    return {} if resolution is None or not fixed else {"img_size": resolution}


def _labels_used(about: dict[str, Any]) -> bool | None:
    if about.get("num_classes") == 0:
        return False
    return True if any(word in (about.get("tag") or "") for word in _LABELLED) else None

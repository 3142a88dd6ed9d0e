"""The one door to torch.hub: ``torchhub:REPO:NAME``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.hub
from torch import nn

from tamis.encoders.base import unusable
from tamis.encoders.network import (
    NetworkEncoder,
    Origin,
    quietly,
    without_classifier,
)
from tamis.encoders.spec import EncoderSpec
from tamis.errors import first_line
from tamis.models.weights import weights_digest

__all__ = ["open_torch_hub"]

# Repositories of networks that were trained without labels, all of them but linear classifiers.
_LABEL_FREE = (
    "facebookresearch/barlowtwins",
    "facebookresearch/dino",
    "facebookresearch/dinov2",
    "facebookresearch/swav",
    "facebookresearch/vicreg",
)


def open_torch_hub(
    spec: EncoderSpec, device: torch.device, resolution: int | None
) -> NetworkEncoder:
    """Open a network by a repository's ``hubconf.py``, without its classifier.

    ``torchhub:facebookresearch/swav:main:resnet50``: a repository of GitHub with or without a
    branch, fetched or found in torch's cache; ``torchhub:FOLDER:NAME``: a folder here. The
    repository's code is run: name only those that you trust.

    Raises:
        UsageError: No such repository or network, or it cannot be fetched.
    """
    repository, _, name = spec.argument.rpartition(":")
    if not repository or not name:
        raise unusable(
            spec.text,
            expected="torchhub:OWNER/REPO:NAME, torchhub:OWNER/REPO:BRANCH:NAME or"
            " torchhub:FOLDER:NAME",
            found=spec.argument,
            do="write for example torchhub:facebookresearch/swav:main:resnet50",
        )
    try:
        # It prints what it downloads, where a program may be reading.
        with quietly(), redirect_stdout(sys.stderr):
            module = _load(repository, name)
        if not isinstance(module, nn.Module):
            raise TypeError(f"a {type(module).__name__}")
    except Exception as error:  # of the network, of GitHub, and of the repository's own code
        raise unusable(
            spec.text,
            expected=f"a network named {name} in {repository}",
            found=first_line(error),
            do="check both names, and that the repository can be reached or is in torch's cache",
        ) from error
    module = without_classifier(module)
    origin = Origin(
        spec.text,
        weights_digest(module),
        f"torch {torch.__version__}",
        _labels_used(repository, name),
    )
    return NetworkEncoder(origin, module, spec.preparation(resolution), device)


def _load(repository: str, name: str) -> Any:
    local = Path(repository).is_dir()
    where: dict[str, Any] = {"source": "local"} if local else {"trust_repo": True, "verbose": False}
    try:
        # Not every repository gives weights unless it is asked to.
        return torch.hub.load(repository, name, pretrained=True, **where)  # type: ignore[no-untyped-call]
    except TypeError as error:
        if "unexpected keyword argument 'pretrained'" not in str(error):
            raise
        return torch.hub.load(repository, name, **where)  # type: ignore[no-untyped-call]


def _labels_used(repository: str, name: str) -> bool | None:
    if not any(repository.partition(":")[0] == known for known in _LABEL_FREE):
        return None
    return name.endswith("_lc")  # DINOv2's, with linear classifiers trained on top

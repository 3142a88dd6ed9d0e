"""The one door to torchvision: its networks, without their classifiers and without weights."""

from __future__ import annotations

from torch import nn

from tamis.encoders.base import unusable
from tamis.encoders.network import quietly, without_classifier
from tamis.encoders.optional import missing_library
from tamis.errors import first_line

__all__ = ["torchvision_network"]


def torchvision_network(name: str, spec: str) -> tuple[nn.Module, str]:
    """Build one of torchvision's classification networks.

    Args:
        name: As ``torchvision.models.get_model`` takes it.
        spec: For errors.

    Returns:
        The network with random weights, and torchvision's name and version.

    Raises:
        UsageError: torchvision is not installed, or has no such network.
    """
    try:
        with quietly():
            import torchvision
    except Exception as error:
        raise missing_library(spec, "torchvision", "torchvision", error) from error
    try:
        with quietly():
            module: nn.Module = torchvision.models.get_model(name, weights=None)
    except Exception as error:
        raise unusable(
            spec,
            expected="the name of a network of torchvision",
            found=first_line(error),
            do="see torchvision.models.list_models(), or use timm:NAME?weights=PATH",
        ) from error
    return without_classifier(module), f"torchvision {torchvision.__version__}"

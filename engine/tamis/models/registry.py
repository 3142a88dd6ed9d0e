"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tamis.models.backbone import Backbone
from tamis.models.cifar_net import CifarNet
from tamis.models.network import Network
from tamis.models.resnet import CifarResNet18, ResNet18, ResNet50
from tamis.models.small_resnet import SmallResNet

__all__ = ["NETWORKS", "build_network"]

NETWORKS: dict[str, Callable[..., Network]] = {
    kind.kind: kind for kind in (SmallResNet, CifarNet, CifarResNet18, ResNet18, ResNet50)
}


def build_network(config: Mapping[str, Any]) -> Network:
    """A fresh network of a :attr:`Network.config`.

    Raises:
        KeyError, TypeError: Another network's, or not a config.
        ValueError: A backbone's, which only the library that it came from builds; see
            :func:`tamis.encoders.fine_tuning.open_backbone`.
    """
    values = dict(config)
    if values.get("network") == Backbone.kind:
        raise ValueError(f"a network that was fine-tuned from {values.get('spec')}")
    # Checkpoints of the first version, which knew one network, do not name it.
    return NETWORKS[values.pop("network", SmallResNet.kind)](**values)

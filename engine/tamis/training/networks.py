"""Fresh networks of recipes, and networks that are ready to be trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tamis.devices import multiplies_bfloat16
from tamis.errors import UsageError
from tamis.models.backbone import Backbone
from tamis.models.network import Network
from tamis.models.registry import build_network
from tamis.training.recipes import Recipe

__all__ = ["Forward", "new_network"]

_OF_ANY_WIDTH = ("small-resnet", "cifar-net")


def new_network(recipe: Recipe, n_classes: int, seed: int) -> Network:
    """The recipe's network before its first step, on the CPU.

    Args:
        recipe: Gives architecture and resolution.
        n_classes: Outputs.
        seed: Of the initialisation. The caller's random state is neither read nor moved.

    Raises:
        UsageError: A recipe for networks that somebody else trained.
    """
    if recipe.network == Backbone.kind:
        raise UsageError(
            f"recipe {recipe.name}",
            expected="a network to go on from",
            found="none",
            do="pass --start, for example --start timm:resnet50",
        )
    config: dict[str, Any] = {"network": recipe.network, "n_classes": n_classes}
    if recipe.network in _OF_ANY_WIDTH:
        config |= {"width": recipe.width, "resolution": recipe.resolution}
    else:
        config["blurpool"] = recipe.blurpool
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(config)


class Forward(nn.Module):
    """Images → float32 logits, in the device's fast precision; what is compiled and distributed.

    Args:
        network: On its device.
        device: The same.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        super().__init__()
        self.network, self._kind = network, device.type
        self._fast = multiplies_bfloat16(device)  # asked here: files are not read in compiled code

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) uint8 → (b, n_classes) float32."""
        with torch.autocast(self._kind, torch.bfloat16, enabled=self._fast):
            features = self.network.features(images)
        # In float32: scores are read off these logits, too.
        return self.network.classify(features.float())

"""The network of the fast recipe for 32 × 32 images, after airbench94 (Jordan 2024).

arXiv:2404.00498. A frozen layer of patch filters that whiten the training images, three pairs of
convolutions, a head whose logits are divided by the number of features.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from tamis.errors import UsageError
from tamis.models.network import Network

__all__ = ["CifarNet", "whitening_filters"]

_PATCH = 2  # pixels
_LEAST = 9  # pixels
_EPS = 5e-4  # added to the variances of patches
_FEATURES = 256  # of airbench's network, for which its rates were found


def whitening_filters(images: Tensor, side: int, eps: float = _EPS) -> Tensor:
    """Filters whose outputs on patches of the images are uncorrelated and of variance 1.

    Args:
        images: (n, 3, h, w) float32.
        side: Of the patches in pixels.
        eps: Added to variances, which are tiny for the finest patterns.

    Returns:
        (6 · side², 3, side, side) float32: each filter and its negative, so that a ReLU-like
        function loses neither sign. O(n · h · w · side⁴).
    """
    patches = images.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 1, 4, 5)
    rows = patches.reshape(-1, 3 * side * side).double()
    variances, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    filters = directions.T / (variances + eps).sqrt().unsqueeze(1)
    filters = filters.reshape(-1, 3, side, side).float()
    return torch.cat([filters, -filters])


class CifarNet(Network):
    """Whitening, three stages of widths w, 4w and 4w, largest values, linear head.

    Convolutions start as the identity on as many channels as they have, norms have no scale, and
    their averages move fast, because there are few steps.

    Args:
        n_classes: Outputs.
        width: w; 64 in the paper.
        resolution: Side of the images in pixels, at least 9.

    Raises:
        UsageError: Smaller images, of which pooling leaves nothing.
    """

    kind = "cifar-net"
    looks_at_images = True

    def __init__(self, n_classes: int, width: int, resolution: int) -> None:
        if resolution < _LEAST:
            raise UsageError(
                "recipe setting resolution",
                expected=f"{_LEAST} or more for network {self.kind}",
                found=str(resolution),
                do="correct it, or use another recipe",
            )
        config = {"n_classes": n_classes, "width": width, "resolution": resolution}
        super().__init__(config, 4 * width, bias=False)
        n_filters = 6 * _PATCH**2
        self.whiten = nn.Conv2d(3, n_filters, _PATCH)
        self.whiten.weight.requires_grad = False
        widths = (n_filters, width, 4 * width, 4 * width)
        stages = [_stage(n_in, n_out) for n_in, n_out in pairwise(widths)]
        self.body = nn.Sequential(nn.GELU(), *stages, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    @property
    def rate_share(self) -> float:
        """Logits are divided by the features: at one rate, fewer would move them faster."""
        return self.n_features / _FEATURES

    def prepare(self, images: Tensor) -> None:
        """Whiten patches of these images."""
        with torch.no_grad():
            self.whiten.weight.copy_(whitening_filters(self.normalised(images), _PATCH))

    def features(self, images: Tensor) -> Tensor:
        """See :meth:`Network.features`; n_features is 4w."""
        return self.body(self.whiten(self.normalised(images)))  # type: ignore[no-any-return]

    def classify(self, features: Tensor) -> Tensor:
        """See :meth:`Network.classify`; divided by the number of features."""
        return self.head(features) / self.n_features  # type: ignore[no-any-return]


def _stage(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(n_in, n_out),
        nn.MaxPool2d(2),
        _norm(n_out),
        nn.GELU(),
        _convolution(n_out, n_out),
        _norm(n_out),
        nn.GELU(),
    )


def _convolution(n_in: int, n_out: int) -> nn.Conv2d:
    made = nn.Conv2d(n_in, n_out, 3, padding="same", bias=False)
    nn.init.dirac_(made.weight.data[: min(n_in, n_out)])
    return made


def _norm(n: int) -> nn.BatchNorm2d:
    # With torch's own eps: at airbench's 1e-12, channels that grey images leave without variance
    # would be rounding errors blown up, other ones in every batch.
    made = nn.BatchNorm2d(n, momentum=0.4)
    made.weight.requires_grad = False
    return made

"""Per-example gradients of the loss with respect to all weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tamis.loaders.batch import Batch
from tamis.models.network import Network

__all__ = ["gradient_norms"]

_CHUNK = 16  # examples whose gradients are held at once: as many times the network's weights


def gradient_norms(model: Network, batch: Batch) -> Tensor:
    """‖∇ of the cross-entropy‖₂ of each example alone, over all weights (GraNd, Paul et al. 2021).

    In evaluation mode, so that no example depends on its batch. One backward pass an example: some
    hundred times what :func:`tamis_kernels.last_layer_grand` costs.

    Args:
        model: In evaluation mode.
        batch: Images, labels.

    Returns:
        (b,) float32 on the device of the model.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: Mapping[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, (dict(weights), buffers), (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    def square(weights: Mapping[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        # Summed here, so that gradients of no more than a chunk exist at a time.
        gradients = torch.func.grad(loss)(weights, image, label)
        return torch.stack([part.double().square().sum() for part in gradients.values()]).sum()

    one_by_one = torch.func.vmap(square, in_dims=(None, 0, 0), chunk_size=_CHUNK)
    device = next(iter(weights.values())).device
    images = batch.images.to(device, memory_format=torch.channels_last).float()
    squares: Tensor = one_by_one(weights, images, batch.labels.to(device))
    return squares.sqrt().float()

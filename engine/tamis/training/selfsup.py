"""Training an encoder without labels: SimCLR (Chen et al. 2020, arXiv:2002.05709).

Two random views of each image are drawn on the device; the network learns to tell which view
belongs to which. The penultimate layer is the embedding; the projection head is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tamis.devices import autocast
from tamis.errors import UsageError
from tamis.loaders.batch import Loader
from tamis.memory import keep_freed
from tamis.models.network import Network
from tamis.progress import QUIET, Progress
from tamis.training.networks import new_network
from tamis.training.recipes import Recipe

__all__ = [
    "SelfsupSettings",
    "SimCLR",
    "contrastive_loss",
    "new_encoder",
    "random_views",
    "train_encoder",
]


@dataclass(frozen=True)
class SelfsupSettings:
    """Settings of the self-supervised training.

    Attributes:
        epochs: Over the set.
        batch_size: Images a step; each is compared with all the others.
        learning_rate: AdamW's peak.
        temperature: Of the contrastive loss.
        projection: Width of the projection head.
    """

    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 2e-3
    temperature: float = 0.2
    projection: int = 64

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.projection) < 1 or self.temperature <= 0:
            raise UsageError(
                "self-supervised training",
                expected="at least one epoch (--encoder-epochs) and positive settings",
                found=f"{self.epochs} epochs",
                do="30 is the default",
            )


def random_views(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    A random crop of 40 to 100 % of the area and an aspect ratio of 3/4 to 4/3, a random mirror
    image (if ``flip``), brightness, contrast and colour strength by up to 40 %, grey for a fifth.

    Args:
        images: (b, 3, h, w) uint8 or float, 0…255.
        flip: Whether a mirror image means the same.
        generator: On the host; decides everything.

    Returns:
        (b, 3, h, w) float32, 0…255.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area, log_ratio = uniform(0.4, 1.0), uniform(math.log(3 / 4), math.log(4 / 3))
    scale_x = (area * log_ratio.exp()).sqrt().clamp(max=1.0)
    scale_y = (area / log_ratio.exp()).sqrt().clamp(max=1.0)
    theta = torch.zeros(n, 2, 3)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    theta[:, 0, 0], theta[:, 1, 1] = scale_x * mirror, scale_y
    theta[:, 0, 2] = uniform(-1, 1) * (1 - scale_x)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - scale_y)
    shape = [n, 3, *images.shape[2:]]
    grid = nn.functional.affine_grid(theta.to(images.device), shape, align_corners=False)
    views = nn.functional.grid_sample(
        images.float(), grid, padding_mode="reflection", align_corners=False
    )

    def factor(low: float, high: float) -> Tensor:
        return uniform(low, high).view(-1, 1, 1, 1).to(images.device)

    grey = views.mean(dim=1, keepdim=True)
    strength = factor(0.6, 1.4) * (factor(0, 1) > 0.2)
    views = grey + (views - grey) * strength
    level = views.mean(dim=(1, 2, 3), keepdim=True)
    views = level + (views - level) * factor(0.6, 1.4)
    return (views * factor(0.6, 1.4)).clamp(0, 255)


def contrastive_loss(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent: the mean of −log softmax over cosine similarities, in nats (SimCLR, eq. 1).

    Args:
        a: (b, d), the first views.
        b: (b, d), the second views in the same order.
        temperature: Divides the similarities.
    """
    views = nn.functional.normalize(torch.cat([a, b]).float())
    similarity = views @ views.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    n = len(a)
    partner = torch.arange(2 * n, device=a.device).roll(n)
    return nn.functional.cross_entropy(similarity, partner)


class SimCLR(nn.Module):
    """The projection head, and the loss of two views' features; thrown away after the training.

    Args:
        width: Of the features.
        settings: Projection and temperature.
    """

    def __init__(self, width: int, settings: SelfsupSettings) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.projection)
        )
        self._temperature = settings.temperature

    def forward(self, features: Tensor) -> Tensor:
        """(2b, width), all first views and then the second ones in their order → the loss."""
        first, second = self.project(features).chunk(2)
        with torch.autocast(features.device.type, enabled=False):
            return contrastive_loss(first, second, self._temperature)


def new_encoder(recipe: Recipe, seed: int, device: torch.device) -> Network:
    """The recipe's network before its first step, in evaluation mode."""
    return new_network(recipe, 1, seed).placed(device).eval()


def train_encoder(
    loader: Loader,
    recipe: Recipe,
    settings: SelfsupSettings,
    *,
    seed: int,
    device: torch.device,
    pretext: Callable[[int, SelfsupSettings], nn.Module] = SimCLR,
    progress: Progress = QUIET,
) -> Network:
    """Train the recipe's network without looking at a label.

    Args:
        loader: Shuffled batches without augmentation.
        recipe: Gives the network and whether mirror images mean the same.
        settings: See :class:`SelfsupSettings`.
        seed: Of initialisation and views.
        device: Where to train.
        pretext: Makes what turns the features of two views into a loss, as :class:`SimCLR`.
        progress: Told of every step.

    Returns:
        The network in evaluation mode; what counts are its features.
    """
    if device.type == "cpu":
        keep_freed()
    generator = torch.Generator().manual_seed(seed)
    model = new_encoder(recipe, seed, device).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = pretext(model.n_features, settings).to(device)
    steps = settings.epochs * len(loader)
    classifier = {id(p) for p in model.head.parameters()}
    trained = [p for p in model.parameters() if id(p) not in classifier and p.requires_grad]
    optimizer = torch.optim.AdamW(
        [*trained, *task.parameters()], settings.learning_rate, weight_decay=0.01
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=0.1
    )
    if model.looks_at_images:
        loader.set_epoch(0)
        model.prepare(next(iter(loader)).images.to(device))
    with progress.task("train encoder without labels", steps) as advance:
        for epoch in range(settings.epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                images = batch.images.to(device)
                views = [random_views(images, recipe.flip, generator) for _ in range(2)]
                with autocast(device):
                    loss = task(model.features(torch.cat(views)))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rate.step()
                advance()
    return model.eval()

"""Encoders that tamis trains: ``tamis:RUN_DIR``, with labels, and ``selfsup``, without."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tamis import __version__
from tamis.bundles.bundle import Bundle
from tamis.encoders.base import Preparation, unusable
from tamis.encoders.network import NetworkEncoder, Origin
from tamis.encoders.spec import EncoderSpec
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import Decoding, OnError
from tamis.models.network import Network
from tamis.models.weights import weights_digest
from tamis.progress import QUIET, Progress
from tamis.training.recipes import Recipe
from tamis.training.selfsup import SelfsupSettings, train_encoder

__all__ = ["open_run", "selfsup_encoder", "train_selfsup"]


def open_run(spec: EncoderSpec, device: torch.device, resolution: int | None) -> NetworkEncoder:
    """The penultimate layer of a trained run.

    Raises:
        BundleError: No run, or a damaged one.
        UsageError: Another resolution than it was trained at; what it was fine-tuned from is gone.
    """
    from tamis.encoders.fine_tuning import load_run  # which opens encoders by their names

    checkpoint = load_run(Path(spec.argument), device)
    model = checkpoint.model
    trained_at = checkpoint.resolution
    if resolution not in (None, trained_at):
        raise unusable(
            spec.text,
            expected=f"images of {trained_at} pixels, as it was trained on",
            found=f"--resolution {resolution}",
            do="leave --resolution out",
        )
    labels_used = checkpoint.objective == "supervised"
    preparation = _preparation(trained_at, checkpoint.center_ratio, checkpoint.decoding)
    return _encoder(spec.text, model, device, preparation, labels_used=labels_used)


def train_selfsup(
    bundle: Bundle,
    recipe: Recipe,
    settings: SelfsupSettings,
    device: torch.device,
    *,
    seed: int = 0,
    backend: str = "auto",
    on_error: OnError = "fail",
    progress: Progress = QUIET,
) -> NetworkEncoder:
    """Train an encoder on a bundle without looking at a label.

    Args:
        bundle: What it is trained on.
        recipe: Gives the network, its resolution, and whether mirror images mean the same.
        settings: Of the training.
        device: Where.
        seed: Of order, views and initialisation.
        backend: See :func:`tamis.loaders.opening.open_loader`.
        on_error: ``fail``, or ``skip`` damaged examples.
        progress: Told of decoding and training.

    Raises:
        BundleError: A damaged record that is not to be skipped.
    """
    loader = open_loader(
        bundle,
        batch_size=settings.batch_size,
        resolution=recipe.resolution,
        backend=backend,
        mode="train",
        seed=seed,
        on_error=on_error,
        device=device,
        progress=progress,
        **recipe.decoding,
    )
    model = train_encoder(loader, recipe, settings, seed=seed, device=device, progress=progress)
    return selfsup_encoder(model, recipe, settings, device, seed=seed)


def selfsup_encoder(
    model: Network,
    recipe: Recipe,
    settings: SelfsupSettings,
    device: torch.device,
    *,
    seed: int,
) -> NetworkEncoder:
    """The encoder around what :func:`tamis.training.selfsup.train_encoder` gave for these."""
    training = {"recipe_digest": recipe.digest, "selfsup": asdict(settings), "seed": seed}
    preparation = _preparation(recipe.resolution, 1.0, recipe.decoding)
    return _encoder("selfsup", model, device, preparation, labels_used=False, training=training)


def _encoder(
    spec: str,
    model: Network,
    device: torch.device,
    preparation: Preparation,
    *,
    labels_used: bool,
    training: dict[str, Any] | None = None,
) -> NetworkEncoder:
    origin = Origin(spec, weights_digest(model), f"tamis {__version__}", labels_used, training)
    return NetworkEncoder(origin, _Penultimate(model), preparation, device)


def _preparation(side: int, center_ratio: float, decoding: Decoding) -> Preparation:
    """The network normalises by itself."""
    return Preparation(side, center_ratio, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), decoding)


class _Penultimate(nn.Module):
    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.features(x)

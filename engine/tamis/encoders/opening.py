"""Opening an encoder by its spec."""

from __future__ import annotations

import torch

from tamis.bundles.bundle import Bundle
from tamis.encoders.base import Encoder, unusable
from tamis.encoders.local_files import open_file
from tamis.encoders.open_clip_models import open_open_clip
from tamis.encoders.pixels import PixelEncoder
from tamis.encoders.spec import EncoderSpec, parse_spec
from tamis.encoders.timm_models import open_timm
from tamis.encoders.torch_hub import open_torch_hub
from tamis.encoders.trained_here import open_run, train_selfsup
from tamis.errors import UsageError
from tamis.loaders.settings import USUAL_DECODING, Decoding, OnError
from tamis.progress import QUIET, Progress
from tamis.training.recipes import Recipe
from tamis.training.selfsup import SelfsupSettings

__all__ = ["is_opened_by_name", "open_encoder", "open_or_train"]

_PIXELS = 32


def open_encoder(
    text: str,
    device: torch.device,
    *,
    resolution: int | None = None,
    decoding: Decoding = USUAL_DECODING,
) -> Encoder:
    """Open an encoder.

    ========================================  ====================================================
    ``pixels``                                the images themselves, of 32 pixels or ``resolution``
    ``tamis:RUN_DIR``                         penultimate layer of a run of ``tamis train``
    ``file:PATH``                             TorchScript; tensors of a ResNet, such as SwAV's
    ``file:PATH?arch=NAME``                   tensors of a network of torchvision
    ``timm:NAME``, ``?weights=PATH``          a network of timm, with its own weights or yours
    ``open_clip:NAME/PRETRAINED``             the image tower of a CLIP
    ``torchhub:REPO:NAME``                    SwAV, DINO, DINOv2, or a folder with a ``hubconf.py``
    ========================================  ====================================================

    ``file`` and ``torchhub`` also take ``crop`` (of the centred square by the shorter side, 0.875),
    ``mean`` and ``std`` (three numbers each in units of 0…1; ImageNet's).

    Args:
        text: The spec.
        device: Where the network goes.
        resolution: Side of the images in pixels; None takes the encoder's own.
        decoding: How images become pixels; for ``tamis`` they do as in its training.

    Raises:
        UsageError: Another spec, a library or file that is missing, weights that do not fit.
        BundleError: A folder without a run.
    """
    spec = parse_spec(text)
    if spec.kind == "pixels":
        return PixelEncoder(_PIXELS if resolution is None else resolution, device, decoding)
    if spec.kind == "tamis":
        return open_run(spec, device, resolution)
    openers = {
        "file": open_file,
        "timm": open_timm,
        "open_clip": open_open_clip,
        "torchhub": open_torch_hub,
    }
    if spec.kind not in openers:
        raise _no_network(spec)
    return openers[spec.kind](spec, device, resolution).shown(decoding)


def is_opened_by_name(text: str) -> bool:
    """Whether :func:`open_encoder` opens it, and nothing has to be trained first."""
    return parse_spec(text).kind not in ("selfsup", "npy")


def open_or_train(
    text: str,
    bundle: Bundle,
    device: torch.device,
    *,
    recipe: Recipe,
    selfsup: SelfsupSettings,
    resolution: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    on_error: OnError = "fail",
    progress: Progress = QUIET,
) -> Encoder:
    """Open an encoder, or train one where the spec is ``selfsup``.

    Args:
        text: The spec.
        bundle: What ``selfsup`` is trained on.
        device: Where the network goes.
        recipe: Of ``selfsup``; its resolution is also what ``pixels`` takes, and how its images
            become pixels holds for all but ``tamis``.
        selfsup: Of ``selfsup``.
        resolution: See :func:`open_encoder`.
        seed: Of ``selfsup``, as all that follows.
        backend: See :func:`tamis.loaders.opening.open_loader`.
        on_error: ``fail``, or ``skip`` damaged examples.
        progress: Told of the training.

    Raises:
        UsageError: As :func:`open_encoder`; or a resolution beside the recipe's.
        BundleError: As there; or a damaged record that is not to be skipped.
    """
    kind = parse_spec(text).kind
    if kind != "selfsup":
        side = recipe.resolution if kind == "pixels" and resolution is None else resolution
        return open_encoder(text, device, resolution=side, decoding=recipe.decoding)
    if resolution is not None:
        raise unusable(
            text,
            expected="the resolution of the recipe, whose network is trained",
            found=f"--resolution {resolution}",
            do=f"pass --set resolution={resolution} instead",
        )
    return train_selfsup(
        bundle,
        recipe,
        selfsup,
        device,
        seed=seed,
        backend=backend,
        on_error=on_error,
        progress=progress,
    )


def _no_network(spec: EncoderSpec) -> UsageError:
    return unusable(
        spec.text,
        expected="an encoder that can be opened",
        found="embeddings" if spec.kind == "npy" else "one that is trained on a bundle first",
        do="give another encoder",
    )

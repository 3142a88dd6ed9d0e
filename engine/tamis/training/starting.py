"""Networks to go on from, and to learn from: of earlier runs, and of others."""

from __future__ import annotations

from pathlib import Path

import torch

from tamis.encoders.fine_tuning import load_run, open_backbone
from tamis.errors import UsageError
from tamis.models.backbone import Backbone
from tamis.models.network import Network
from tamis.training.networks import new_network
from tamis.training.recipes import Recipe

__all__ = ["network_from_encoder", "network_from_run", "teacher_from_run"]


def network_from_run(
    run: Path, recipe: Recipe, n_classes: int, seed: int, device: torch.device
) -> Network:
    """The recipe's network with the weights of a run, to be trained on.

    Its classifier is kept where it has as many classes, and begins anew where it has not
    (pre-training on one set, fine-tuning on another).

    Args:
        run: Folder of a finished run, with labels or without.
        recipe: Its network must be the run's.
        n_classes: Of the new task.
        seed: Of a new classifier.
        device: Where it goes.

    Raises:
        BundleError: No run, or a damaged one.
        UsageError: A run of another network.
    """
    kept = load_run(run, device)
    network = _fresh_like(kept.model, recipe, n_classes, seed, device)
    old, new = kept.model.state_dict(), network.state_dict()
    wanted = {name: tensor.shape for name, tensor in new.items() if not name.startswith("head.")}
    found = {name: tensor.shape for name, tensor in old.items() if not name.startswith("head.")}
    if wanted != found:
        raise UsageError(
            "--start",
            expected=f"a run of the recipe's network, {_described(network)}",
            found=f"one of {_described(kept.model)}",
            do="choose its recipe, and the same --set width=…",
        )
    head_fits = all(old[name].shape == new[name].shape for name in old if name.startswith("head."))
    keeps_head = head_fits and kept.objective == "supervised"
    network.load_state_dict(
        {name: old[name] if keeps_head or name in found else new[name] for name in new}
    )
    return network


def _fresh_like(
    model: Network, recipe: Recipe, n_classes: int, seed: int, device: torch.device
) -> Network:
    if recipe.network != Backbone.kind:
        return new_network(recipe, n_classes, seed).to(device)
    if model.kind != Backbone.kind:
        raise UsageError(
            "--start",
            expected=f"a run of {recipe.name}, or a network such as timm:resnet50",
            found=f"a run of {_described(model)}",
            do="choose the recipe of that run",
        )
    return network_from_encoder(model.config["spec"], recipe, n_classes, seed, device)


def network_from_encoder(
    spec: str, recipe: Recipe, n_classes: int, seed: int, device: torch.device
) -> Network:
    """A network that somebody else trained, with a new classifier.

    Args:
        spec: Of :func:`tamis.encoders.opening.open_encoder`, as ``timm:vit_base_patch16_224``.
        recipe: One for such networks; gives the resolution.
        n_classes: Of the new task.
        seed: Of the classifier.
        device: Where it goes.

    Raises:
        UsageError: A recipe for another network, or as ``open_encoder``.
    """
    if recipe.network != Backbone.kind:
        raise UsageError(
            "--recipe",
            expected=f"one for a {Backbone.kind}, as finetune",
            found=f"{recipe.name}, which is for {recipe.network}",
            do="pass --recipe finetune, with --set for its values",
        )
    return open_backbone(spec, n_classes, recipe.resolution, device, seed=seed)


def teacher_from_run(run: Path, recipe: Recipe, n_classes: int, device: torch.device) -> Network:
    """A trained network for :class:`tamis.training.objective.Teacher`.

    Raises:
        BundleError: No run, or a damaged one.
        UsageError: It was trained without labels, on other classes, or for images of another size.
    """
    kept = load_run(run, device)
    knows = kept.model.head.out_features
    for fits, expected, found in (
        (kept.objective == "supervised", "a run with labels", "one without"),
        (knows == n_classes, f"a run on {n_classes} classes", f"one on {knows}"),
        (
            kept.model.config.get("resolution") in (None, recipe.resolution),
            f"a network for images of {recipe.resolution} pixels",
            f"one for {kept.resolution}",
        ),
    ):
        if not fits:
            raise UsageError(
                "--teacher", expected=expected, found=found, do="train the teacher on this task"
            )
    return kept.model.placed(device).requires_grad_(False)


def _described(network: Network) -> str:
    return ", ".join(f"{key} {value}" for key, value in network.config.items())

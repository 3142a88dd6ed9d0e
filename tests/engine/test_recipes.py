"""Every recipe takes its steps, if only a few and on a CPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tamis.bundles.opening import open_bundle
from tamis.devices import autocast
from tamis.encoders.fine_tuning import load_run
from tamis.encoders.opening import open_encoder
from tamis.errors import BundleError, UsageError, WorkFailedError
from tamis.models.resnet_body import ResNetBody, standard_blocks
from tamis.training.checkpoints import write_run
from tamis.training.loop import Extras
from tamis.training.recipes import RECIPES, get_recipe
from tamis.training.run_folder import RunFolder, train_into
from tamis.training.runs import RunOptions, train_on_bundle
from tamis.training.starting import network_from_encoder, network_from_run, teacher_from_run

# Of a family that differs in its epochs alone, one stands for all.
FAMILIES = (
    "small",
    "digits",
    "cifar-fast",
    "cifar-resnet18",
    "imagenet-rn18-16",
    "imagenet-rn50-16",
)
TINY: dict[str, dict[str, Any]] = {
    "small": {"width": 4},
    "digits": {},
    "cifar-fast": {"width": 4},
    "cifar-resnet18": {"resolution": 16},
    "imagenet-rn18-16": {"resolution": 64, "start_resolution": 32, "test_resolution": 64},
    "imagenet-rn50-16": {"resolution": 64, "start_resolution": 32, "test_resolution": 64},
}


def test_the_families_are_all_there_is() -> None:
    assert {name.removesuffix(f"-{RECIPES[name].epochs}") for name in RECIPES} == {
        "finetune", *(name.removesuffix("-16") for name in FAMILIES)
    }  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_trains_and_tests(sample_bundle: Path, name: str) -> None:
    bundle = open_bundle(sample_bundle)
    recipe = get_recipe(name, {"epochs": 2, **TINY[name], "batch_size": 6})
    trained, record = train_on_bundle(
        bundle, bundle, recipe, RunOptions(budget="epochs"), device=torch.device("cpu")
    )
    assert record.steps == 2 * -(-bundle.n_examples // 6)
    assert record.examples_seen == 2 * bundle.n_examples
    assert len(record.epoch_losses) == 2
    assert 0 <= record.test_accuracy <= record.test_accuracy_top5 <= 1
    assert trained.model.config["network"] == recipe.network


def test_a_batch_of_one_that_norms_cannot_take_is_explained(sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    alone = {"resolution": 8, "epochs": 1, "batch_size": bundle.n_examples - 1}
    with pytest.raises(WorkFailedError, match="found a batch of one; pass another --set batch_"):
        train_on_bundle(
            bundle, bundle, get_recipe("cifar-resnet18", alone), device=torch.device("cpu")
        )


def test_somebody_else_s_network_is_fine_tuned(sample_bundle: Path, tmp_path: Path) -> None:
    """A checkpoint with torchvision's names: its body is trained, its classifier is a new one."""
    bundle, device = open_bundle(sample_bundle), torch.device("cpu")
    body = ResNetBody(standard_blocks(18))
    torch.save({**body.state_dict(), "fc.weight": torch.zeros(7, 512)}, tmp_path / "net.pth")
    spec = f"file:{tmp_path / 'net.pth'}"
    recipe = get_recipe("finetune", {"resolution": 64, "epochs": 2, "batch_size": 6})
    start = network_from_encoder(spec, recipe, bundle.n_classes, 0, device)
    assert start.head.out_features == bundle.n_classes
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([123.675, 116.28, 103.53],
                                                            [58.395, 57.12, 57.375]))  # fmt: skip
    with torch.no_grad():
        expected = body.eval()((images.float() - mean) / std)
        assert torch.allclose(start.eval().features(images), expected, atol=1e-4)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    options = RunOptions(extras=Extras(start=start), started_from=spec)
    folder = RunFolder(tmp_path / "run")
    record = train_into(folder, bundle, bundle, recipe, options, device=device)
    assert record.started_from == spec
    changed = [n for n, value in start.state_dict().items() if not torch.equal(value, before[n])]
    assert {"head.weight", "body.conv1.weight"} < set(changed)

    # It is opened again by what it was started from, and has the weights of its own end.
    kept = load_run(folder.path, device)
    assert torch.equal(kept.model(images), start.eval()(images))
    teacher = teacher_from_run(folder.path, get_recipe("small", {"resolution": 64}), 3, device)
    assert torch.equal(teacher(images), start(images))
    encoder = open_encoder(f"tamis:{folder.path}", device)
    with torch.no_grad(), autocast(device):
        expected = start.features(images).float()
    assert torch.allclose(encoder(images), expected, rtol=1e-3, atol=1e-3)
    assert encoder.provenance()["labels_used"] is True
    again = network_from_run(folder.path, recipe, bundle.n_classes, 1, device)
    assert torch.equal(again.eval()(images), start(images))
    other = network_from_run(folder.path, recipe, 7, 1, device)
    assert other.head.out_features == 7
    assert torch.equal(other.eval().features(images), start.features(images))
    with pytest.raises(UsageError, match="of 32 pixels, found one for 64"):
        teacher_from_run(folder.path, get_recipe("small"), 3, device)
    with pytest.raises(UsageError, match="a run of the recipe's network, network small-resnet"):
        network_from_run(folder.path, get_recipe("small"), 3, 0, device)
    (tmp_path / "net.pth").unlink()
    with pytest.raises(UsageError, match=r"net\.pth: expected a checkpoint file, found no file"):
        load_run(folder.path, device)


@pytest.mark.parametrize(
    "spec",
    [
        "torchhub:{0}/hub:net",
        "torchhub:somebody/repository:net",
        "timm:hf-hub:somebody/repository",
        "open_clip:RN50/{0}/x.pt",
        "file:{0}/script.pt",
        "pixels",
    ],
)
def test_a_run_folder_does_not_name_programs_that_are_run(spec: str, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text("raise SystemExit('run')")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Flatten()), tmp_path / "script.pt")
    config = {"network": "backbone", "spec": spec.format(tmp_path), "n_classes": 3}
    torch.save({"config": config, "state": {}}, tmp_path / "model.pt")
    with pytest.raises(BundleError, match=r"found one fine-tuned from .*, which a run folder does"):
        load_run(tmp_path, torch.device("cpu"))


def test_fine_tuning_needs_its_recipe_and_its_recipe_needs_a_network(
    sample_bundle: Path, tmp_path: Path
) -> None:
    bundle, device = open_bundle(sample_bundle), torch.device("cpu")
    with pytest.raises(UsageError, match="as finetune, found small, which is for small-resnet"):
        network_from_encoder("timm:resnet18", get_recipe("small"), 3, 0, device)
    trained, record = train_on_bundle(
        bundle, bundle, get_recipe("small", {"epochs": 1, "resolution": 8}), device=device
    )
    write_run(tmp_path / "run", record, trained.model)
    with pytest.raises(
        UsageError, match=r"expected a run of finetune, or .* found a run of network"
    ):
        network_from_run(tmp_path / "run", get_recipe("finetune"), 3, 0, device)
    with pytest.raises(UsageError, match="recipe finetune: expected a network to go on from"):
        train_on_bundle(bundle, bundle, get_recipe("finetune"), device=device)

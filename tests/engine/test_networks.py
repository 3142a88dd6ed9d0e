"""Networks: sizes, arithmetic, and that a config builds them again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tamis.models.cifar_net import CifarNet, whitening_filters
from tamis.models.registry import NETWORKS, build_network
from tamis.models.resnet_body import BlurredConv2d

OF_WIDTH = {"width": 4, "resolution": 32}


def config(kind: str) -> dict[str, object]:
    return {"network": kind, "n_classes": 7} | (
        OF_WIDTH if kind in ("small-resnet", "cifar-net") else {"blurpool": True}
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_config_builds_the_same_network_again(kind: str) -> None:
    model = build_network(config(kind)).eval()
    again = build_network(model.config).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        logits, features = model(images), model.features(images)
        assert logits.shape == (2, 7)
        assert features.shape == (2, model.n_features)
        assert torch.equal(logits, again(images))
        assert torch.equal(logits, model.classify(features))


def test_a_config_without_a_name_is_the_first_version_s() -> None:
    old = {"n_classes": 10, "width": 8, "resolution": 8}
    assert build_network(old).config == {"network": "small-resnet", **old}


@pytest.mark.parametrize(
    # torchvision's, and kuangliu's for CIFAR
    ("kind", "n_classes", "weights"),
    [("resnet18", 1000, 11_689_512), ("resnet50", 1000, 25_557_032),
     ("resnet18-cifar", 10, 11_173_962)],
)  # fmt: skip
def test_resnets_have_the_published_number_of_weights(
    kind: str, n_classes: int, weights: int
) -> None:
    model = NETWORKS[kind](n_classes)
    assert sum(p.numel() for p in model.parameters()) == weights


def test_imagenet_s_stem_strides_and_cifar_s_does_not() -> None:
    sizes: dict[str, tuple[int, ...]] = {}
    for kind in ("resnet18", "resnet18-cifar"):
        model = NETWORKS[kind](10)

        def note(_: nn.Module, __: object, out: Tensor, kind: str = kind) -> None:
            sizes[kind] = tuple(out.shape[1:])

        model.body.layer1.register_forward_hook(note)  # type: ignore[union-attr]
        model(torch.zeros(2, 3, 64, 64))
    assert sizes == {"resnet18": (64, 16, 16), "resnet18-cifar": (64, 64, 64)}


def test_blurring_is_a_binomial_mean_before_the_stride() -> None:
    conv = BlurredConv2d(16, 5, 1, 2, 0, bias=False).double()
    x = torch.randn(1, 16, 6, 6, dtype=torch.float64)
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    line = np.array([1, 2, 1]) / 4
    weights = conv.weight[:, :, 0, 0].detach().numpy()
    found = conv(x)[0].detach().numpy()
    for row in range(3):
        for column in range(3):
            part = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            mean = np.einsum("chw,h,w->c", part, line, line)
            assert found[:, row, column] == pytest.approx(weights @ mean, abs=1e-12)


def test_blurpool_blurs_what_strides_but_for_the_stem() -> None:
    def blurred(kind: str, blurpool: bool) -> int:
        modules = NETWORKS[kind](10, blurpool=blurpool).modules()
        return sum(isinstance(module, BlurredConv2d) for module in modules)

    # Three stages stride, each in its main path and its shortcut.
    assert (blurred("resnet18", True), blurred("resnet50", True)) == (6, 6)
    assert blurred("resnet50", False) == 0
    one, other = (NETWORKS["resnet18"](10, blurpool=b).state_dict() for b in (True, False))
    assert one.keys() == other.keys()  # weights of torchvision fit both


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(60, 3, 9, 9))).float().cumsum(dim=3)
    filters = whitening_filters(images, 2, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    out = nn.functional.conv2d(images, filters).permute(0, 2, 3, 1).reshape(-1, 24).numpy()
    assert out[:, 12:] == pytest.approx(-out[:, :12], abs=1e-5)
    second_moments = out[:, :12].T @ out[:, :12] / len(out)
    assert second_moments == pytest.approx(np.eye(12), abs=1e-3)


def test_the_fast_network_whitens_the_images_that_it_is_shown() -> None:
    model = CifarNet(10, 8, 32)
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8)
    before = model.whiten.weight.clone()
    model.prepare(images)
    assert not torch.equal(before, model.whiten.weight)
    assert torch.equal(
        model.whiten.weight, whitening_filters(model.normalised(images), 2, eps=5e-4)
    )
    assert not model.whiten.weight.requires_grad
    # Divided by the number of features: the head starts with deviation 1, and answers modestly.
    with torch.no_grad():
        assert float(model.head.weight.std()) == pytest.approx(1, abs=1e-5)
        assert float(model(images).abs().max()) < 5

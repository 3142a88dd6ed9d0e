"""Losses, with and without a teacher."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.bundles.opening import open_bundle
from tamis.errors import UsageError
from tamis.models.small_resnet import SmallResNet
from tamis.models.weights import weights_digest
from tamis.training.loop import Extras
from tamis.training.objective import Objective, Teacher
from tamis.training.recipes import get_recipe
from tamis.training.runs import RunOptions, train_on_bundle


def softmax(rows: np.ndarray) -> np.ndarray:
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    made: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return made


def test_the_loss_is_that_of_hinton_s_definition() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    network = SmallResNet(5, 4, 8).eval()
    logits, labels = torch.randn(6, 5) * 3, torch.tensor([0, 4, 2, 2, 1, 3])
    weight, t, smoothing = 0.3, 2.5, 0.1
    teacher = Teacher(network, weight, t)
    found = Objective(smoothing, teacher).losses(logits, labels, images)

    rows = logits.double().numpy()
    with torch.no_grad():
        taught = network(images).double().numpy()
    target = np.full((6, 5), smoothing / 5)
    target[np.arange(6), labels.numpy()] += 1 - smoothing
    own = -(target * np.log(softmax(rows))).sum(axis=1)
    p, q = softmax(taught / t), softmax(rows / t)
    apart = (p * np.log(p / q)).sum(axis=1)
    # Where the hardware multiplies in bfloat16 the teacher's features are rounded.
    assert found.numpy() == pytest.approx((1 - weight) * own + weight * t**2 * apart, rel=0.02)


def test_without_a_teacher_it_is_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    found = Objective().losses(logits, torch.tensor([0, 1]), torch.empty(0))
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(2)])


def test_the_teacher_learns_nothing() -> None:
    network = SmallResNet(3, 4, 8).eval()
    logits = torch.randn(4, 3, requires_grad=True)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    Objective(0.0, Teacher(network)).losses(logits, labels, images).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert all(p.grad is None for p in network.parameters())


def test_every_loader_shows_the_teacher_what_the_network_sees(digits_bundle: Path) -> None:
    bundle, recipe = open_bundle(digits_bundle), get_recipe("digits", {"epochs": 1, "width": 4})
    teacher = Teacher(SmallResNet(10, 4, 8).eval(), weight=0.9)

    def weights(loader: str, teacher: Teacher | None) -> str:
        options = RunOptions(extras=Extras(teacher=teacher))
        trained, _ = train_on_bundle(
            bundle, bundle, recipe, options, loader=loader, device=torch.device("cpu")
        )
        return weights_digest(trained.model)

    # Raw images of one size are the same pixels in all of them.
    taught = {weights(loader, teacher) for loader in ("memory", "ffcv", "dali")}
    assert len(taught) == 1
    assert weights("memory", None) not in taught


@pytest.mark.parametrize(("weight", "temperature"), [(1.5, 4.0), (-0.1, 4.0), (0.5, 0.0)])
def test_weights_and_temperatures_out_of_range_are_refused(
    weight: float, temperature: float
) -> None:
    with pytest.raises(UsageError, match="a weight from 0 to 1 and a temperature above 0"):
        Teacher(SmallResNet(3, 4, 8), weight, temperature)

"""Optimizers against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tamis.errors import UsageError
from tamis.models.cifar_net import CifarNet
from tamis.models.small_resnet import SmallResNet
from tamis.training.optimizers import Muon, Optimizers, orthogonalised, rate_factor
from tamis.training.recipes import get_recipe


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4)])
def test_singular_values_are_made_alike_and_directions_kept(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    n = min(shape)
    u, _ = np.linalg.qr(rng.normal(size=(shape[0], n)))
    v, _ = np.linalg.qr(rng.normal(size=(shape[1], n)))
    values = np.geomspace(1, 0.05, n)
    found = orthogonalised(torch.from_numpy(u * values @ v.T).float(), steps=5).double().numpy()
    inner = u.T @ found @ v  # diagonal: the directions are still those of U and V
    assert inner - np.diag(np.diag(inner)) == pytest.approx(0, abs=1e-4)
    assert np.diag(inner).min() > 0.5
    assert np.diag(inner).max() < 1.3
    assert np.linalg.norm(found - u @ inner @ v.T) < 1e-4


def newton_schulz(g: np.ndarray, steps: int = 3) -> np.ndarray:
    """Muon's iteration on the singular values alone, in float64."""
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / (np.linalg.norm(g) + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    made: np.ndarray = u * s @ vt
    return made


def test_muon_s_steps_are_those_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    start = rng.normal(size=(4, 3, 2, 2))
    weight = nn.Parameter(torch.from_numpy(start).float())
    optimizer = Muon([weight], lr=0.3, momentum=0.6)
    expected, buffer = start.reshape(4, -1), np.zeros((4, 12))
    for _ in range(3):
        gradient = rng.normal(size=(4, 12))
        weight.grad = torch.from_numpy(gradient.reshape(weight.shape)).float()
        optimizer.step()
        buffer = 0.6 * buffer + gradient
        expected = expected * np.sqrt(4) / np.linalg.norm(expected)
        expected = expected - 0.3 * newton_schulz(gradient + 0.6 * buffer)
        assert weight.detach().numpy().reshape(4, -1) == pytest.approx(expected, abs=1e-4)


def test_rates_follow_their_schedules() -> None:
    triangle = [rate_factor("triangle", 0.2, p) for p in (0.1, 0.2, 0.6)]
    assert triangle == pytest.approx([0.5, 1.0, 0.5])
    assert rate_factor("linear", 0.2, 0.25) == 0.75
    # Of 200 epochs: a fifth after 60, 120 and 160.
    steps = [rate_factor("steps", 0.2, epoch / 200) for epoch in (59, 60, 119, 120, 159, 160)]
    assert steps == pytest.approx([1, 0.2, 0.2, 0.04, 0.04, 0.008])


def groups_of(optimizers: Optimizers) -> list[dict[str, object]]:
    return [group for one in optimizers.state_dict() for group in one["param_groups"]]


def test_sgd_decays_weights_and_leaves_norms_and_biases() -> None:
    recipe = get_recipe("small")
    optimizers = Optimizers(SmallResNet(10, 4, 32), recipe)
    optimizers.set_progress(0.2)
    decayed, others = groups_of(optimizers)
    assert (decayed["weight_decay"], others["weight_decay"]) == (5e-4, 0)
    assert (decayed["lr"], decayed["momentum"]) == (0.2, 0.9)


def test_the_rate_of_imagenet_s_recipes_goes_with_the_batch() -> None:
    rates = [get_recipe("imagenet-rn18-16", {"batch_size": n}).peak_rate for n in (1024, 256)]
    assert rates == [0.5, 0.125]
    assert not get_recipe("imagenet-rn18-16").nesterov  # FFCV's momentum is the plain one
    assert get_recipe("small", {"batch_size": 256}).peak_rate == 0.2


def test_muon_moves_convolutions_and_sgd_the_rest() -> None:
    recipe = get_recipe("cifar-fast")
    model = CifarNet(10, 8, 32)
    optimizers = Optimizers(model, recipe)
    norms, head, whitening, filters = groups_of(optimizers)
    # Six convolutions; the whitening filters are nobody's.
    assert [len(g["params"]) for g in (norms, head, whitening, filters)] == [6, 1, 1, 6]  # type: ignore[arg-type]
    # A weight loses weight_decay of itself in a step at the peak, whatever its rate.
    for group in (norms, head, whitening):
        assert group["lr"] * group["weight_decay"] == pytest.approx(4e-3)  # type: ignore[operator]
    optimizers.set_progress(0.1875)
    rates = [group["lr"] for group in groups_of(optimizers)]
    # airbench's rates are those of a sum over 2000 images, for 256 features; here are 32.
    factors = np.array(rates) / (0.053 * 250, 0.67 * 250, 0.053 * 250, 0.24)
    # The whitening layer's bias is through after 3 of 8 epochs.
    assert factors == pytest.approx([0.8125, 0.8125, 0.5, 0.8125])
    optimizers.set_progress(0.4)
    assert groups_of(optimizers)[2]["lr"] == 0
    wide = groups_of(
        Optimizers(CifarNet(10, 64, 32), get_recipe("cifar-fast", {"batch_size": 500}))
    )
    assert [group["lr"] for group in wide] == pytest.approx([26.5, 335, 26.5, 0.24])


def test_muon_without_its_other_rates_is_refused() -> None:
    with pytest.raises(UsageError, match="expected head_rate and norm_rate besides muon"):
        get_recipe("small", {"optimizer": "muon"})


def test_images_grow_over_the_epochs_in_multiples_of_32() -> None:
    recipe = get_recipe("imagenet-rn18-16")
    sides = [recipe.side(epoch) for epoch in range(16)]
    assert sides == [160] * 12 + [192] * 4  # as FFCV's configuration gives
    # FFCV's configurations: the first epoch of 192 pixels.
    for epochs, grown in ((16, 12), (24, 19), (32, 25), (40, 32), (56, 45), (88, 71)):
        long = get_recipe(f"imagenet-rn50-{epochs}")
        expected = [160] * grown + [192] * (epochs - grown)
        assert [long.side(epoch) for epoch in range(epochs)] == expected
    wide = get_recipe("imagenet-rn18-16", {"start_resolution": "96"})
    assert [wide.side(epoch) for epoch in (0, 11, 12, 13, 15)] == [96, 96, 128, 192, 192]
    with pytest.raises(UsageError, match="start_resolution: expected at most 32"):
        get_recipe("small", {"start_resolution": 64})

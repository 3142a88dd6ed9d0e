"""Optimizers, and how their rates move over a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tamis.models.network import Network
from tamis.training.recipes import Recipe

__all__ = ["Muon", "Optimizers", "orthogonalised", "rate_factor"]

_OTHERS_MOMENTUM = 0.85  # airbench94_muon's, of what Muon does not move
_WHITENING = 3 / 8  # share of the steps in which the bias of the whitening layer learns


def rate_factor(schedule: str, warmup: float, progress: float) -> float:
    """What the peak rate is multiplied by.

    Args:
        schedule: See :class:`tamis.training.recipes.Recipe`.
        warmup: Of a triangle.
        progress: Share of the run, above 0 and below 1.
    """
    if schedule == "triangle":
        return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
    if schedule == "linear":
        return 1 - progress
    return 0.2 ** sum(progress >= mark for mark in (0.3, 0.6, 0.8))


def orthogonalised(matrix: Tensor, steps: int = 3) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ: its singular values become about 0.5 to 1.5.

    Newton–Schulz iteration of fifth order (Jordan et al. 2024, Muon), whose coefficients grow small
    values fast rather than converge. In bfloat16 on a GPU, in float32 on a CPU.

    Args:
        matrix: (m, n).
        steps: Iterations.

    Returns:
        (m, n) in that precision. O(steps · m · n · min(m, n)).
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.775 * gram) @ x
    found: Tensor = x.T if tall else x
    return found


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each filter bank is orthogonalised (Jordan et al. 2024).

    Before each step a bank of n filters is scaled to norm √n: the rate alone says how far weights
    turn.

    Args:
        params: Convolutions' weights, (n, …).
        lr: Rate.
        momentum: Nesterov's.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the weights; takes no closure."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(weight.grad)
                ahead = weight.grad.add(buffer, alpha=group["momentum"])
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                update = orthogonalised(ahead.reshape(len(ahead), -1)).reshape(weight.shape)
                weight.add_(update.to(weight.dtype), alpha=-group["lr"])


class Optimizers:
    """Those of a recipe, as one.

    Args:
        model: Whose weights they move.
        recipe: Says which.
    """

    def __init__(self, model: Network, recipe: Recipe) -> None:
        self._recipe = recipe
        self._all = _muon(model, recipe) if recipe.optimizer == "muon" else [_sgd(model, recipe)]
        self._peaks = [[group["lr"] for group in one.param_groups] for one in self._all]

    def set_progress(self, progress: float) -> None:
        """Set the rates for a step.

        Args:
            progress: Share of the run, above 0 and below 1.
        """
        recipe = self._recipe
        for one, peaks in zip(self._all, self._peaks, strict=True):
            for group, peak in zip(one.param_groups, peaks, strict=True):
                until = group.get("until", 1.0)
                factor = rate_factor(recipe.schedule, recipe.warmup, progress / until)
                group["lr"] = peak * factor if progress < until else 0.0

    @property
    def rate(self) -> float:
        """What the recipe's learning rate has become."""
        return float(self._all[-1].param_groups[0]["lr"])

    def step(self) -> None:
        """Move the weights and forget their gradients."""
        for one in self._all:
            one.step()
            one.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """For checkpoints."""
        return [one.state_dict() for one in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """What :meth:`state_dict` gave, of the same recipe."""
        for one, state in zip(self._all, states, strict=True):
            one.load_state_dict(state)


def _sgd(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1]},
    ]
    return torch.optim.SGD(
        groups,
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def _muon(model: Network, recipe: Recipe) -> list[torch.optim.Optimizer]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    filters = [p for _, p in named if p.ndim == 4]
    whitening = [p for name, p in named if name == "whiten.bias"]
    head = [p for name, p in named if name.startswith("head.")]
    known = {id(p) for p in (*filters, *whitening, *head)}
    norms = [p for _, p in named if id(p) not in known]
    times = recipe.batch_size * model.rate_share  # the loss is a mean
    norm_rate, head_rate = times * recipe.norm_rate, times * recipe.head_rate

    def group(params: list[nn.Parameter], rate: float, **more: float) -> dict[str, Any]:
        # Decay is multiplied by the rate, which it is not to depend on.
        decay = recipe.weight_decay / rate if rate else 0.0
        return {"params": params, "lr": rate, "weight_decay": decay, **more}

    groups = [group(norms, norm_rate), group(head, head_rate)]
    if whitening:
        groups.append(group(whitening, norm_rate, until=_WHITENING))
    others = torch.optim.SGD(
        [one for one in groups if one["params"]],
        lr=norm_rate,
        momentum=_OTHERS_MOMENTUM,
        nesterov=True,
    )
    return [others, Muon(filters, recipe.peak_rate, recipe.momentum)]

"""One optimizer step, with everything that changes in it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tamis.errors import WorkFailedError
from tamis.loaders.batch import Batch
from tamis.models.network import Network
from tamis.training.networks import Forward
from tamis.training.objective import Objective
from tamis.training.optimizers import Optimizers
from tamis.training.recipes import Recipe

if TYPE_CHECKING:
    from tamis.training.loop import Extras

__all__ = ["Stepping"]

_SHAPES = 64  # of networks and batches, that one process compiles


class Stepping:
    """A network, its optimizers, and the average of its weights.

    Attributes:
        network: On its device, in training mode.
        was_compiled: Whether the last step was that of a compiled network.

    Args:
        network: To be trained.
        recipe: How.
        objective: What is made smaller.
        device: Where.
        extras: See :class:`tamis.training.loop.Extras`.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        objective: Objective,
        device: torch.device,
        extras: Extras,
    ) -> None:
        self._recipe, self._objective, self._device = recipe, objective, device
        self._extras, self._workers = extras, extras.workers
        self._together: nn.parallel.DistributedDataParallel | None = None
        self.network = network.placed(device).train()
        self._plain = self._workers.together(Forward(self.network, device), device)
        if isinstance(self._plain, nn.parallel.DistributedDataParallel):
            self._together = self._plain
        self._compiled = _compiled(self._plain) if _is_compiled(recipe, device) else None
        self.was_compiled = False
        self._optimizers = Optimizers(self.network, recipe)
        self._average: dict[str, Tensor] | None = None

    def prepare(self, images: Tensor) -> None:
        """Let the network look at training images, (n, 3, h, w) uint8; the first process's."""
        self.network.prepare(images.to(self._device))
        self._workers.share(self.network)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self._optimizers.rate

    def step(self, batch: Batch, progress: float) -> tuple[Tensor, Tensor, int]:
        """Move the weights once.

        Args:
            batch: Of this process.
            progress: Share of the run, for the rates.

        Returns:
            Logits (b, n_classes) and the sum of the losses, detached; b.

        Raises:
            WorkFailedError: The device has too little memory, or a batch of one example has no
                statistics that norms could take.
        """
        try:
            return self._step(batch, progress)
        except ValueError as error:  # torch's, of norms
            if len(batch.labels) // self._extras.accumulate > 1:
                raise
            raise WorkFailedError(
                f"recipe {self._recipe.name}",
                expected="batches of several examples, whose statistics its norms take",
                found="a batch of one",
                do="pass another --set batch_size=…, or a smaller --accumulate",
            ) from error
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise self._too_large(len(batch.labels), batch.images.shape[2]) from error

    def _step(self, batch: Batch, progress: float) -> tuple[Tensor, Tensor, int]:
        images = batch.images.to(self._device, non_blocking=True)
        labels = batch.labels.to(self._device, non_blocking=True)
        n = len(labels)
        whole: Tensor | int = n
        if self._workers.size > 1:
            whole = self._workers.sum(self._workers.tensor(float(n))).float()
        self._optimizers.set_progress(progress)
        # Compiled for full batches alone: each other size would be compiled again, for one step.
        is_full = n == self._recipe.batch_size // self._workers.size
        forward = self._compiled if self._compiled is not None and is_full else self._plain
        self.was_compiled = forward is self._compiled
        found, total = [], torch.zeros((), device=self._device)
        n_parts = min(self._extras.accumulate, n)
        for i in range(n_parts):  # as a batch is shared out to processes
            part = slice(i * n // n_parts, (i + 1) * n // n_parts)
            with self._gradients_stay_here() if part.stop < n else nullcontext():
                logits: Tensor = forward(images[part])
                losses = self._objective.losses(logits, labels[part], images[part])
                total = total + losses.detach().sum()
                if self._extras.dynamic is not None:
                    losses = self._extras.dynamic.weighted(batch.example_ids[part], losses)
                # Gradients are averaged over processes, whose batches may differ by one.
                (losses.sum() * (self._workers.size / whole)).backward()  # type: ignore[no-untyped-call]
            found.append(logits.detach())
        self._optimizers.step()
        self._follow()
        return torch.cat(found) if len(found) > 1 else found[0], total, n

    def _gradients_stay_here(self) -> Any:
        """Until the last part of a batch, processes do not exchange them."""
        together = self._together
        return together.no_sync() if together is not None else nullcontext()

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the average of the weights come after them."""
        decay = self._recipe.ema
        if not decay:
            return
        now = self.network.state_dict()
        if self._average is None:
            self._average = {name: value.clone() for name, value in now.items()}
            return
        for name, value in now.items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def is_finite(self) -> bool:
        """Whether all weights are numbers; the same in all processes that share them."""
        total = torch.zeros((), device=self._device)
        for weight in self.network.parameters():
            total = total + weight.detach().sum() * 0
        return bool(total == 0)

    def result(self) -> Network:
        """The trained network in evaluation mode."""
        if self._average is not None:
            self.network.load_state_dict(self._average)
        # Norms of each process have seen their own last part: what is tested is what is saved.
        self._workers.share(self.network)
        return self.network.eval()

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {
            "network": self.network.state_dict(),
            "optimizers": self._optimizers.state_dict(),
            "average": self._average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave, of the same recipe."""
        self.network.load_state_dict(state["network"])
        self._optimizers.load_state_dict(state["optimizers"])
        self._average = state["average"]

    def _too_large(self, n: int, side: int) -> WorkFailedError:
        recipe, parts = self._recipe, 2 * self._extras.accumulate
        size = f"{n} images of {side} pixels"
        return WorkFailedError(
            f"recipe {recipe.name}",
            expected=f"room on {self._device} for a step of {size}",
            found="too little memory",
            do=f"pass --accumulate {parts}, which takes the same steps in parts of"
            f" {-(-n // parts)} images, or --set batch_size={recipe.batch_size // 2}",
        )


def _is_compiled(recipe: Recipe, device: torch.device) -> bool:
    return recipe.compile and device.type == "cuda"


def _compiled(module: nn.Module) -> nn.Module:
    """Compiled at its first step; torch then has it for all networks of the same shape."""
    # Only heads multiply in float32, and their logits are to keep all digits.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    # Beyond the limit, which counts all shapes of a process, steps would run as they are. A sweep
    # over recipes, or images that grow, need more than torch's eight.
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _SHAPES)
    return cast("nn.Module", torch.compile(module, dynamic=False))


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On a CPU torch has no class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

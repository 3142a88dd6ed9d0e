"""What is kept of a run, and of the machine that it ran on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch

from tamis import __version__
from tamis.devices import autocast
from tamis.loaders.batch import Skipped
from tamis.training.loop import Budget, Seeds
from tamis.versions import source_commit
from tamis_kernels.processor import model_name

__all__ = ["RunRecord", "environment"]


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run; times in seconds.

    Attributes:
        test_accuracy: Share of the test set.
        test_accuracy_top5: Share whose class is among the five likeliest.
        test_loss: Mean cross-entropy in nats.
        per_class_accuracy: In label order; None for a class without test examples.
        train_seconds: The training loop alone, compiling included; of a run that was interrupted
            without what was lost.
        compile_seconds: Of them, what compiling the network took; 0 where it is not compiled.
        setup_seconds: Decoding and everything else before it.
        evaluation_seconds: The pass over the test set.
        steps: Optimizer steps.
        examples_seen: Examples shown, repetitions counted.
        images_per_second: In the training loop, compiling left out.
        energy_joules: Of this process's GPU in the training loop, as NVML counts it, without what
            came before an interruption; None where it does not count.
        n_examples: Examples trained on.
        examples_digest: Hash of the ids that were asked for, damaged ones included.
        n_classes: Outputs of the network.
        accumulate: Parts of each batch that went through the network one after the other.
        full_examples: Examples of the full set that they are a part of.
        budget: The compute protocol, "steps" or "epochs".
        seed: Of the initialisation.
        order_seed: Of the order, and of what dynamic pruning leaves out.
        augmentation_seed: Of the augmentation.
        recipe: Every value of the recipe.
        recipe_digest: Their hash.
        started_from: The network that was trained on; None for a fresh one.
        teacher: What was learned from besides labels: the digest of its weights, its weight in the
            loss, the temperature; None without.
        dynamic: The ratio of dynamic pruning; 0 without.
        processes: That trained together.
        train_digest: Content digest of the training bundle.
        test_digest: Content digest of the test bundle.
        epoch_losses: Mean training loss of each epoch, in nats.
        skipped: Damaged examples of either bundle that were left out.
        environment: Device, versions, threads.
    """

    test_accuracy: float
    test_accuracy_top5: float
    test_loss: float
    per_class_accuracy: tuple[float | None, ...]
    train_seconds: float
    compile_seconds: float
    setup_seconds: float
    evaluation_seconds: float
    steps: int
    examples_seen: int
    images_per_second: float
    energy_joules: float | None
    n_examples: int
    examples_digest: str
    n_classes: int
    accumulate: int
    full_examples: int
    budget: Budget
    seed: int
    order_seed: int
    augmentation_seed: int
    recipe: dict[str, Any]
    recipe_digest: str
    started_from: str | None
    teacher: dict[str, Any] | None
    dynamic: float
    processes: int
    train_digest: str
    test_digest: str
    epoch_losses: tuple[float, ...]
    skipped: tuple[Skipped, ...]
    environment: dict[str, Any]

    @property
    def seeds(self) -> Seeds:
        """All three."""
        return Seeds(self.seed, self.order_seed, self.augmentation_seed)


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and versions that a measured number belongs to."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    with autocast(device):
        precision = "bfloat16" if torch.is_autocast_enabled(device.type) else "float32"
    return {
        "device": gpu or model_name(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "tamis": __version__,
        "commit": source_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }

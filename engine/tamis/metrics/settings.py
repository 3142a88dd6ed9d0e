"""Settings of a campaign."""

from __future__ import annotations

from dataclasses import dataclass, field

from tamis.errors import UsageError
from tamis.loaders.settings import OnError
from tamis.training.recipes import Recipe
from tamis.training.selfsup import SelfsupSettings

__all__ = ["CampaignSettings"]


@dataclass(frozen=True)
class CampaignSettings:
    """How scores are computed.

    Attributes:
        recipe: Of the scoring networks, as of :func:`tamis.training.recipes.scoring_recipe`.
        models: Networks trained on the whole set, over which their metrics are averaged.
        early_models: Networks over which early metrics (EL2N, GraNd) are averaged; None takes
            ``models``. Those beyond ``models`` are trained up to the early epoch only.
        early_epoch: Epochs before EL2N is taken; None takes half of the recipe's. (Paul et al.
            take 20 of 200 at a constant rate. In recipes of 10 to 20 epochs the first fifth is
            warm-up, where whole classes are still confused and seeds disagree.)
        subset_models: Networks trained on random subsets, for memorization, influence and label
            errors; a multiple of ten (see :func:`tamis.metrics.subset_runs.subset_mask`).
        subset_share: Of the examples in each subset, a multiple of 0.1. Feldman & Zhang take 0.7.
        encoder: ``selfsup`` trains one on the bundle without labels; ``npy:FILE`` reads
            embeddings made elsewhere, one row per example in the bundle's order; the others are
            those of :func:`tamis.encoders.opening.open_encoder`.
        k: Numbers of prototypes. The first is that of all metrics; each further one gives
            another column of the self-supervised metric. None given takes the number of classes,
            but at most one for ten examples.
        selfsup: Settings of the ``selfsup`` encoder.
        seed: The first of the networks' seeds.
        loader: Its backend, as in :func:`tamis.loaders.opening.open_loader`.
        on_error: ``skip`` leaves damaged examples out of everything; the report names them.
    """

    recipe: Recipe
    models: int = 4
    early_models: int | None = None
    early_epoch: int | None = None
    subset_models: int = 20
    subset_share: float = 0.7
    encoder: str = "selfsup"
    k: tuple[int, ...] = ()
    selfsup: SelfsupSettings = field(default_factory=SelfsupSettings)
    seed: int = 0
    loader: str = "auto"
    on_error: OnError = "fail"

    def __post_init__(self) -> None:
        for option, value in (("--models", self.models), ("--early-models", self.early_models)):
            if value is not None and value < 1:
                raise UsageError(option, expected="at least 1", found=str(value), do="leave it out")
        self.recipe.check_plain_images("--recipe")
        if self.seed < 0:
            raise UsageError("--seed", expected="0 or more", found=str(self.seed), do="use 0")
        if self.early_epoch is not None and not 1 <= self.early_epoch <= self.recipe.epochs:
            raise UsageError(
                "--early-epoch",
                expected=f"1 to {self.recipe.epochs}, the recipe's epochs",
                found=str(self.early_epoch),
                do="leave it out for half of them",
            )
        if len(set(self.k)) < len(self.k):
            raise UsageError(
                "--k",
                expected="different numbers of prototypes",
                found=", ".join(map(str, self.k)),
                do="leave the repeated ones out",
            )
        if self.subset_models < 10 or self.subset_models % 10:
            raise UsageError(
                "--subset-models",
                expected="a multiple of ten, so that every example is left out equally often",
                found=str(self.subset_models),
                do="20 is the default; Feldman & Zhang train 2,000",
            )
        if not any(abs(self.subset_share - tenth / 10) < 1e-9 for tenth in range(1, 10)):
            raise UsageError(
                "--subset-share",
                expected="0.1, 0.2, … or 0.9",
                found=f"{self.subset_share:g}",
                do="0.7 is the default",
            )

    @property
    def n_early(self) -> int:
        """Networks over which early metrics are averaged."""
        return self.early_models or self.models

    @property
    def early_epochs(self) -> int:
        """Epochs before early metrics are taken."""
        return self.early_epoch or max(1, self.recipe.epochs // 2)

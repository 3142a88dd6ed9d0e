"""What a sweep is, as people write it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from tamis.metrics.settings import CampaignSettings
from tamis.selection.settings import MOST_STRATA
from tamis.training.early_stop import EarlyStop
from tamis.training.recipes import Recipe, get_recipe, scoring_recipe
from tamis.training.selfsup import SelfsupSettings

__all__ = ["EarlyStopRule", "ScoringSpec", "SweepSpec"]

_Share = Annotated[float, pydantic.Field(gt=0, le=1)]
_Strict = pydantic.ConfigDict(extra="forbid", frozen=True)


class ScoringSpec(pydantic.BaseModel):
    """How a sweep computes its scores; what it does not say is as in ``tamis score``.

    Attributes:
        recipe: Of the scoring networks; the sweep's first one by default.
        set: Values of that recipe to replace; before them the sweep's but for label smoothing,
            where the recipe is the sweep's (see :func:`tamis.training.recipes.scoring_recipe`).
        models: As in :class:`tamis.metrics.settings.CampaignSettings`, like the next ones.
        early_models: As there.
        early_epoch: As there.
        subset_models: As there.
        encoder: As there.
        encoder_epochs: Of the encoder ``selfsup``.
        k: Number of prototypes.
        seed: The first of the networks' seeds.
    """

    model_config = _Strict

    recipe: str | None = None
    set: dict[str, Any] = {}
    models: int = pydantic.Field(default=4, ge=1)
    early_models: int | None = pydantic.Field(default=None, ge=1)
    early_epoch: int | None = pydantic.Field(default=None, ge=1)
    subset_models: int = 20
    encoder: str = "selfsup"
    encoder_epochs: int = pydantic.Field(default=30, ge=1)
    k: int | None = pydantic.Field(default=None, ge=1)
    seed: int = pydantic.Field(default=0, ge=0)

    def campaign(self, sweep: SweepSpec) -> CampaignSettings:
        """The settings of the campaign.

        Raises:
            UsageError: An unknown recipe or value, or settings that contradict each other.
        """
        name, changes = str(self.recipe), {}
        if self.recipe is None:
            name, changes = sweep.recipe[0], sweep.set.copy()
            changes.pop("label_smoothing", None)  # of what is retrained
        return CampaignSettings(
            scoring_recipe(name, {**changes, **self.set}),
            models=self.models,
            early_models=self.early_models,
            early_epoch=self.early_epoch,
            subset_models=self.subset_models,
            encoder=self.encoder,
            k=() if self.k is None else (self.k,),
            selfsup=SelfsupSettings(epochs=self.encoder_epochs),
            seed=self.seed,
        )


class EarlyStopRule(pydantic.BaseModel):
    """Which trials of a sweep are hopeless; see :class:`tamis.training.early_stop.EarlyStop`."""

    model_config = _Strict

    after: float = pydantic.Field(gt=0, lt=1)
    below: float = pydantic.Field(gt=0, le=1)


class SweepSpec(pydantic.BaseModel):
    """A sweep as people write it (YAML).

    Attributes:
        train: Training bundle; paths are relative to the file.
        test: Test bundle.
        scores: Score table of the training bundle, used for initial sets of every size; without it
            scores are computed, for each size from its initial set alone.
        scoring: How they are computed; none with ``scores``.
        metrics: Columns of the table; ``random`` is the baseline and uses no column.
        keep: Keep fractions, shares of the initial set; 1.0 is the whole of it, run once per seed.
        side: Which sides to keep.
        hardest_cut: Of the side stratified: see
            :class:`tamis.selection.settings.SelectionSettings`; none without that side.
        strata: As ``hardest_cut``.
        class_balance: As there, for all sides.
        sizes: Initial sets: shares of the training bundle, drawn at random before scoring and
            pruning. Smaller ones are parts of larger ones.
        seeds: Seeds 0…n-1, each for selection ties, initialisation, order and augmentation.
        recipe: Names of recipes.
        set: Values of all recipes to replace.
        budget: ``steps``, ``epochs``, or both.
        stop_early: Gives hopeless trials up; without it all are trained to their end.
    """

    model_config = _Strict

    train: Path
    test: Path
    scores: Path | None = None
    scoring: ScoringSpec | None = None
    metrics: list[str] = pydantic.Field(min_length=1)
    keep: list[_Share] = pydantic.Field(min_length=1)
    side: list[Literal["hard", "easy", "stratified", "moderate"]] = ["hard"]
    hardest_cut: float | None = pydantic.Field(default=None, ge=0, lt=1)
    strata: int | None = pydantic.Field(default=None, ge=1, le=MOST_STRATA)
    class_balance: float = pydantic.Field(default=0.5, ge=0, le=1)
    sizes: list[_Share] = pydantic.Field(default=[1.0], min_length=1)
    seeds: int = pydantic.Field(default=3, ge=1)
    recipe: list[str] = pydantic.Field(default=["small"], min_length=1)
    set: dict[str, Any] = {}
    budget: list[Literal["steps", "epochs"]] = pydantic.Field(default=["steps"], min_length=1)
    stop_early: EarlyStopRule | None = None

    @pydantic.field_validator("side", "budget", "recipe", "metrics", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("sizes", "keep", mode="before")
    @classmethod
    def _one_or_more_shares(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @pydantic.field_validator("side", mode="before")
    @classmethod
    def _without_embeddings(cls, value: Any) -> Any:
        if value == "d2" or (isinstance(value, list) and "d2" in value):
            raise ValueError("sides that need no embeddings; for d2 run tamis select and train")
        return value

    @pydantic.field_validator("metrics", "keep", "side", "sizes", "recipe", "budget")
    @classmethod
    def _each_once(cls, value: Sequence[Hashable]) -> Sequence[Hashable]:
        if len(dict.fromkeys(value)) < len(value):
            raise ValueError("every entry once")
        return value

    @pydantic.field_validator("scoring")
    @classmethod
    def _without_table(cls, value: Any, others: pydantic.ValidationInfo) -> Any:
        if value is not None and others.data.get("scores") is not None:
            raise ValueError("either scores, a table that there is, or scoring, which computes one")
        return value

    @pydantic.field_validator("hardest_cut", "strata")
    @classmethod
    def _of_stratified(cls, value: Any, others: pydantic.ValidationInfo) -> Any:
        if value is not None and "stratified" not in others.data.get("side", ["stratified"]):
            raise ValueError("none unless side names stratified")
        return value

    @pydantic.field_validator("hardest_cut")
    @classmethod
    def _leaves_enough(cls, value: float | None, others: pydantic.ValidationInfo) -> float | None:
        most = max((keep for keep in others.data.get("keep", []) if keep < 1), default=0.0)
        if value is not None and most > 1 - value + 1e-9:
            raise ValueError(f"at most {1 - most:.6g}, which leaves {most:g} to keep")
        return value

    @property
    def scored_metrics(self) -> list[str]:
        """Those that need scores."""
        return [metric for metric in self.metrics if metric != "random"]

    @property
    def early_stop(self) -> EarlyStop | None:
        """The rule of ``stop_early``, for trainings."""
        rule = self.stop_early
        return None if rule is None else EarlyStop(rule.after, rule.below)

    def recipes(self) -> list[Recipe]:
        """Each with the values that replace its own.

        Raises:
            UsageError: An unknown recipe or value.
        """
        return [get_recipe(name, self.set) for name in self.recipe]

    def campaign(self) -> CampaignSettings:
        """How scores are computed, where no table is given.

        Raises:
            UsageError: As :meth:`ScoringSpec.campaign`.
        """
        return (self.scoring or ScoringSpec()).campaign(self)

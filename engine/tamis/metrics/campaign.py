"""One campaign, all scores: the fewest trainings that serve the metrics asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import BundleError, ScoreTableError, UsageError, first_line
from tamis.hashing import example_uniform
from tamis.inference import embed, embed_pixels
from tamis.loaders.batch import Loader, Skipped
from tamis.loaders.memory_loader import ImageSet, load_image_set
from tamis.loaders.opening import choose_backend, open_loader
from tamis.loaders.settings import OnError
from tamis.metrics.dynamics import DynamicsScores, RunDynamics
from tamis.metrics.registry import Metric, Needs
from tamis.progress import QUIET, Progress
from tamis.prototypes import (
    check_k,
    class_prototype_distance,
    kmeans_prototypes,
    nearest_prototype_distance,
)
from tamis.score_table import ScoreColumn, ScoreTable, unscored_table
from tamis.training.checkpoints import load_checkpoint
from tamis.training.loop import Seeds, augmentation_for, n_steps, train
from tamis.training.recipes import Recipe
from tamis.training.runs import EVALUATION_BATCH
from tamis.training.selfsup import SelfsupSettings, train_encoder

__all__ = ["CampaignSettings", "ScoreReport", "compute_embeddings", "score"]


@dataclass(frozen=True)
class CampaignSettings:
    """How scores are computed.

    Attributes:
        recipe: Of the scoring networks.
        models: How many networks the dynamics metrics are averaged over.
        encoder: ``selfsup`` trains one on the bundle without labels; ``pixels``; ``tamis:RUN``
            takes the penultimate layer of a trained run (which saw labels); ``npy:FILE`` reads
            embeddings made elsewhere, one row per example in the bundle's order.
        k: Prototypes of the self-supervised metric; None takes the number of classes, but at most
            one for ten examples.
        early_epoch: Epochs before EL2N is taken; None takes half of the recipe's. (Paul et al.
            take 20 of 200 at a constant rate. In recipes of 10 to 20 epochs the first fifth is
            warm-up, where whole classes are still confused and seeds disagree.)
        selfsup: Settings of the ``selfsup`` encoder.
        seed: The first of the networks' seeds.
        loader: Its backend, as in :func:`tamis.loaders.opening.open_loader`.
        on_error: ``skip`` leaves damaged examples out of everything; the report names them.
    """

    recipe: Recipe
    models: int = 4
    encoder: str = "selfsup"
    k: int | None = None
    early_epoch: int | None = None
    selfsup: SelfsupSettings = field(default_factory=SelfsupSettings)
    seed: int = 0
    loader: str = "auto"
    on_error: OnError = "fail"

    def __post_init__(self) -> None:
        if self.models < 1:
            raise UsageError(
                "--models", expected="at least 1", found=str(self.models), do="4 is the default"
            )

        if self.seed < 0:
            raise UsageError("--seed", expected="0 or more", found=str(self.seed), do="use 0")
        if self.early_epoch is not None and not 1 <= self.early_epoch <= self.recipe.epochs:
            raise UsageError(
                "--early-epoch",
                expected=f"1 to {self.recipe.epochs}, the recipe's epochs",
                found=str(self.early_epoch),
                do="leave it out for half of them",
            )

    @property
    def el2n_epochs(self) -> int:
        """Epochs before EL2N is taken."""
        return self.early_epoch or max(1, self.recipe.epochs // 2)


@dataclass(frozen=True)
class ScoreReport:
    """A finished campaign.

    Attributes:
        table: The scores.
        seconds: What each family of metrics took.
        skipped: Damaged examples, which have no row in the table.
    """

    table: ScoreTable
    seconds: dict[str, float]
    skipped: tuple[Skipped, ...]


def score(
    bundle: Bundle,
    metrics: list[Metric],
    settings: CampaignSettings,
    device: torch.device,
    *,
    progress: Progress = QUIET,
) -> ScoreReport:
    """Compute metrics for every example of a bundle.

    Runs at most ``settings.models`` trainings and one encoder, whatever the number of metrics.
    Memory besides the loader's: O(N) per metric, and N × d for embeddings.

    Raises:
        UsageError: Settings that contradict each other.
        BundleError: A record that does not decode.
    """
    campaign = _Campaign(bundle, settings, device, progress)
    campaign.check(metrics)
    if settings.on_error == "skip":
        campaign.leave_out_damaged()
        campaign.check(metrics)  # what holds of all examples may not hold of fewer
    needed = {metric.needs for metric in metrics}
    seconds: dict[str, float] = {}
    values: dict[str, NDArray[np.float32]] = {}
    infos: dict[Needs, dict[str, Any]] = {}
    for needs, compute in (
        (Needs.IDS, campaign.from_ids),
        (Needs.DYNAMICS, campaign.from_dynamics),
        (Needs.EMBEDDINGS, campaign.from_embeddings),
    ):
        if needs in needed:
            start = time.perf_counter()
            names = [metric.name for metric in metrics if metric.needs is needs]
            found, infos[needs] = compute(names)
            values |= found
            seconds[needs.name.lower()] = time.perf_counter() - start
    columns = {
        metric.name: ScoreColumn(values[metric.name], _provenance(metric, infos[metric.needs]))
        for metric in metrics
    }
    table = replace(unscored_table(bundle, campaign.positions), columns=columns)
    return ScoreReport(table, seconds, campaign.skipped)


def compute_embeddings(
    bundle: Bundle,
    settings: CampaignSettings,
    device: torch.device,
    *,
    progress: Progress = QUIET,
) -> NDArray[np.float32]:
    """Embeddings by ``settings.encoder`` in the bundle's order, (n, d) float32.

    Raises:
        UsageError: An unknown encoder.
        ScoreTableError: An .npy file that does not fit the bundle.
    """
    return _Campaign(bundle, settings, device, progress).embeddings()


def _provenance(metric: Metric, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": metric.name,
        "version": metric.version,
        "high_means": metric.high_means,
        "flipped": metric.flipped,
        "labels_used": metric.labels,
        "parameters": parameters,
    }


_EXAMPLES_PER_PROTOTYPE = 10

_Scores = tuple[dict[str, NDArray[np.float32]], dict[str, Any]]


class _Campaign:
    """Decodes at most once, trains at most once per network."""

    def __init__(
        self, bundle: Bundle, settings: CampaignSettings, device: torch.device, progress: Progress
    ) -> None:
        self.bundle, self.settings, self.device, self.progress = bundle, settings, device, progress
        self._image_set: ImageSet | None = None
        # Decided once: every network and encoder of a campaign sees the same loader.
        self._backend = settings.loader
        if self._backend == "auto":
            self._backend = choose_backend(bundle.n_examples, settings.recipe.resolution, device)
        self.skipped: tuple[Skipped, ...] = ()
        self.positions = np.arange(bundle.n_examples)  # of the examples that are scored

    def leave_out_damaged(self) -> None:
        """Read every record once, so that all networks see, and all scores cover, the same.

        Raises:
            BundleError: Nothing is left.
        """
        loader = self._loader(EVALUATION_BATCH, on_error="skip")
        with self.progress.task("look for damage", loader.n_examples) as advance:
            for batch in loader if self._backend != "memory" else ():
                advance(len(batch.example_ids))
        self.skipped = loader.skipped
        damaged = [skipped.example_id for skipped in self.skipped]
        self.positions = np.flatnonzero(~np.isin(self.bundle.example_ids, damaged))
        if not len(self.positions):
            raise BundleError(
                self.bundle.path,
                expected="at least one example that is not damaged",
                found="none",
                do=f"run: tamis verify --deep {self.bundle.path}",
            )

    @property
    def ids(self) -> NDArray[np.int64]:
        """(n,) int64 ids of the examples that are scored."""
        return self.bundle.example_ids[self.positions]

    def _loader(self, batch_size: int, **options: Any) -> Loader:
        recipe = self.settings.recipe
        source: Bundle | ImageSet = self.bundle
        if self._backend == "memory":
            if self._image_set is None:
                self._image_set = load_image_set(
                    self.bundle,
                    recipe.resolution,
                    self.device,
                    on_error=self.settings.on_error,
                    progress=self.progress,
                )
            source = self._image_set
        elif self.skipped:
            options["selection"] = self.ids
        return open_loader(
            source,
            backend=self._backend,
            batch_size=batch_size,
            resolution=recipe.resolution,
            device=self.device,
            **options,
        )

    def check(self, metrics: list[Metric]) -> None:
        """Refuse before the first training what would fail after it."""
        settings, bundle = self.settings, self.bundle
        needed = {metric.needs for metric in metrics}
        if Needs.DYNAMICS in needed and bundle.n_classes < 2:
            raise UsageError(
                bundle.path, expected="at least two classes", found="one", do="add the others"
            )
        if Needs.EMBEDDINGS in needed:
            kind, _, argument = settings.encoder.partition(":")
            if kind not in ("selfsup", "pixels", "tamis", "npy") or (
                bool(argument) != (kind in ("tamis", "npy"))
            ):
                raise _unknown_encoder(settings.encoder)
            if kind == "npy":
                _read_embeddings(Path(argument), bundle)
            if settings.k is not None:
                check_k(settings.k, len(self.positions))
        sizes = np.bincount(bundle.labels[self.positions])
        if any(metric.name == "prototypes" for metric in metrics) and sizes.max() < 2:
            raise UsageError(
                "--metrics prototypes",
                expected="classes of several examples",
                found="one example in every class, which is its own mean",
                do="use selfsup-prototypes, or a larger set",
            )

    def from_ids(self, names: list[str]) -> _Scores:
        """The random baseline."""
        uniform = example_uniform(self.ids, self.settings.seed, "random metric")
        return {"random": uniform.astype(np.float32)}, {"seed": self.settings.seed}

    def from_dynamics(self, names: list[str]) -> _Scores:
        """Train the networks and average what their observers saw."""
        settings, recipe = self.settings, self.settings.recipe
        total = DynamicsScores()
        evaluation = self._loader(EVALUATION_BATCH)
        early = settings.el2n_epochs if "el2n" in names else None
        for model_seed in range(settings.seed, settings.seed + settings.models):
            seeds = Seeds.from_one(model_seed)
            watch = RunDynamics(self.ids, evaluation, early, self.device)
            trained = train(
                self._loader(
                    recipe.batch_size,
                    mode="train",
                    seed=seeds.order,
                    augmentation=augmentation_for(recipe, seeds),
                ),
                recipe,
                self.bundle.n_classes,
                steps=n_steps(len(self.positions), len(self.positions), recipe, "epochs"),
                seeds=seeds,
                device=self.device,
                observer=watch,
                progress=self.progress,
                label=f"score: network {total.n_runs + 1} of {settings.models}",
            )
            total.add(watch.finish(trained.model))
        info = {
            "models": settings.models,
            "seed": settings.seed,
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "epochs": recipe.epochs,
            "early_epoch": settings.el2n_epochs,
        }
        return {name: total.mean(name) for name in names}, info

    def from_embeddings(self, names: list[str]) -> _Scores:
        """Distances to class means and to k-means prototypes."""
        settings = self.settings
        embeddings = self.embeddings()
        n_examples = len(embeddings)
        # With a prototype for every few examples, each would be its own prototype.
        k = settings.k or max(1, min(self.bundle.n_classes, n_examples // _EXAMPLES_PER_PROTOTYPE))
        found: dict[str, NDArray[np.float32]] = {}
        if "prototypes" in names:
            found["prototypes"] = class_prototype_distance(
                embeddings, self.bundle.labels[self.positions]
            )
        if "selfsup-prototypes" in names:
            prototypes = kmeans_prototypes(embeddings, k, seed=settings.seed)
            found["selfsup-prototypes"] = nearest_prototype_distance(embeddings, prototypes)
        info = {"encoder": settings.encoder, "k": k, "seed": settings.seed}
        if settings.encoder == "selfsup":
            info["encoder_epochs"] = settings.selfsup.epochs
        return found, info

    def embeddings(self) -> NDArray[np.float32]:
        """See :func:`compute_embeddings`."""
        settings = self.settings
        kind, _, argument = settings.encoder.partition(":")
        if kind == "npy" and argument:
            return _read_embeddings(Path(argument), self.bundle)[self.positions]
        if kind == "pixels" and not argument:
            return embed_pixels(self._loader(EVALUATION_BATCH))
        if kind == "tamis" and argument:
            model = load_checkpoint(Path(argument), self.device)
            side = int(model.config["resolution"])
            if side != settings.recipe.resolution:
                raise UsageError(
                    "--encoder",
                    expected=f"images of {side} pixels, as {argument} was trained on",
                    found=f"the recipe {settings.recipe.name} with {settings.recipe.resolution}",
                    do=f"pass --set resolution={side} or the run's --recipe",
                )
        elif kind == "selfsup" and not argument:
            model = train_encoder(
                self._loader(settings.selfsup.batch_size, mode="train", seed=settings.seed),
                settings.recipe,
                settings.selfsup,
                seed=settings.seed,
                device=self.device,
                progress=self.progress,
            )
        else:
            raise _unknown_encoder(settings.encoder)
        loader = self._loader(EVALUATION_BATCH)
        return embed(model, loader, self.device, progress=self.progress)


def _unknown_encoder(spec: str) -> UsageError:
    return UsageError(
        "--encoder",
        expected="selfsup, pixels, tamis:RUN_DIR or npy:FILE",
        found=spec or "nothing",
        do="choose one of them",
    )


def _read_embeddings(path: Path, bundle: Bundle) -> NDArray[np.float32]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(rows, np.ndarray):
            raise ValueError("an archive of several arrays")
        if rows.ndim != 2 or len(rows) != bundle.n_examples or rows.dtype.kind != "f":
            raise ValueError(f"an array {rows.shape} of {rows.dtype}")
    except (OSError, ValueError, EOFError) as error:
        raise ScoreTableError(
            path,
            expected=f"an .npy of floats, ({bundle.n_examples}, d), one row per example in order",
            found=first_line(error),
            do=f"embed the images of {bundle.path} again, in its order",
        ) from error
    return np.asarray(rows, np.float32)

"""What every part of a campaign works on: the examples, loaders over them, and where to run."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.errors import BundleError
from tamis.loaders.batch import Loader, Skipped
from tamis.loaders.memory_loader import ImageSet, load_image_set
from tamis.loaders.opening import choose_backend, open_loader
from tamis.metrics.settings import CampaignSettings
from tamis.metrics.store import RunStore
from tamis.progress import Progress
from tamis.training.loop import Observer, Seeds, Trained, augmentation_for, n_steps, train
from tamis.training.records import environment
from tamis.training.runs import EVALUATION_BATCH

__all__ = ["Context"]


class Context:
    """Decodes at most once, into memory where the set fits.

    Args:
        bundle: What is scored.
        test: The test set, for influence.
        settings: The campaign's.
        device: Where networks run.
        store: Where finished work is kept; None keeps it in memory.
        progress: Told of everything.
    """

    def __init__(
        self,
        bundle: Bundle,
        test: Bundle | None,
        settings: CampaignSettings,
        device: torch.device,
        store: RunStore | None,
        progress: Progress,
    ) -> None:
        self.bundle, self.test = bundle, test
        self.settings, self.device, self.progress = settings, device, progress
        self.store = store or RunStore(None)
        # Decided once: every network and encoder of a campaign sees the same loader. Public for
        # encoders, whose images may have another size.
        self.backend = settings.loader
        if self.backend == "auto":
            n_images = bundle.n_examples + (test.n_examples if test else 0)
            self.backend = choose_backend(
                n_images, settings.recipe.resolution, device, settings.recipe.resample
            )
        self._sets: dict[str, ImageSet] = {}
        self.skipped: tuple[Skipped, ...] = ()
        self.positions = np.arange(bundle.n_examples)  # of the examples that are scored

    @property
    def ids(self) -> NDArray[np.int64]:
        """(n,) int64 ids of the examples that are scored."""
        return self.bundle.example_ids[self.positions]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) int64 labels of the examples that are scored."""
        return self.bundle.labels[self.positions]

    @property
    def n_examples(self) -> int:
        """Examples that are scored."""
        return len(self.positions)

    @property
    def in_memory(self) -> bool:
        """Whether the set is decoded once."""
        return self.backend == "memory"

    def about(self) -> dict[str, Any]:
        """What every result depends on, for its name in the store."""
        return {
            "bundle": self.bundle.digest,
            "examples": hashlib.sha256(self.positions.tobytes()).hexdigest(),
            "recipe": asdict(self.settings.recipe),
            # DALI decodes slightly other pixels than the other loaders, which agree.
            "pixels": "dali" if self.backend == "dali" else "libjpeg-turbo",
            **self.machine(),
        }

    def machine(self) -> dict[str, str]:
        """What arithmetic depends on, besides the number of threads."""
        about = environment(self.device)
        return {
            "device": self.device.type,
            "precision": about["precision"],
            "torch": about["torch"],
            "tamis": about["tamis"],
        }

    def leave_out_damaged(self) -> None:
        """Read every record once, so that all networks see, and all scores cover, the same.

        Raises:
            BundleError: Nothing is left.
        """
        loader = self.evaluation()
        with self.progress.task("look for damage", loader.n_examples) as advance:
            for batch in loader if self.backend != "memory" else ():
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

    def read_test_set(self) -> None:
        """Read every record of the test set once, before hours of training need it.

        Raises:
            BundleError: A damaged record.
        """
        loader = self.testing()  # decodes into memory where the sets fit
        if not self.in_memory:
            with self.progress.task("look through the test set", loader.n_examples) as advance:
                for batch in loader:
                    advance(len(batch.example_ids))

    def evaluation(self, ids: NDArray[np.int64] | None = None) -> Loader:
        """The examples, or those of some ids, in the bundle's order and as they are."""
        return self._open(self.bundle, EVALUATION_BATCH, ids)

    def testing(self) -> Loader:
        """The test set in its order."""
        assert self.test is not None
        return self._open(self.test, EVALUATION_BATCH, None)

    def training(self, seeds: Seeds, ids: NDArray[np.int64] | None = None) -> Loader:
        """The examples, or those of some ids, shuffled and augmented as the recipe says."""
        recipe = self.settings.recipe
        return self._open(
            self.bundle,
            recipe.batch_size,
            ids,
            mode="train",
            seed=seeds.order,
            augmentation=augmentation_for(recipe, seeds),
        )

    def train(
        self,
        seeds: Seeds,
        ids: NDArray[np.int64] | None = None,
        *,
        stop_after: int | None = None,
        observer: Observer | None = None,
        label: str,
    ) -> Trained:
        """Train a fresh network by the recipe, for its epochs of the examples or of some ids.

        Args:
            seeds: Of the network, the order and the augmentation.
            ids: (k,) int64; None for all examples.
            stop_after: See :func:`tamis.training.loop.train`.
            observer: Watches the training.
            label: Names it in the progress.

        Raises:
            As :func:`tamis.training.loop.train`.
        """
        recipe = self.settings.recipe
        n = self.n_examples if ids is None else len(ids)
        return train(
            self.training(seeds, ids),
            recipe,
            self.bundle.n_classes,
            steps=n_steps(n, n, recipe, "epochs"),
            seeds=seeds,
            device=self.device,
            stop_after=stop_after,
            observer=observer,
            progress=self.progress,
            label=label,
        )

    def shuffled(self, batch_size: int, seed: int) -> Loader:
        """The examples shuffled, without augmentation."""
        return self._open(self.bundle, batch_size, None, mode="train", seed=seed)

    def _open(
        self, bundle: Bundle, batch_size: int, ids: NDArray[np.int64] | None, **options: Any
    ) -> Loader:
        recipe = self.settings.recipe
        on_error = self.settings.on_error if bundle is self.bundle else "fail"
        source: Bundle | ImageSet = bundle
        if self.backend == "memory":
            name = str(bundle.path)
            if name not in self._sets:
                self._sets[name] = load_image_set(
                    bundle, recipe.resolution, self.device, on_error=on_error,
                    progress=self.progress, **recipe.decoding,
                )  # fmt: skip
            source = self._sets[name]
        elif ids is None and self.skipped and bundle is self.bundle:
            ids = self.ids
        return open_loader(
            source,
            backend=self.backend,
            batch_size=batch_size,
            resolution=recipe.resolution,
            device=self.device,
            selection=ids,
            on_error=on_error if self.backend != "memory" else "fail",
            **recipe.decoding,
            **options,
        )

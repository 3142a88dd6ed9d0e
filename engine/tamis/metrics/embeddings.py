"""The embeddings of a campaign: computed once, kept with its other results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.cluster import ClusterOptions
from tamis.encoders.base import Encoder
from tamis.encoders.embedding import embed_bundle, embed_examples
from tamis.encoders.embedding_file import open_embeddings
from tamis.encoders.opening import open_encoder
from tamis.encoders.rows import RowSettings, encoder_loader
from tamis.encoders.spec import parse_spec
from tamis.encoders.trained_here import selfsup_encoder
from tamis.encoders.unfinished import left_behind
from tamis.errors import UsageError
from tamis.metrics.context import Context
from tamis.metrics.metric import Metric
from tamis.models.network import Network
from tamis.models.weights import weights_digest
from tamis.prototypes import check_k
from tamis.training.networks import new_network
from tamis.training.selfsup import train_encoder

__all__ = ["EmbeddingWork"]

_EXAMPLES_PER_PROTOTYPE = 10


class EmbeddingWork:
    """Embeddings by the campaign's encoder, or those that were made elsewhere.

    Args:
        context: The campaign's.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._spec = parse_spec(context.settings.encoder)
        self._provenance: dict[str, Any] | None = None

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of prototypes; the first is that of all metrics."""
        context = self._context
        # With a prototype for every few examples, each would be its own prototype.
        most = max(1, context.n_examples // _EXAMPLES_PER_PROTOTYPE)
        return context.settings.k or (min(context.bundle.n_classes, most),)

    def check(self, metrics: Sequence[Metric]) -> None:
        """Refuse encoders, files and numbers of prototypes that cannot be used."""
        context = self._context
        if self._spec.kind == "npy":
            open_embeddings(Path(self._spec.argument), context.bundle)
        elif self._spec.kind != "selfsup":
            _ = self._encoder
        for k in context.settings.k:
            check_k(k, context.n_examples)
        sizes = np.bincount(context.labels)
        if any(metric.name == "prototypes" for metric in metrics) and sizes.max() < 2:
            raise UsageError(
                "--metrics prototypes",
                expected="classes of several examples",
                found="one example in every class, which is its own mean",
                do="use selfsup-prototypes, or a larger set",
            )

    def are_there(self) -> bool:
        """Whether they were computed before, here or elsewhere."""
        return self._spec.kind == "npy" or (self._file is not None and self._file.exists())

    def needs_encoder(self) -> bool:
        """Whether a network has to be trained before the embeddings can be computed."""
        if self._spec.kind != "selfsup" or self.are_there():
            return False
        return not self._context.store.holds(self._encoder_name)

    def train_encoder(self) -> None:
        """Train it on the examples that are scored, and keep it."""
        context, settings = self._context, self._context.settings
        model = train_encoder(
            context.shuffled(settings.selfsup.batch_size, settings.seed),
            settings.recipe,
            settings.selfsup,
            seed=settings.seed,
            device=context.device,
            progress=context.progress,
        )
        context.store.save_model(self._encoder_name, model)
        context.store.save(self._encoder_name, {"network": np.array(weights_digest(model))})

    @property
    def _encoder_name(self) -> str:
        return self._context.store.name("encoder", 0, **self._about())

    @property
    def bytes_of_selfsup(self) -> int:
        """On disk, of embeddings by the encoder that is trained here; of others 0."""
        if self._spec.kind != "selfsup":
            return 0
        recipe = self._context.settings.recipe
        n_columns = new_network(recipe, 1, 0).n_features
        return 4 * self._context.n_examples * n_columns

    def rows(self) -> NDArray[np.float32]:
        """(n, d) float32, mapped from a file where there is one."""
        context = self._context
        if self._spec.kind == "npy":
            return self._read(Path(self._spec.argument))
        if self._file is None:
            self._provenance = self._encoder.provenance()
            loader = encoder_loader(
                context.bundle,
                self._encoder,
                context.device,
                RowSettings(backend=self._backend, on_error=context.settings.on_error),
                selection=context.ids,
                progress=context.progress,
            )
            return embed_examples(self._encoder, loader, progress=context.progress)
        if not self._file.exists():
            self._embed(self._file)
        return self._read(self._file)

    def make(self, cluster: ClusterOptions) -> None:
        """Have a cluster make the file of them, where it is missing and a cluster can."""
        if self._file is None or self.are_there():
            return
        if self._backend != "memory" or self._context.settings.on_error != "skip":
            self._embed(self._file, cluster)

    def _embed(self, out: Path, cluster: ClusterOptions | None = None) -> None:
        context = self._context
        out.parent.mkdir(parents=True, exist_ok=True)

        def embed(*, resume: bool) -> None:
            embed_bundle(
                context.bundle,
                self._encoder,
                out,
                context.device,
                backend=self._backend,
                on_error=context.settings.on_error,
                overwrite=not resume,
                resume=resume,
                cluster=cluster,
                progress=context.progress,
            )

        try:
            embed(resume=bool(left_behind(out)))
        except UsageError:
            if not left_behind(out):
                raise
            embed(resume=False)  # what was left belongs to another loader or version

    def provenance(self) -> dict[str, Any]:
        """What the scores depend on; after :meth:`rows`."""
        settings = self._context.settings
        return {
            "encoder": settings.encoder,
            "embeddings": self._provenance,
            "k": self.ks[0],
            "seed": settings.seed,
        }

    def _read(self, path: Path) -> NDArray[np.float32]:
        context = self._context
        found = open_embeddings(path, context.bundle)
        self._provenance = found.provenance
        rows = found.rows
        if context.n_examples < len(rows):
            rows = rows[context.positions]
        return np.asarray(rows, np.float32)

    @cached_property
    def _encoder(self) -> Encoder:
        context, settings = self._context, self._context.settings
        if self._spec.kind == "selfsup":
            return selfsup_encoder(
                self._selfsup_network(),
                settings.recipe,
                settings.selfsup,
                context.device,
                seed=settings.seed,
            )
        side = settings.recipe.resolution if self._spec.kind == "pixels" else None
        return open_encoder(
            settings.encoder, context.device, resolution=side, decoding=settings.recipe.decoding
        )

    def _selfsup_network(self) -> Network:
        """Trained once, then kept."""
        if not self._context.store.holds(self._encoder_name):
            self.train_encoder()
        return self._context.store.load_model(self._encoder_name, self._context.device)

    def _about(self) -> dict[str, Any]:
        settings = self._context.settings
        about = self._context.about()
        if self._spec.kind == "selfsup":  # known by what it will be trained with
            return about | {"encoder": [asdict(settings.selfsup), settings.seed]}
        return about | {"encoder": self._encoder.provenance()}

    @property
    def _backend(self) -> str:
        """The campaign's for images of its size; decoding others into memory does not pay."""
        context = self._context
        same = self._encoder.resolution == context.settings.recipe.resolution
        return context.backend if same else context.settings.loader

    @cached_property
    def _file(self) -> Path | None:
        """Where they are kept; None where nothing is."""
        store = self._context.store
        return store.path(f"{store.name('embeddings', 0, **self._about())}.npy")

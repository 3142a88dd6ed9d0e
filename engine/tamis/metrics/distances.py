"""Metrics of where an example's embedding lies among the others."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tamis.duplicates import semdedup_scores
from tamis.metrics.evidence import Embedded
from tamis.metrics.metric import FromEmbeddings, Metric
from tamis.prototypes import (
    class_median_distance,
    class_prototype_distance,
    kmeans_prototypes,
    nearest_prototype_distance,
)
from tamis.zcore import ZCoreSettings, zcore_scores

__all__ = ["METRICS"]


def _own_class(embedded: Embedded) -> NDArray[Any]:
    return class_prototype_distance(embedded.rows, embedded.labels)


def _nearest(embedded: Embedded) -> NDArray[Any]:
    prototypes = kmeans_prototypes(embedded.rows, embedded.k, seed=embedded.examples.seed)
    return nearest_prototype_distance(embedded.rows, prototypes)


def _median(embedded: Embedded) -> NDArray[Any]:
    return class_median_distance(embedded.rows, embedded.labels)


def _semdedup(embedded: Embedded) -> NDArray[Any]:
    examples = embedded.examples
    return semdedup_scores(embedded.rows, examples.ids, embedded.k, seed=examples.seed, overlap=2)


def _zcore(embedded: Embedded) -> NDArray[Any]:
    settings = ZCoreSettings(seed=embedded.examples.seed)
    return zcore_scores(embedded.rows, embedded.examples.ids, settings, progress=embedded.progress)


_PAPER = "Sorscher et al. 2022, arXiv:2206.14486"

METRICS = (
    Metric(
        "prototypes",
        "far from its class's mean embedding",
        labels=True,
        reading=FromEmbeddings(_own_class),
        source=f"1 − cos to the own class's centroid; {_PAPER}",
    ),
    Metric(
        "selfsup-prototypes",
        "far from every prototype",
        labels=False,
        reading=FromEmbeddings(_nearest, takes_long=True),
        source=f"1 − cos to the nearest k-means centroid; {_PAPER}",
    ),
    Metric(
        "class-median",
        "far from its class's median embedding",
        labels=True,
        reading=FromEmbeddings(_median),
        source="Euclidean distance to the median of the own class; keep its middle with"
        " --side moderate; Xia et al. 2023, openreview 7D5EECbOaf9",
    ),
    Metric(
        "semdedup",
        "unlike every harder example near it",
        labels=False,
        reading=FromEmbeddings(_semdedup, takes_long=True),
        source="1 − largest cosine to an example that lies farther from the prototype, in the two"
        " nearest clusters; below eps: a duplicate; Abbas et al. 2023, arXiv:2303.09540",
    ),
    Metric(
        "zcore",
        "covers a part of the embedding space that no other does",
        labels=False,
        reading=FromEmbeddings(_zcore, takes_long=True),
        source="coverage of sampled points less redundancy with neighbours; Griffin et al. 2024,"
        " arXiv:2411.15349",
    ),
)

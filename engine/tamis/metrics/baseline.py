"""The baseline that every metric is compared with."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tamis.hashing import example_uniform
from tamis.metrics.evidence import Examples
from tamis.metrics.metric import FromExamples, Metric

__all__ = ["METRICS"]


def _uniform(examples: Examples) -> NDArray[Any]:
    return example_uniform(examples.ids, examples.seed, "random metric")


METRICS = (
    Metric(
        "random",
        "nothing",
        labels=False,
        reading=FromExamples(_uniform),
        source="uniform in [0, 1), hashed from seed and id; the baseline of every table",
    ),
)

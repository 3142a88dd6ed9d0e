"""The registry: every metric, its direction, what it needs and where it comes from."""

from __future__ import annotations

from tamis.errors import UsageError
from tamis.metrics import (
    acquisition,
    baseline,
    distances,
    label_errors,
    memorization,
    presentations,
    snapshots,
    tdds,
    windows,
)
from tamis.metrics.metric import Metric, Needs

__all__ = ["GROUPS", "METRICS", "get_metrics"]

# One line a family; the order is that of `tamis metrics` and of score tables.
_FAMILIES = (
    baseline,
    snapshots,
    presentations,
    windows,
    tdds,
    memorization,
    label_errors,
    acquisition,
    distances,
)

METRICS: dict[str, Metric] = {
    metric.name: metric for family in _FAMILIES for metric in family.METRICS
}

_QUICK = (Needs.IDS, Needs.EARLY_RUNS, Needs.FULL_RUNS, Needs.EMBEDDINGS)
# Hundreds of backward passes in one: only when it is asked for by name.
_BY_NAME_ONLY = ("grand-full",)

GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(name for name in METRICS if name not in _BY_NAME_ONLY),
    "quick": tuple(
        name
        for name, metric in METRICS.items()
        if metric.needs in _QUICK and name not in _BY_NAME_ONLY
    ),
    "paper": (
        "random",
        "el2n-1",
        "el2n",
        "forgetting",
        "memorization",
        "influence-max",
        "influence-sum-abs",
        "active-learning",
        "ddd",
        "prototypes",
        "selfsup-prototypes",
    ),
}
"""Names that stand for several metrics."""


def get_metrics(names: list[str]) -> list[Metric]:
    """Metrics by name, without repetitions, in the registry's order for groups.

    Args:
        names: Of metrics or of :data:`GROUPS`.

    Raises:
        UsageError: An unknown name, or none.
    """
    wanted = dict.fromkeys(name for given in names for name in GROUPS.get(given, (given,)))
    unknown = [name for name in wanted if name not in METRICS]
    if unknown or not wanted:
        raise UsageError(
            "--metrics",
            expected=f"{', '.join(GROUPS)}, or some of " + ", ".join(METRICS),
            found=", ".join(unknown) or "none",
            do="see them with: tamis metrics",
        )
    return [METRICS[name] for name in wanted]

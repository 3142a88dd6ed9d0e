"""The registry: every metric, its direction, what it needs and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tamis.errors import UsageError

__all__ = ["METRICS", "Metric", "Needs", "get_metrics"]


class Needs(Enum):
    """What a metric is computed from."""

    IDS = "nothing but the example ids"
    DYNAMICS = "training runs on the bundle"
    EMBEDDINGS = "embeddings of an encoder"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in ``--metrics`` and in score tables.
        high_means: What a high stored score says of an example.
        flipped: Whether the paper's quantity was negated so that high is hard.
        labels: Whether labels are used.
        needs: What it is computed from.
        cost: In trainings of the full set, for people.
        source: Paper and formula.
        version: Raised when the same input would give other scores.
    """

    name: str
    high_means: str
    flipped: bool
    labels: bool
    needs: Needs
    cost: str
    source: str
    version: int = 1


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "random", "nothing", False, False, Needs.IDS, "0",
            "uniform in [0, 1), hashed from seed and id; the baseline of every table",
        ),
        Metric(
            "loss", "large loss", False, True, Needs.DYNAMICS, "1 per model",
            "mean −log p_y at the end of training",
        ),
        Metric(
            "el2n", "large error early in training", False, True, Needs.DYNAMICS, "1 per model",
            "mean ‖softmax − onehot‖₂ after half of the epochs;"
            " Paul et al. 2021, arXiv:2107.07075",
        ),
        Metric(
            "margin", "small or negative margin", True, True, Needs.DYNAMICS, "1 per model",
            "−(z_y − max other z) at the end of training; cf. Pleiss et al. 2020, arXiv:2001.10528",
        ),
        Metric(
            "entropy", "uncertain prediction", False, False, Needs.DYNAMICS, "1 per model",
            "mean −Σ p log p at the end of training; labels only train the models",
        ),
        Metric(
            "forgetting", "often forgotten, or never learned", False, True, Needs.DYNAMICS,
            "1 per model",
            "correct → wrong transitions between presentations, never learned = number of"
            " epochs; Toneva et al. 2019, arXiv:1812.05159",
        ),
        Metric(
            "prototypes", "far from its class's mean embedding", False, True, Needs.EMBEDDINGS,
            "one encoder",
            "1 − cos to the own class's centroid; Sorscher et al. 2022, arXiv:2206.14486",
        ),
        Metric(
            "selfsup-prototypes", "far from every prototype", False, False, Needs.EMBEDDINGS,
            "one encoder",
            "1 − cos to the nearest k-means centroid; Sorscher et al. 2022, arXiv:2206.14486",
        ),
    )
}  # fmt: skip


def get_metrics(names: list[str]) -> list[Metric]:
    """Metrics by name, without repetitions; ``all`` stands for every one.

    Raises:
        UsageError: An unknown name, or none.
    """
    wanted = list(METRICS) if names == ["all"] else list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in METRICS]
    if unknown or not wanted:
        raise UsageError(
            "--metrics",
            expected="all, or some of " + ", ".join(METRICS),
            found=", ".join(unknown) or "none",
            do="see them with: tamis metrics",
        )
    return [METRICS[name] for name in wanted]

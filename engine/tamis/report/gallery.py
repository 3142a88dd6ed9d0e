"""Images that say what a metric means: its hardest and easiest, and where it stands alone."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.pixels import decode_image
from tamis.hashing import example_hash
from tamis.images import encode_jpeg, encode_png, resize_to_side
from tamis.score_table import ScoreTable

__all__ = ["Gallery", "GalleryRow", "Picture", "Strip", "gallery"]

_THUMBNAIL = 128
_LOSSLESS = 64  # images as small as this are shown pixel by pixel
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """One example, shown once or several times.

    Attributes:
        example_id: Its id.
        uri: The image as a data URI: PNG up to 64 pixels a side, JPEG above.
        width: Of that image.
        height: Of that image.
        path: Its source path, or "".
        label: Its class name.
        scores: Metric → score.
        ranks: Metric → share of the examples that are easier, ties counted half.
    """

    example_id: int
    uri: str
    width: int
    height: int
    path: str
    label: str
    scores: dict[str, float]
    ranks: dict[str, float]


@dataclass(frozen=True)
class Strip:
    """Some examples in a row, the most extreme first.

    Attributes:
        title: What they have in common.
        example_ids: Keys of the gallery's pictures.
        others: Of a strip of disagreement each one's mean rank by the other metrics, else empty.
    """

    title: str
    example_ids: tuple[int, ...]
    others: tuple[float, ...] = ()


@dataclass(frozen=True)
class GalleryRow:
    """The strips of one metric; ``high_means`` is what its scores say, or ""."""

    metric: str
    high_means: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Gallery:
    """Every picture once, and the strips that show them."""

    pictures: dict[int, Picture]
    rows: tuple[GalleryRow, ...]


def gallery(bundle: Bundle, table: ScoreTable, count: int = 12) -> Gallery:
    """The hardest and easiest images of every metric but random, and its disagreements.

    A disagreement is a large difference between an example's rank by the metric and the mean of its
    ranks by all others: what this metric sees and they do not. Of two metrics one says it all.

    Args:
        bundle: The training bundle.
        table: Scores of its examples, or of some of them.
        count: Images in a strip; half of it in one of disagreement.

    Raises:
        BundleError: A record that does not decode.
    """
    metrics = [metric for metric in table.columns if metric != "random"]
    ranks = {metric: _ranks(table.columns[metric].values) for metric in metrics}
    ties = example_hash(table.example_ids, 0, "tie")
    total = np.sum(list(ranks.values()), axis=0)
    rows = []
    for metric in metrics:
        order = np.lexsort((ties, -table.columns[metric].values))
        strips = [
            Strip("hardest", _ids(table, order[:count])),
            Strip("easiest", _ids(table, order[::-1][:count])),
        ]
        if len(metrics) > 2 or metric != metrics[-1]:
            others = (total - ranks[metric]) / (len(metrics) - 1)
            apart = np.lexsort((ties, others - ranks[metric]))
            whom = "the others" if len(metrics) > 2 else metrics[1]
            for kind, places in (("harder", apart), ("easier", apart[::-1])):
                chosen = places[: count // 2]
                means = tuple(others[chosen].tolist())
                strips.append(Strip(f"much {kind} than by {whom}", _ids(table, chosen), means))
        high_means = table.columns[metric].info.get("high_means", "")
        rows.append(GalleryRow(metric, high_means, tuple(strips)))
    shown = {example for row in rows for strip in row.strips for example in strip.example_ids}
    places = np.flatnonzero(np.isin(table.example_ids, list(shown)))
    return Gallery(_pictures(bundle, table, ranks, places), tuple(rows))


def _ids(table: ScoreTable, places: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(table.example_ids[places].tolist())


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy import stats

    ranks: NDArray[np.float64] = stats.rankdata(values)
    return ((ranks - 0.5) / len(values)).astype(np.float32)


def _pictures(
    bundle: Bundle,
    table: ScoreTable,
    ranks: dict[str, NDArray[np.float32]],
    places: NDArray[np.int64],
) -> dict[int, Picture]:
    names = bundle.class_names
    pictures = {}
    positions = bundle.positions(table.example_ids[places])
    for place, position in zip(places.tolist(), positions.tolist(), strict=True):
        example = int(table.example_ids[place])
        uri, width, height = _thumbnail(bundle, position)
        pictures[example] = Picture(
            example,
            uri,
            width,
            height,
            table.paths[place] or "",
            names[int(table.labels[place])],
            {metric: float(table.columns[metric].values[place]) for metric in ranks},
            {metric: float(rank[place]) for metric, rank in ranks.items()},
        )
    return pictures


def _thumbnail(bundle: Bundle, position: int) -> tuple[str, int, int]:
    """Data URI, width and height."""
    stored = decode_image(bundle, position)
    pixels = np.ascontiguousarray(resize_to_side(stored, _THUMBNAIL))
    height, width = pixels.shape[:2]
    small = max(height, width) <= _LOSSLESS
    kind, data = ("png", encode_png(pixels)) if small else ("jpeg", encode_jpeg(pixels, _QUALITY))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height

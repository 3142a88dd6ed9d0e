"""The hardest and easiest images of each metric, as they are in the bundle."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.pixels import decode_image
from tamis.hashing import example_hash
from tamis.images import encode_png, resize_to_side
from tamis.score_table import ScoreTable

__all__ = ["GalleryImage", "GalleryRow", "gallery"]

_THUMBNAIL = 96


@dataclass(frozen=True)
class GalleryImage:
    """One thumbnail.

    Attributes:
        uri: The image as a PNG data URI.
        example_id: Its id.
        path: Its source path, or "".
        label: Its class name or label.
        score: Its score.
    """

    uri: str
    example_id: int
    path: str
    label: str
    score: float


@dataclass(frozen=True)
class GalleryRow:
    """The extremes of one metric, the most extreme first."""

    metric: str
    hardest: tuple[GalleryImage, ...]
    easiest: tuple[GalleryImage, ...]


def gallery(bundle: Bundle, table: ScoreTable, count: int = 12) -> list[GalleryRow]:
    """The ``count`` hardest and easiest images of every metric but random.

    Raises:
        BundleError: A record that does not decode.
    """
    ties = example_hash(table.example_ids, 0, "tie")
    rows = []
    for metric, column in table.columns.items():
        if metric == "random":
            continue
        order = np.lexsort((ties, -column.values))
        hardest = _images(bundle, table, metric, order[:count])
        easiest = _images(bundle, table, metric, order[::-1][:count])
        rows.append(GalleryRow(metric, hardest, easiest))
    return rows


def _images(
    bundle: Bundle, table: ScoreTable, metric: str, rows: NDArray[np.int64]
) -> tuple[GalleryImage, ...]:
    images = []
    for row, position in zip(rows, bundle.positions(table.example_ids[rows]), strict=True):
        pixels = resize_to_side(decode_image(bundle, int(position)), _THUMBNAIL)
        data = base64.b64encode(encode_png(np.ascontiguousarray(pixels))).decode()
        label = int(table.labels[row])
        names = bundle.classes or ()
        images.append(
            GalleryImage(
                f"data:image/png;base64,{data}",
                int(table.example_ids[row]),
                table.paths[row] or "",
                names[label] if label < len(names) else str(label),
                float(table.columns[metric].values[row]),
            )
        )
    return tuple(images)

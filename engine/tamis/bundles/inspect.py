"""What a bundle holds, without reading a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import RAW_MODE, FieldType

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True)
class Inspection:
    """A bundle at a glance; sizes in bytes, ``sides`` in pixels.

    Attributes:
        classes: Label or class name → number of examples; empty without a label field.
        modes: "jpeg" and "raw" → number of images; empty without an image field.
        sides: Smallest and largest width and height, or None without an image field.
        manifest: Provenance, or None if plain FFCV wrote the bundle.
    """

    n_examples: int
    bytes: int
    page_size: int
    fields: tuple[dict[str, str], ...]
    classes: dict[str, int]
    modes: dict[str, int]
    sides: dict[str, tuple[int, int]] | None
    manifest: dict[str, Any] | None


def inspect(bundle: Bundle) -> Inspection:
    """Summarise an opened bundle. O(n)."""
    types = [field.type for field in bundle.fields]
    modes: dict[str, int] = {}
    sides: dict[str, tuple[int, int]] | None = None
    if FieldType.RGB_IMAGE in types:
        rows = bundle.metadata[f"f{bundle.image_field}"]
        n_raw = int((rows["mode"] == RAW_MODE).sum())
        modes = {"jpeg": bundle.n_examples - n_raw, "raw": n_raw}
        sides = {
            side: (int(rows[side].min()), int(rows[side].max())) for side in ("width", "height")
        }
    return Inspection(
        n_examples=bundle.n_examples,
        bytes=len(bundle.data),
        page_size=bundle.page_size,
        fields=tuple({"name": f.name, "type": f.type.name.lower()} for f in bundle.fields),
        classes=_histogram(bundle) if FieldType.INT in types else {},
        modes=modes,
        sides=sides,
        manifest=bundle.manifest.to_dict() if bundle.manifest else None,
    )


def _histogram(bundle: Bundle) -> dict[str, int]:
    values, counts = np.unique(bundle.labels, return_counts=True)
    names = bundle.classes or ()
    return {
        names[value] if 0 <= value < len(names) else str(value): int(count)
        for value, count in zip(values.tolist(), counts, strict=True)
    }

"""Proving a bundle record by record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tamis.bundles.beton import Bundle
from tamis.bundles.layout import JPEG_MODE, FieldType
from tamis.images import ImageError, decode_jpeg, scan_jpeg
from tamis.progress import QUIET, Progress

__all__ = ["Damage", "VerifyReport", "verify"]


@dataclass(frozen=True)
class Damage:
    """One damaged example: where it stands, which one it is, and what is wrong."""

    position: int
    example_id: int
    path: str | None
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The verdict on a bundle whose structure was found sound on opening.

    Attributes:
        ok: No damage.
        n_examples: Examples looked at.
        checksums: Whether there were checksums to compare (a trailer).
        damaged: The damaged examples in the bundle's order.
    """

    path: Path
    ok: bool
    n_examples: int
    checksums: bool
    damaged: tuple[Damage, ...]


def verify(bundle: Bundle, *, deep: bool = False, progress: Progress = QUIET) -> VerifyReport:
    """Compare every record with its checksum and every JPEG's header with its stored size.

    :func:`tamis.bundles.beton.open_bundle` has checked the structure before.

    Args:
        bundle: An opened bundle.
        deep: Also decode every image.
        progress: Told of every example.
    """
    damaged: list[Damage] = []
    with progress.task(f"verify {bundle.path.name}", bundle.n_examples) as advance:
        for position in range(bundle.n_examples):
            reason = next(_faults(bundle, position, deep), None)
            if reason is not None:
                path = bundle.paths[position].as_py() if bundle.paths is not None else None
                damaged.append(Damage(position, int(bundle.example_ids[position]), path, reason))
            advance()
    return VerifyReport(
        bundle.path, not damaged, bundle.n_examples, bundle.trailer is not None, tuple(damaged)
    )


def _faults(bundle: Bundle, position: int, deep: bool) -> Iterator[str]:
    if bundle.trailer is not None:
        expected = int(bundle.trailer.checksums[position])
        if bundle.checksum(position) != expected:
            yield "the record's bytes do not match its checksum"
    for column, index in enumerate(bundle.payload_fields):
        if bundle.fields[index].type is not FieldType.RGB_IMAGE:
            continue
        row = bundle.metadata[f"f{index}"][position]
        if row["mode"] != JPEG_MODE:
            continue  # raw pixels: their size was checked on opening
        offset, size = bundle.extents[position, column]
        record = bundle.data[offset : offset + size]
        stored = (int(row["width"]), int(row["height"]))
        try:
            info = scan_jpeg(record)
            if not info.plain:
                yield "a JPEG that FFCV does not decode to RGB (CMYK, 12-bit or arithmetic)"
            if (info.width, info.height) != stored:
                yield f"the JPEG is {info.width} × {info.height}, the table says {stored}"
            if deep:
                height, width = decode_jpeg(record).shape[:2]
                if (width, height) != stored:
                    yield f"the JPEG decodes to {width} × {height}, the table says {stored}"
        except ImageError as error:
            yield str(error)

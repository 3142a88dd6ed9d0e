"""Provenance: what a bundle was made from, by what, with which settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from tamis import __version__
from tamis.errors import BundleError, first_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["MANIFEST_FORMAT", "Manifest", "Parent"]

MANIFEST_FORMAT = "tamis-manifest/1"


@dataclass(frozen=True)
class Parent:
    """A bundle that another bundle was made from.

    Attributes:
        digest: Its content digest (see :meth:`tamis.bundles.bundle.Bundle.digest`).
        n_examples: How many examples it held.
        path: Where it lay, as the caller wrote it; for people only.
        root: Whether it has no parents itself.
    """

    digest: str
    n_examples: int
    path: str
    root: bool


@dataclass(frozen=True)
class Manifest:
    """The provenance of a bundle; travels inside it as JSON.

    It holds no times and no host names, so that the same work gives the same bytes.

    Attributes:
        operation: The command that wrote the bundle ("convert", "cut", "merge", "shard").
        settings: That command's settings.
        classes: Class names in label order, or None where the source names none.
        parents: The bundles it descends from, nearest first; empty for converted images. Their
            example ids mean the same examples here.
        skipped: Examples left out on the way: ``{"path": …, "reason": …}``.
        tamis_version: The version that wrote it.
    """

    operation: str
    settings: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    parents: tuple[Parent, ...] = ()
    skipped: tuple[dict[str, str], ...] = ()
    tamis_version: str = __version__

    @property
    def full_examples(self) -> int | None:
        """Examples in the oldest ancestors: the full set that a pruned bundle is a part of."""
        return sum(parent.n_examples for parent in self.parents if parent.root) or None

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON types."""
        return {"format": MANIFEST_FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """The manifest as one line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse a manifest.

        Raises:
            BundleError: The text is not a manifest of a known format.
        """
        from pydantic import ValidationError

        try:
            raw = json.loads(text)
            if not isinstance(raw, dict) or raw.pop("format", None) != MANIFEST_FORMAT:
                raise ValueError("another format")
            return _adapter().validate_python(raw)
        except (ValueError, ValidationError, RecursionError) as error:
            raise BundleError(
                "manifest",
                expected=f"JSON of the format {MANIFEST_FORMAT}",
                found=f"something else ({first_line(error)})",
                do="read it with the tamis version that wrote it, or convert the images again",
            ) from error


@cache
def _adapter() -> TypeAdapter[Manifest]:
    """Built once: that takes a millisecond, as long as opening a small bundle."""
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)

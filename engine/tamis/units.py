"""Numbers for people."""

from __future__ import annotations

__all__ = ["number_text", "size_text"]


def number_text(value: float) -> str:
    """Three digits at least, grouped."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size_text(n_bytes: float) -> str:
    """Bytes for people: kB up to a million, MB up to a billion, then GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.2f} {unit}"
    return f"{n_bytes / 1e3:,.1f} kB"

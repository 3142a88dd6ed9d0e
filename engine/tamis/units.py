"""Numbers for people."""

from __future__ import annotations

__all__ = ["duration_text", "number_text", "size_text"]


def number_text(value: float) -> str:
    """Three digits at least, grouped."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration_text(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours; two digits at least."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return (
                f"{seconds / size:,.2g} {unit}"
                if seconds < 10 * size
                else f"{seconds / size:,.0f} {unit}"
            )
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def size_text(n_bytes: float) -> str:
    """Bytes for people: kB up to a million, MB up to a billion, then GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.2f} {unit}"
    return f"{n_bytes / 1e3:,.1f} kB"

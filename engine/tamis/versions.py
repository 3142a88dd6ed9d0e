"""Which state of the code is running."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

__all__ = ["source_commit"]


@cache
def source_commit() -> str | None:
    """Commit of the checkout that this runs from, with -dirty for changes; None of a package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package may lie in somebody else's checkout
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

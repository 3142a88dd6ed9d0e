"""Libraries that some encoders need and that tamis does not install."""

from __future__ import annotations

from tamis.encoders.base import unusable
from tamis.errors import UsageError, first_line

__all__ = ["missing_library"]


def missing_library(spec: str, library: str, install: str, error: Exception) -> UsageError:
    """The error that says what to install.

    Args:
        spec: The encoder that needs it.
        library: Its name.
        install: What pip calls it.
        error: What importing it raised: it may also be there and not fit torch.
    """
    absent = isinstance(error, ModuleNotFoundError)
    return unusable(
        spec,
        expected=f"the library {library}",
        found="none" if absent else f"one that cannot be imported ({first_line(error)})",
        do=f"run: pip install {install}" + ("" if absent else ", in versions that fit each other"),
    )

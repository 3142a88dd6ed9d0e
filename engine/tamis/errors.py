"""Every error that tamis raises on purpose.

::

    TamisError                 wrong usage or unusable input: exit code 2
    ├── UsageError             options that contradict each other or are out of range
    ├── SourceError            images that cannot be read or labelled
    ├── BundleError            a file that is not a bundle that can be used here
    │   └── DamagedBundleError a bundle that contradicts itself
    ├── ScoreTableError        a score table that does not fit
    ├── WorkFailedError        the work itself failed: exit code 1
    └── InterruptedRunError    a signal ended a training that can go on: exit code 130

Each message is one line and says what was expected, what was found, and what to do.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "DamagedBundleError",
    "ImageError",
    "InterruptedRunError",
    "ScoreTableError",
    "SourceError",
    "TamisError",
    "UsageError",
    "WorkFailedError",
    "first_line",
    "printable",
]


class TamisError(Exception):
    """Base of the errors raised on purpose; ``str(error)`` is one line.

    Args:
        subject: The file, option or example that the error is about.
        expected: What would have been right.
        found: What is there instead.
        do: The next step for the reader, as a command or an imperative.
    """

    exit_code = 2

    def __init__(self, subject: object, *, expected: str, found: str, do: str) -> None:
        self.subject, self.expected, self.found, self.do = str(subject), expected, found, do
        line = f"{subject}: expected {expected}, found {found}; {do}"
        super().__init__(printable(" ".join(line.split())))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their arguments; a worker's error keeps its four parts.
        return (_restored, (type(self), self.subject, self.expected, self.found, self.do))


def _restored(
    kind: type[TamisError], subject: str, expected: str, found: str, do: str
) -> TamisError:
    return kind(subject, expected=expected, found=found, do=do)


class UsageError(TamisError):
    """Options that contradict each other or lie outside their range."""


class SourceError(TamisError):
    """Images that cannot be listed, read, decoded or labelled."""


class BundleError(TamisError):
    """A file that is not a sound bundle, or not the one that was asked for."""


class DamagedBundleError(BundleError):
    """A bundle whose structure contradicts itself, or a file that is none."""


class ScoreTableError(TamisError):
    """A score table or selection that is unreadable or belongs to another bundle."""


class WorkFailedError(TamisError):
    """The input was fine and the work failed all the same."""

    exit_code = 1


class InterruptedRunError(TamisError):
    """A training was asked to stop, and has kept what it takes to go on."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What a foreign exception says, as one short line; its type where it says nothing."""
    if isinstance(error, FileNotFoundError):
        return "no file"
    if isinstance(error, UnicodeDecodeError):
        return f"bytes that are not {error.encoding.upper()} text"
    says = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = says.split("\n")
    return next((line.strip()[:200] for line in lines if line.strip()), type(error).__name__)


def printable(text: str) -> str:
    """Text from files, with what would move a cursor or break a line escaped."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


class ImageError(ValueError):
    """Bytes that are not a whole, readable image; the message says what is wrong.

    Not a :class:`TamisError`: whoever knows the file turns it into one.
    """

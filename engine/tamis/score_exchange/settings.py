"""What the person who imports scores has to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tamis.errors import UsageError

__all__ = ["ImportSettings", "wanted_columns"]

_IDENTITY = ("example_id", "path", "label")
# How CCS (haizhongzheng/Coverage-centric-coreset-selection) writes its pickles.
_CCS = {
    "accumulated_margin": "easier",
    "correctness": "easier",
    "el2n": "harder",
    "entropy": "harder",
    "forgetting": "harder",
    "last_correctness": "easier",
    "loss": "harder",
}


@dataclass(frozen=True)
class ImportSettings:
    """How a file of scores is to be understood.

    Attributes:
        metrics: ``NAME`` or ``NAME=COLUMN``; empty takes every column under its own name.
        higher: What a higher number means, ``harder`` or ``easier``, for all metrics; or
            ``NAME=harder`` for one. Nothing is assumed.
        listed: Of a list of paths: whether it names the ``kept`` or the ``removed`` examples.
        missing: At examples without a score, or listed paths without an example: ``fail``, or
            ``drop`` them.
        ignore_labels: Whether labels in the file are not compared with the bundle's.
    """

    metrics: tuple[str, ...] = ()
    higher: tuple[str, ...] = ()
    listed: Literal["kept", "removed"] | None = None
    missing: Literal["fail", "drop"] = "fail"
    ignore_labels: bool = False

    def flips(self, metrics: list[str], kind: str) -> dict[str, bool]:
        """Which metrics are turned round, so that a higher score means harder.

        Args:
            metrics: All metrics of the import.
            kind: The file's format; in a ``list`` of paths 1 means kept.

        Raises:
            UsageError: Nobody said what a higher number, or being listed, means; or the answer
                fits another kind of file.
        """
        if kind == "list":
            if self.listed is None or self.higher:
                raise UsageError(
                    "--listed",
                    expected="kept or removed: what the file lists",
                    found="--higher, which is about scores" if self.higher else "nothing",
                    do="pass --listed kept, if the listed examples are the ones to train on",
                )
            return dict.fromkeys(metrics, self.listed == "removed")
        if self.listed is not None:
            raise UsageError(
                "--listed",
                expected="a list of paths (.txt)",
                found="a file of scores",
                do="pass --higher harder or --higher easier instead",
            )
        return self._directions(metrics, _CCS if kind == "pickle" else {})

    def _directions(self, metrics: list[str], known: dict[str, str]) -> dict[str, bool]:
        said = {}
        for entry in self.higher:
            name, separator, meaning = entry.rpartition("=")
            if meaning not in ("harder", "easier") or (separator and name not in metrics):
                raise UsageError(
                    "--higher",
                    expected=f"harder or easier, or NAME=harder with a name of {_some(metrics)}",
                    found=entry,
                    do="say what a higher number means",
                )
            said[name] = meaning
        unsaid = [name for name in metrics if name not in said and "" not in said]
        if unsaid:
            usual = ",".join(f"{name}={known[name]}" for name in metrics if name in known)
            raise UsageError(
                "--higher",
                expected="what a higher number means: harder (kept first on the hard side)"
                " or easier",
                found=f"nothing about {_some(unsaid)}",
                do="pass --higher harder or --higher easier"
                + (" or, for each metric, NAME=harder,NAME=easier" if len(metrics) > 1 else "")
                + (f"; as CCS writes them: --higher {usual}" if usual else ""),
            )
        return {name: said.get(name, said.get("")) == "easier" for name in metrics}


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def wanted_columns(available: list[str], metrics: tuple[str, ...]) -> dict[str, str]:
    """Which columns of a file become which metrics.

    Args:
        available: The file's columns.
        metrics: See :class:`ImportSettings`; a single column takes any name.

    Returns:
        Metric → column.

    Raises:
        UsageError: A column that the file lacks, or a name that no metric can have.
    """
    wanted = {name: name for name in available}
    if metrics:
        wanted = {}
        for entry in metrics:
            name, separator, column = entry.partition("=")
            if not separator:
                column = available[0] if len(available) == len(metrics) == 1 else name
            if name in wanted:
                raise UsageError(
                    "--metric", expected="each metric once", found=f"{name} twice", do="rename one"
                )
            wanted[name] = column
    unknown = [column for column in wanted.values() if column not in available]
    if unknown:
        raise UsageError(
            "--metric",
            expected="columns of the file: " + ", ".join(available),
            found=", ".join(unknown),
            do="choose among them, with NAME=COLUMN under another name",
        )
    for name in wanted:
        if name in _IDENTITY or not name.strip() or not name.isprintable() or set(name) & set(",="):
            raise UsageError(
                "--metric",
                expected="a name without commas and equal signs that is not "
                + ", ".join(_IDENTITY),
                found=repr(name),
                do="pass --metric NAME=COLUMN",
            )
    return wanted

"""Early stop of hopeless trials, where a sweep asks for it: the rule, who applies it, the records.

A trial is judged once, by its own accuracy and by nothing else, so that neither the order of the
trials nor the number of workers decides which of them are given up. One that goes on ends with the
weights that it would have had without the rule.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tamis.errors import UsageError
from tamis.models.network import Network
from tamis.sweep.records import Trial
from tamis.sweep.spec import EarlyStopRule

__all__ = [
    "STOPPED",
    "HopelessError",
    "Judge",
    "StoppedTrial",
    "append_stopped",
    "read_stopped",
]

STOPPED = "stopped.jsonl"
"""Beside the records of a sweep: one line for each trial that was given up, only ever appended."""


@dataclass(frozen=True)
class StoppedTrial:
    """A trial that was given up.

    Attributes:
        key: Hash of everything that would have decided its result.
        trial: The cell.
        after: The rule's.
        below: The rule's.
        accuracy: Share of the test set at that point.
        epochs: That it had had by then.
        seconds: That it had taken.
    """

    key: str
    trial: Trial
    after: float
    below: float
    accuracy: float
    epochs: int
    seconds: float

    def is_by(self, rule: EarlyStopRule | None) -> bool:
        """Whether a rule gives this trial up: only the one that did."""
        return rule is not None and (self.after, self.below) == (rule.after, rule.below)


class HopelessError(Exception):
    """Ends a training that is given up; nothing went wrong."""

    def __init__(self, accuracy: float, epochs: int) -> None:
        super().__init__(f"accuracy {accuracy:.4f} after {epochs} epochs")
        self.accuracy, self.epochs = accuracy, epochs


class Judge:
    """Watches a training, and ends it where it is hopeless (:class:`tamis.training.loop.Observer`).

    Args:
        rule: What hopeless is.
        n_epochs: Of the whole training; the last one may be a part.
        accuracy: The network as it is → its share of the test set. Of recipes that average
            weights it is that of the weights that are trained.
    """

    def __init__(
        self, rule: EarlyStopRule, n_epochs: float, accuracy: Callable[[Network], float]
    ) -> None:
        self._rule, self._n_epochs, self._accuracy = rule, n_epochs, accuracy
        self._is_judged = False

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """Nothing: what is judged is the network."""

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        """Judge once, after the first epoch that ends at the rule's share or later.

        The last one is not judged: nothing would be saved.

        Raises:
            HopelessError: The accuracy is below the rule's.
        """
        done = epoch + 1
        is_due = self._rule.after * self._n_epochs <= done < self._n_epochs
        if self._is_judged or not is_due:
            return
        self._is_judged = True
        accuracy = self._accuracy(model)
        if accuracy < self._rule.below:
            raise HopelessError(accuracy, done)


def append_stopped(path: Path, stopped: StoppedTrial) -> None:
    """Keep one record, and wait until it is on the disk; for whoever runs the sweep."""
    with path.open("ab+") as sink:
        sink.truncate(_whole(path.read_bytes()))  # without a last line cut off by a crash
        sink.write(json.dumps(asdict(stopped)).encode() + b"\n")
        sink.flush()
        os.fsync(sink.fileno())


def read_stopped(
    path: Path, rule: EarlyStopRule | None, keys: Iterable[str]
) -> dict[str, StoppedTrial]:
    """Key → what was given up of a sweep.

    Args:
        path: ``stopped.jsonl`` of the sweep's folder, which need not be there.
        rule: The sweep's; what another rule gave up is to be run.
        keys: Of the sweep's trials.

    Raises:
        UsageError: A line that is no record.
    """
    if not path.exists():
        return {}
    own, found = set(keys), dict[str, StoppedTrial]()
    raw = path.read_bytes()
    for number, line in enumerate(raw[: _whole(raw)].splitlines(), start=1):
        try:
            values = json.loads(line)
            stopped = StoppedTrial(**{**values, "trial": Trial(**values["trial"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path}, line {number}",
                expected="a record of a trial that was given up",
                found=repr(line[:60].decode(errors="replace")),
                do="remove that line; its trial runs again",
            ) from error
        if stopped.key in own and stopped.is_by(rule):
            found[stopped.key] = stopped
    return found


def _whole(raw: bytes) -> int:
    """Bytes of all lines that end."""
    return raw.rfind(b"\n") + 1

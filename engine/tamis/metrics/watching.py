"""Watches one training for all metrics at once, in O(n) memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.arrays import to_numpy
from tamis.inference import infer
from tamis.loaders.batch import Loader
from tamis.metrics.metric import Metric, Presentations, RunShape, Snapshot, Tracker, Tracking
from tamis.metrics.store import Arrays
from tamis.models.network import Network
from tamis_kernels import new_statistics, row_scores, score_and_update

__all__ = ["RunWatch", "column_name", "snapshots"]


def column_name(metric: Metric) -> str:
    """How a metric's values of one run are called in the store."""
    return f"{metric.name}@{metric.version}"


def snapshots(
    metrics: Sequence[Metric], model: Network, loader: Loader, device: torch.device
) -> Arrays:
    """Snapshot metrics of a network; column name → (n,) float32 in the loader's order.

    One pass for all that are read off logits, one more for each that is measured.
    """
    found = {column_name(m): np.empty(loader.n_examples, np.float32) for m in metrics}
    readings = {column_name(m): m.reading for m in metrics if isinstance(m.reading, Snapshot)}
    read = {name: one.read for name, one in readings.items() if one.read is not None}
    measured = {name: one.measure for name, one in readings.items() if one.measure is not None}
    done = 0
    for outputs in infer(model, loader, device) if read else ():
        scores = row_scores(outputs.logits, outputs.labels)
        part = slice(done, done + len(outputs.labels))
        for name, function in read.items():
            found[name][part] = to_numpy(function(outputs, scores))
        done = part.stop
    was_training = model.training
    model.eval()
    for name, measure in measured.items():
        found[name][:] = np.concatenate([to_numpy(measure(model, batch)) for batch in loader])
    model.train(was_training)
    return found


class RunWatch:
    """An :class:`tamis.training.loop.Observer` for any set of metrics.

    Memory an example: 16 bytes to find it, 17 for the counters and 8 for each tracked quantity, and
    the trackers': 193 bytes with all metrics, a thousand classes and windows of ten epochs.

    Args:
        metrics: Those read off presentations and trackers.
        example_ids: (n,) int64 ids of the set, in its order.
        shape: Of the training.
    """

    def __init__(
        self, metrics: Sequence[Metric], example_ids: NDArray[np.int64], shape: RunShape
    ) -> None:
        self._metrics, self._shape = metrics, shape
        self._sorter = np.argsort(example_ids, kind="stable")
        self._sorted_ids = example_ids[self._sorter]
        readings = [m.reading for m in metrics if isinstance(m.reading, Presentations)]
        tracked = dict.fromkeys(name for reading in readings for name in reading.tracked)
        like = torch.empty(0, device=shape.device)
        self._statistics = new_statistics(shape.n_examples, tracked=tuple(tracked), like=like)
        makers = dict.fromkeys(
            m.reading.tracker
            for m in metrics
            if isinstance(m.reading, Tracking) and shape.epochs >= m.reading.least_epochs
        )
        self._trackers: list[Tracker] = [make(shape) for make in makers]
        self._epoch = -1

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """Take in one batch as it is trained on."""
        if epoch != self._epoch:
            self._statistics.begin_epoch(epoch)
            self._epoch = epoch
        positions = self._sorter[np.searchsorted(self._sorted_ids, example_ids)]
        at = torch.from_numpy(positions).to(logits.device, non_blocking=True)
        scores = score_and_update(logits, labels, self._statistics, at, distinct=True)
        for tracker in self._trackers:
            tracker.on_batch(epoch, at, logits, scores)

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        """Tell the trackers."""
        for tracker in self._trackers:
            tracker.on_epoch_end(epoch)

    def finish(self) -> Arrays:
        """Column name → (n,) float32 of each metric that the training was long enough for."""
        tracked = {
            name: to_numpy(values)
            for tracker in self._trackers
            for name, values in tracker.finish().items()
        }
        found = {}
        for metric in self._metrics:
            reading = metric.reading
            if isinstance(reading, Presentations):
                values = reading.read(self._statistics, self._epoch + 1)
                found[column_name(metric)] = np.asarray(values, np.float32)
            elif metric.name in tracked:
                found[column_name(metric)] = tracked[metric.name]
        return found

    @property
    def state_bytes(self) -> int:
        """Memory that it holds."""
        own = self._sorter.nbytes + self._sorted_ids.nbytes
        counters = self._statistics.bytes_per_example * self._statistics.n_examples
        return own + counters + sum(tracker.state_bytes for tracker in self._trackers)

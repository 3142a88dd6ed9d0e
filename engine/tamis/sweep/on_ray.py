"""Trials on a Ray cluster: workers that keep their decoded sets and compiled networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tamis.cluster import ClusterOptions, GivenUp, run_on_cluster
from tamis.sweep.records import Trial
from tamis.sweep.runner import Job, Result, Runner

__all__ = ["run_on_ray"]


def run_on_ray(job: Job, trials: Sequence[Trial], options: ClusterOptions) -> Iterator[Result]:
    """Run trials.

    Args:
        job: Their sweep.
        trials: In the order in which they are begun.
        options: Where.

    Yields:
        As they finish.

    Raises:
        TamisError: As :func:`tamis.cluster.run_on_cluster`, or :class:`Runner` in a worker.
    """
    use_gpus = job.device != "cpu"
    for trial, result in run_on_cluster(partial(_open, job), trials, options, use_gpus=use_gpus):
        yield f"{trial}: {result.reason}" if isinstance(result, GivenUp) else result


def _open(job: Job, threads: int) -> Callable[[Trial], Result]:
    return Runner(job, threads).run

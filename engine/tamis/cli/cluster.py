"""Options of the commands whose work can be spread over a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tamis.cluster import ClusterOptions

__all__ = [
    "Address",
    "CpusPerWorker",
    "Executor",
    "GpusPerWorker",
    "RayWorkers",
    "Workers",
    "cluster_options",
]

Executor = Annotated[Literal["local", "ray"], typer.Option(help="Where the work is done.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many at once. Default: 1; with ray as many as the cluster holds.",
        show_default=False,
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        min=1, help="How many at most, with ray. Default: what it holds.", show_default=False
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of a Ray cluster, or auto. Default: one is started here.", show_default=False
    ),
]
CpusPerWorker = Annotated[
    int | None, typer.Option(min=1, help="Cores, with ray. Default: 1.", show_default=False)
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GPUs or a share of one, with ray. Default: 1 where there are any.",
        show_default=False,
    ),
]


def cluster_options(
    executor: str,
    address: str | None,
    workers: int | None,
    cpus: int | None,
    gpus: float | None,
    *,
    workers_here: bool = False,
) -> ClusterOptions | None:
    """What was asked for; None for this machine alone, which may have workers, too.

    Raises:
        UsageError: Options of a cluster without one.
    """
    from tamis.cluster import ClusterOptions
    from tamis.errors import UsageError

    if executor == "ray":
        return ClusterOptions(address, workers, cpus or 1, gpus)
    given = {"--address": address, "--cpus-per-worker": cpus, "--gpus-per-worker": gpus}
    if not workers_here:
        given["--workers"] = workers
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise UsageError(
            ", ".join(unused),
            expected="--executor ray, which they belong to",
            found="--executor local",
            do="pass --executor ray, or leave them out",
        )
    return None

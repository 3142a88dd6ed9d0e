"""Curves of a run for TensorBoard, and for MLflow where it is asked for.

The only file that imports either.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from tamis.atomic import atomic_path
from tamis.errors import UsageError, first_line

__all__ = ["End", "Track", "open_tracks"]

End = Literal["FINISHED", "KILLED", "FAILED"]
"""How a run ended, in MLflow's words; KILLED may be gone on with."""

_MLFLOW_RUN = "mlflow-run"  # in the run's folder: which of MLflow's it is


class Track(Protocol):
    """Takes the numbers of one run."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """What the run was asked for."""

    def number(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""

    def close(self, end: End) -> None:
        """Write what is left."""


def open_tracks(out: Path, name: str, also: str | None, *, resume: bool = False) -> list[Track]:
    """TensorBoard's event file in ``out``, and another tracker.

    In TensorBoard a run that goes on hides the epochs that were lost when it was killed, each curve
    from its first new point on; MLflow shows them twice.

    Args:
        out: The run's folder; made where it is missing.
        name: The run's, for MLflow.
        also: ``mlflow``: the server of ``MLFLOW_TRACKING_URI``, or the folder ``mlruns`` beside
            ``out``; None for none.
        resume: Go on with the run that MLflow has been told of, if it still knows that. Otherwise
            what an earlier run has left is taken away.

    Raises:
        UsageError: MLflow is not installed, or its server does not answer.
    """
    # First the one that may fail: nothing is left of a run that does not begin.
    tracks = [_open_mlflow(out, name, resume)] if also == "mlflow" else []
    out.mkdir(exist_ok=True)
    if not resume:
        for old in (*out.glob("events.out.tfevents.*"), out / _MLFLOW_RUN):
            old.unlink(missing_ok=True)
    for track in tracks:
        track.note(out)
    return [_TensorBoard(out), *tracks]


class _TensorBoard:
    def __init__(self, out: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what TensorBoard itself imports
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams
        self._open: Any = partial(SummaryWriter, str(out))
        self._hparams = hparams
        self._writer: Any = None
        self._settings: Mapping[str, Any] = {}

    def settings(self, values: Mapping[str, Any]) -> None:
        self._settings = values

    def number(self, name: str, value: float, step: int) -> None:
        if self._writer is None:  # only now it is known with which epoch it goes on
            self._writer = self._open(purge_step=step)
            self._write_settings()
        self._writer.add_scalar(name, value, step)

    def _write_settings(self) -> None:
        values = self._settings
        text = "\n".join(f"    {key}: {value}" for key, value in values.items())
        self._writer.add_text("settings", text)
        # For the table of runs; its own add_hparams would write to a folder of its own.
        plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in values.items()}
        for part in self._hparams(plain, {"test/accuracy": 0.0}):  # type: ignore[no-untyped-call]
            self._writer._get_file_writer().add_summary(part)

    def close(self, end: End) -> None:
        if self._writer is not None:
            self._writer.close()


def _open_mlflow(out: Path, name: str, resume: bool) -> _MLflow:
    # A server that does not answer is told of in seconds, not minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        uri = (out.resolve().parent / "mlruns").as_uri()
        # Newer versions keep folders for those who ask for them.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UsageError(
            "--track mlflow",
            expected="the package mlflow",
            found=first_line(error),
            do="run: pip install mlflow-skinny",
        ) from error
    try:
        return _MLflow(MlflowClient(tracking_uri=uri), name, _told_before(out) if resume else "")
    except Exception as error:  # of its own kinds, and of whatever talks to the server
        raise UsageError(
            "--track mlflow",
            expected=f"a tracking server or folder at {uri}",
            found=first_line(error),
            do="set MLFLOW_TRACKING_URI, or leave --track out",
        ) from error


def _told_before(out: Path) -> str:
    """The id of MLflow's run that a folder belongs to; empty where there is none."""
    try:
        return (out / _MLFLOW_RUN).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


class _MLflow:
    def __init__(self, client: Any, name: str, run: str) -> None:
        self._client, self._lost = client, False
        found = client.get_experiment_by_name("tamis")
        experiment = found.experiment_id if found else client.create_experiment("tamis")
        self._told = bool(run) and self._goes_on(run)
        if not self._told:
            run = client.create_run(experiment, run_name=name).info.run_id
        self._run = run

    def _goes_on(self, run: str) -> bool:
        try:
            self._client.update_run(run, status="RUNNING")
        except Exception:  # another server, or it was deleted there
            return False
        return True

    def note(self, out: Path) -> None:
        """Write down in the run's folder which run of MLflow's it is."""
        with atomic_path(out / _MLFLOW_RUN, overwrite=True) as file:
            file.write_text(self._run + "\n", encoding="utf-8")

    def settings(self, values: Mapping[str, Any]) -> None:
        for key, value in () if self._told else values.items():
            self._tell("log_param", key, value)

    def number(self, name: str, value: float, step: int) -> None:
        self._tell("log_metric", name, value, step=step)

    def close(self, end: End) -> None:
        self._tell("set_terminated", status=end)

    def _tell(self, what: str, *arguments: Any, **options: Any) -> None:
        if self._lost:
            return
        try:
            getattr(self._client, what)(self._run, *arguments, **options)
        except Exception as error:  # hours of training do not end for a server that went away
            self._lost = True
            warnings.warn(f"MLflow is told no more: {first_line(error)}", stacklevel=3)

"""Finished trials for TensorBoard and MLflow: settings, curve and result of each, once.

Trials that finished in earlier calls are told, too, so that a tracker that is asked for later shows
all of them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tamis.sweep.records import Trial, TrialRecord
from tamis.training.tracking import open_tracks

__all__ = ["SweepTracks"]


class SweepTracks:
    """A folder a trial for TensorBoard, ``tracking/…``; MLflow's runs have the folders' names.

    Args:
        out: The sweep's folder.
        track: ``tensorboard``, ``mlflow`` (which is told besides TensorBoard), or None for nobody.
    """

    def __init__(self, out: Path, track: str | None) -> None:
        self._out, self._track = out / "tracking", track

    def tell(self, record: TrialRecord) -> None:
        """Settings, curve of the loss and result of a trial; nothing where it has been told.

        Raises:
            UsageError: As :func:`tamis.training.tracking.open_tracks`.
        """
        folder = self._out / f"{_name(record.trial)}-{record.key}"
        if self._track is None or folder.exists():
            return
        self._out.mkdir(exist_ok=True)
        also = None if self._track == "tensorboard" else self._track
        run = record.run
        settings = {**asdict(record.trial), "n_examples": run["n_examples"], "steps": run["steps"]}
        for track in open_tracks(folder, folder.name, also):
            track.settings(settings)
            for epoch, loss in enumerate(run["epoch_losses"]):
                track.number("train/loss", loss, epoch)
            for name in ("accuracy", "accuracy_top5", "loss"):
                track.number(f"test/{name}", run[f"test_{name}"], len(run["epoch_losses"]))
            track.close("FINISHED")


def _name(trial: Trial) -> str:
    parts = [trial.recipe, trial.budget, f"size{trial.size:g}", trial.metric, trial.side]
    return "-".join((*parts, f"keep{trial.keep:g}", f"seed{trial.seed}"))

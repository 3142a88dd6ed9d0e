"""What trackers are told."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tamis.bundles.opening import open_bundle
from tamis.errors import InterruptedRunError, UsageError
from tamis.training.recipes import get_recipe
from tamis.training.run_folder import RunFolder, train_into
from tamis.training.runs import RunOptions
from tamis.training.tracking import open_tracks


class Client:
    """As much of MLflow's client as is used; its names and arguments are MLflow 3's."""

    told: list[tuple[Any, ...]]

    def __init__(self, tracking_uri: str) -> None:
        type(self).told = [("uri", tracking_uri)]

    def get_experiment_by_name(self, name: str) -> None:
        self.told.append(("look for", name))

    def create_experiment(self, name: str) -> str:
        return f"experiment {name}"

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.told.append((experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        self.told.append((run_id, key, value))

    def log_metric(self, run_id: str, key: str, value: float, step: int) -> None:
        self.told.append((run_id, key, value, step))

    def update_run(self, run_id: str, status: str) -> None:
        if run_id != "r1":
            raise LookupError(run_id)
        self.told.append((run_id, status))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.told.append((run_id, status))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    package, tracking = ModuleType("mlflow"), ModuleType("mlflow.tracking")
    tracking.MlflowClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.usefixtures("mlflow")
def test_mlflow_is_told_of_settings_and_curves(tmp_path: Path) -> None:
    tracks = open_tracks(tmp_path / "run", "run", "mlflow")
    for track in tracks:
        track.settings({"epochs": 3})
        track.number("train/loss", 0.5, 1)
        track.close("FINISHED")
    assert Client.told == [
        ("uri", (tmp_path.resolve() / "mlruns").as_uri()),
        ("look for", "tamis"),
        ("experiment tamis", "run"),
        ("r1", "epochs", 3),
        ("r1", "train/loss", 0.5, 1),
        ("r1", "FINISHED"),
    ]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


@pytest.mark.usefixtures("mlflow")
def test_a_resumed_run_is_the_same_one_to_mlflow(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for resume, opening in (
        (False, [("experiment tamis", "run")]),
        (True, [("r1", "RUNNING")]),
        (False, [("experiment tamis", "run")]),
    ):
        tensorboard, mlflow = open_tracks(out, "run", "mlflow", resume=resume)
        tensorboard.close("KILLED")
        mlflow.close("KILLED")
        assert Client.told[2:] == [*opening, ("r1", "KILLED")]
    (out / "mlflow-run").write_text("of another server")
    open_tracks(out, "run", "mlflow", resume=True)
    assert Client.told[2:] == [("experiment tamis", "run")]
    assert (out / "mlflow-run").read_text() == "r1\n"


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, "FINISHED"),
        (InterruptedRunError("train", expected="its end", found="SIGTERM", do="resume"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (RuntimeError("a bug"), "FAILED"),
    ],
)
@pytest.mark.usefixtures("mlflow")
def test_mlflow_hears_how_a_run_ended(
    error: BaseException | None,
    end: str,
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = open_bundle(digits_bundle)

    def fail(*arguments: Any, **options: Any) -> None:
        assert error is not None
        raise error

    if error is not None:
        monkeypatch.setattr("tamis.training.run_folder.train_on_bundle", fail)
    folder = RunFolder(tmp_path / "run", track="mlflow")
    recipe, device = get_recipe("digits", {"epochs": 1, "width": 4}), torch.device("cpu")
    with nullcontext() if error is None else pytest.raises(type(error)):
        train_into(folder, bundle, bundle, recipe, RunOptions(), device=device)
    assert Client.told[-1] == ("r1", end)
    assert ("r1", "epochs", 1) in Client.told


def test_epochs_that_are_trained_again_are_shown_once(tmp_path: Path) -> None:
    for steps, loss in (((0, 1, 2), 0.5), ((1, 2, 3), 0.25)):
        time.sleep(1.1)  # files are told apart and ordered by their second
        (track,) = open_tracks(tmp_path, "run", None, resume=loss < 0.5)
        track.settings({"epochs": 4})
        for step in steps:
            track.number("train/loss", loss, step)
        track.close("KILLED")
    (track,) = open_tracks(tmp_path, "run", None, resume=True)
    track.close("FAILED")  # before its first epoch
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(one.step, one.value) for one in shown] == [(0, 0.5), (1, 0.25), (2, 0.25), (3, 0.25)]


def test_without_mlflow_it_is_named_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UsageError, match=r"expected the package mlflow.*pip install mlflow-skinny"):
        open_tracks(tmp_path / "run", "run", "mlflow")
    assert not (tmp_path / "run").exists()


def test_a_server_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow: None
) -> None:
    def refuse(self: Client, name: str) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(Client, "get_experiment_by_name", refuse)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://nobody:5000")
    with pytest.raises(UsageError, match="folder at http://nobody:5000, found connection refused"):
        open_tracks(tmp_path / "run", "run", "mlflow")

"""A training whose folder holds everything that is kept of it.

Intended behaviour. While it runs, ``checkpoint.pt`` is written at the ends of epochs, at most once
a minute, and curves for TensorBoard as it goes. When it ends, ``model.pt`` and ``record.json``
appear and the checkpoint goes. SIGTERM and Ctrl-C end it after the current step with everything
kept; what kills it at once loses what came after the last writing. ``resume`` goes on from the
checkpoint, begins anew where there is none, and returns the record of a run that is finished, so
that a job script may simply repeat its command. A loss that is no longer finite ends the run and
leaves the last good checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.atomic import refuse_existing, refuse_missing_folder
from tamis.bundles.bundle import Bundle
from tamis.errors import InterruptedRunError, UsageError, first_line
from tamis.loaders.batch import Skipped
from tamis.loaders.settings import OnError
from tamis.progress import QUIET, Progress
from tamis.training.checkpoints import write_run
from tamis.training.interrupting import StopRequest
from tamis.training.loop import EpochReport
from tamis.training.recipes import Recipe
from tamis.training.records import RunRecord
from tamis.training.runs import (
    Keeping,
    RunOptions,
    ids_digest,
    teacher_facts,
    train_on_bundle,
)
from tamis.training.tracking import End, Track, open_tracks

__all__ = ["RunFolder", "train_into"]


@dataclass(frozen=True)
class RunFolder:
    """Where a run goes.

    Attributes:
        path: The folder; made where it is missing.
        resume: Go on with what is there.
        overwrite: Replace what is there.
        track: ``mlflow`` for MLflow besides TensorBoard.
        every: Seconds between two writings of the checkpoint.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False
    track: str | None = None
    every: float = 60.0

    @property
    def checkpoint(self) -> Path:
        """Of a run that is under way."""
        return self.path / "checkpoint.pt"

    def check(self) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UsageError: It does, and is neither to be gone on with nor to be replaced, or both; or
                there is no folder to make it in.
        """
        if self.resume and self.overwrite:
            raise UsageError(
                "--resume, --overwrite",
                expected="one of them",
                found="both",
                do="--resume goes on with what is there, --overwrite begins anew",
            )
        if not self.path.is_dir():
            refuse_existing(self.path, False)
            return
        refuse_missing_folder(self.path)
        if self.checkpoint.exists() and not (self.resume or self.overwrite):
            raise UsageError(
                self.path,
                expected="a new folder",
                found="a run that was interrupted",
                do="pass --resume to go on with it, or --overwrite to begin anew",
            )
        for name in ("record.json", "model.pt"):
            refuse_existing(self.path / name, self.resume or self.overwrite)


def train_into(
    folder: RunFolder,
    training: Bundle,
    testing: Bundle,
    recipe: Recipe,
    options: RunOptions,
    *,
    example_ids: NDArray[np.int64] | None = None,
    loader: str = "auto",
    on_error: OnError = "fail",
    device: torch.device,
    progress: Progress = QUIET,
) -> RunRecord:
    """Train on a bundle, test, and keep everything in a folder.

    Args:
        folder: See :class:`RunFolder`.
        options: ``keeping``, and of its extras ``stop`` and ``report``, are made here.
        training, testing, recipe, example_ids, loader, on_error, device, progress: See
            :func:`tamis.training.runs.train_on_bundle`.

    Raises:
        UsageError: As :meth:`RunFolder.check`, or there is another run to go on with.
        InterruptedRunError: A signal ended it, with everything kept.
        As :func:`tamis.training.runs.train_on_bundle`.
    """
    folder.check()
    workers = options.extras.workers
    if folder.resume and not folder.checkpoint.exists():
        ids = training.example_ids if example_ids is None else example_ids
        finished = _finished(folder.path, training, testing, ids, recipe, options)
        if finished is not None:
            return finished
    if folder.overwrite and workers.writes:
        for name in ("checkpoint.pt", "record.json", "model.pt"):
            (folder.path / name).unlink(missing_ok=True)
    workers.wait()
    with _left_only_with_something(folder.path), closing(_Curves()) as curves:
        if workers.writes:
            goes_on = folder.resume and folder.checkpoint.exists()
            curves.tracks += open_tracks(
                folder.path, folder.path.name, folder.track, resume=goes_on
            )
        curves.settings(recipe, training, options)
        try:
            trained, record = train_on_bundle(
                training,
                testing,
                recipe,
                replace(
                    options,
                    keeping=Keeping(folder.checkpoint, resume=folder.resume, every=folder.every),
                    extras=replace(options.extras, stop=StopRequest(), report=curves.epoch),
                ),
                example_ids=example_ids,
                loader=loader,
                on_error=on_error,
                device=device,
                progress=progress,
            )
        except (InterruptedRunError, KeyboardInterrupt, UsageError):
            curves.end = "KILLED"  # what is there can be gone on with
            raise
        curves.finish(record)
        if workers.writes:
            write_run(folder.path, record, trained.model)
            folder.checkpoint.unlink(missing_ok=True)
        curves.end = "FINISHED"
    return record


@contextmanager
def _left_only_with_something(path: Path) -> Iterator[None]:
    """A folder that is made here goes with what fails, unless something of a run lies in it."""
    was_there = path.exists()
    try:
        yield
    except BaseException:
        if not was_there:
            with suppress(OSError):  # not empty, or another process was faster
                path.rmdir()
        raise


class _Curves:
    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.end: End = "FAILED"  # until it is known better

    def settings(self, recipe: Recipe, training: Bundle, options: RunOptions) -> None:
        seeds = options.seeds
        values = {
            **asdict(recipe),
            "seed": seeds.init,
            "order_seed": seeds.order,
            "augmentation_seed": seeds.augmentation,
            "bundle": training.digest,
        }
        for track in self.tracks:
            track.settings(values)

    def epoch(self, found: EpochReport) -> None:
        self._numbers(
            {
                "train/loss": found.loss,
                "train/rate": found.rate,
                "train/images_per_second": found.images_per_second,
            },
            found.epoch,
        )

    def finish(self, record: RunRecord) -> None:
        self._numbers(
            {
                "test/accuracy": record.test_accuracy,
                "test/accuracy_top5": record.test_accuracy_top5,
                "test/loss": record.test_loss,
            },
            len(record.epoch_losses),
        )

    def close(self) -> None:
        for track in self.tracks:
            track.close(self.end)

    def _numbers(self, values: dict[str, float], step: int) -> None:
        for track in self.tracks:
            for name, value in values.items():
                track.number(name, value, step)


def _finished(
    path: Path,
    training: Bundle,
    testing: Bundle,
    ids: NDArray[np.int64],
    recipe: Recipe,
    options: RunOptions,
) -> RunRecord | None:
    """The record of a run that has nothing left to do; None where there is no record."""
    file = path / "record.json"
    if not file.exists():
        return None
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for name in ("order_seed", "augmentation_seed"):  # older records have one seed for all
            raw.setdefault(name, raw["seed"])
        raw["skipped"] = tuple(Skipped(**one) for one in raw["skipped"])
        record = RunRecord(**raw)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            file,
            expected="the record of a run",
            found=first_line(error),
            do="pass --overwrite to train again",
        ) from error
    kept = {
        "recipe": (record.recipe_digest, recipe.digest),
        "bundle": (record.train_digest, training.digest),
        "test bundle": (record.test_digest, testing.digest),
        "examples": (record.examples_digest, ids_digest(ids)),
        "full examples": (record.full_examples, options.full_examples or record.full_examples),
        "seed": (str(record.seeds), str(options.seeds)),
        "budget": (record.budget, options.budget),
        "dynamic": (record.dynamic, options.dynamic),
        "teacher": (record.teacher, teacher_facts(options.extras.teacher)),
        "start": (record.started_from, options.started_from),
    }
    odd = [f"{name} {was}, now {now}" for name, (was, now) in kept.items() if was != now]
    if odd:
        raise UsageError(
            "--resume",
            expected=f"the run that is finished in {path}",
            found=f"another one: {'; '.join(odd)}",
            do="name another folder with --out, or pass --overwrite instead",
        )
    return record

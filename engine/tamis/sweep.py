"""Sweeps: metrics × sides × keep fractions × seeds → one record per trial.

Intended behaviour: every finished trial is one line of ``records.jsonl``, written and synced before
the next begins to count; a killed sweep loses only the trials under way, and a second call runs
only what is missing. A line that was cut off by a crash is dropped. A trial that fails is
reported and leaves no record, so that the next call tries it again; the others go on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch

from tamis.atomic import atomic_path
from tamis.bundles.beton import open_bundle
from tamis.devices import resolve_device
from tamis.errors import UsageError, WorkFailedError
from tamis.loaders.memory_loader import ImageSet, MemoryLoader, load_image_set
from tamis.metrics.registry import METRICS
from tamis.progress import QUIET, Progress
from tamis.score_table import read_score_table
from tamis.selection import SelectionSettings, select
from tamis.training.loop import Budget, n_steps
from tamis.training.recipes import get_recipe
from tamis.training.runs import EVALUATION_BATCH, check_same_classes, run_training

__all__ = [
    "Sweep",
    "SweepPlan",
    "SweepReport",
    "SweepSpec",
    "Trial",
    "TrialRecord",
    "plan_sweep",
    "read_records",
    "read_sweep_spec",
    "run_sweep",
]


class SweepSpec(pydantic.BaseModel):
    """A sweep as people write it (YAML).

    Attributes:
        train: Training bundle; paths are relative to the file.
        test: Test bundle.
        scores: Score table of the training bundle.
        metrics: Columns of the table; ``random`` is the baseline and uses no column.
        keep: Keep fractions; 1.0 is the full set, run once per seed.
        side: Which sides to keep.
        class_balance: See :class:`tamis.selection.SelectionSettings`.
        seeds: Seeds 0…n-1, each for selection ties, initialisation, order and augmentation.
        recipe: A recipe's name.
        set: Values of the recipe to replace.
        budget: ``steps``, ``epochs``, or both.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    train: Path
    test: Path
    scores: Path
    metrics: list[str] = pydantic.Field(min_length=1)
    keep: list[float] = pydantic.Field(min_length=1)
    side: list[Literal["hard", "easy"]] = ["hard"]
    class_balance: float = pydantic.Field(default=0.5, ge=0, le=1)
    seeds: int = pydantic.Field(default=3, ge=1)
    recipe: str = "small"
    set: dict[str, Any] = {}
    budget: list[Literal["steps", "epochs"]] = ["steps"]

    @pydantic.field_validator("side", "budget", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("keep")
    @classmethod
    def _fractions(cls, value: list[float]) -> list[float]:
        if not all(0 < keep <= 1 for keep in value):
            raise ValueError("each keep fraction must be 0 < keep ≤ 1, the share that is kept")
        return value

    @pydantic.field_validator("metrics")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        return value


@dataclass(frozen=True)
class Trial:
    """One cell of the grid. ``metric`` is "full" for the unpruned set."""

    metric: str
    side: Literal["hard", "easy", "random", "full"]
    keep: float
    seed: int
    budget: Budget


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        key: Hash of everything that decides the result.
        trial: The cell.
        keep_fraction: The exact share kept.
        per_class_kept: Label → examples kept.
        run: See :class:`tamis.training.runs.RunRecord`.
    """

    key: str
    trial: Trial
    keep_fraction: float
    per_class_kept: dict[str, int]
    run: dict[str, Any]


@dataclass(frozen=True)
class SweepReport:
    """What a call of a sweep did; ``failures`` are one line each."""

    n_trials: int
    n_done: int
    n_failed: int
    failures: tuple[str, ...]
    records: Path


def read_sweep_spec(path: Path) -> SweepSpec:
    """Read and validate a sweep file; paths become absolute.

    Raises:
        UsageError: The file is missing, not YAML, or says something unknown.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = SweepSpec.model_validate(raw)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            path,
            expected="a YAML file",
            found=str(error).replace("\n", " ") if path.exists() else "no file",
            do="see the README's sweep file",
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        known = ", ".join(SweepSpec.model_fields)
        raise UsageError(
            f"{path}: {where}",
            expected=f"a sweep with the keys {known}",
            found=f"{str(first['input'])[:60]!r} ({first['msg']})",
            do="correct that key",
        ) from error
    base = path.resolve().parent
    places = {key: base / getattr(spec, key) for key in ("train", "test", "scores")}
    return spec.model_copy(update=places)


class Sweep:
    """A checked sweep: bundles opened, scores matched, trials listed.

    Raises:
        BundleError: A bundle that is not sound, or classes that differ.
        ScoreTableError: Scores of another bundle, or a metric that the table lacks.
        UsageError: An unknown recipe.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self.train, self.test = open_bundle(spec.train), open_bundle(spec.test)
        check_same_classes(self.train.classes, self.test.classes)
        self.table = read_score_table(spec.scores).for_bundle(self.train)
        self.recipe = get_recipe(spec.recipe, spec.set)
        for metric in spec.metrics:
            if metric != "random":
                self.table.column(metric)

    @property
    def trials(self) -> list[Trial]:
        """The grid: the full set and random first, then metric by metric."""
        spec = self.spec
        cells: list[Trial] = []
        for budget in spec.budget:
            for seed in range(spec.seeds):
                if 1.0 in spec.keep:
                    cells.append(Trial("full", "full", 1.0, seed, budget))
                for keep in spec.keep:
                    for metric in spec.metrics:
                        if keep == 1:
                            continue
                        if metric == "random":
                            cells.append(Trial(metric, "random", keep, seed, budget))
                        else:
                            cells += [Trial(metric, s, keep, seed, budget) for s in spec.side]
        order = {"full": 0, "random": 1}
        return sorted(cells, key=lambda cell: order.get(cell.metric, 2))

    def key(self, trial: Trial) -> str:
        """Hash of everything that decides the trial's result."""
        scored = trial.metric in self.table.columns and trial.side in ("hard", "easy")
        facts = {
            **asdict(trial),
            "train": self.train.digest,
            "test": self.test.digest,
            "scores": self.table.columns[trial.metric].digest if scored else None,
            "class_balance": self.spec.class_balance if trial.metric != "full" else None,
            "recipe": self.recipe.digest,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_records(path: Path) -> dict[str, TrialRecord]:
    """Key → record of a ``records.jsonl``; a last line cut off by a crash is left out.

    Raises:
        UsageError: Another line that is not a record.
    """
    records: dict[str, TrialRecord] = {}
    if not path.exists():
        return records
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            raw = json.loads(line)
            record = TrialRecord(**{**raw, "trial": Trial(**raw["trial"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path}, line {number}",
                expected="a trial record",
                found=repr(line[:60]),
                do="remove that line; its trial runs again",
            ) from error
        records.setdefault(record.key, record)
    return records


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do; ``steps`` are optimizer steps still to take."""

    n_trials: int
    n_done: int
    n_missing: int
    steps: int
    batch_size: int


def plan_sweep(spec: SweepSpec, out: Path) -> SweepPlan:
    """Check a sweep against its files and count what is missing; writes nothing.

    Raises:
        TamisError: As :class:`Sweep`.
    """
    sweep = Sweep(spec)
    known = read_records(out / "records.jsonl")
    missing = [trial for trial in sweep.trials if sweep.key(trial) not in known]
    full = sweep.train.n_examples
    steps = sum(
        n_steps(max(1, round(trial.keep * full)), full, sweep.recipe, trial.budget)
        for trial in missing
    )
    n_done = len(sweep.trials) - len(missing)
    return SweepPlan(len(sweep.trials), n_done, len(missing), steps, sweep.recipe.batch_size)


def run_sweep(
    spec: SweepSpec,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    progress: Progress = QUIET,
) -> SweepReport:
    """Run the trials of a sweep that have no record yet.

    Args:
        spec: See :class:`SweepSpec`.
        out: Folder of ``sweep.json`` (the spec) and ``records.jsonl``; made where it is missing.
        device: As in :func:`tamis.devices.resolve_device`.
        workers: Processes; the CPU's cores are shared out among them.
        progress: Told of every trial.

    Raises:
        TamisError: Before any trial, where the spec does not fit its files.
    """
    resolve_device(device)
    sweep = Sweep(spec)
    out.mkdir(parents=True, exist_ok=True)
    records_path = out / "records.jsonl"
    known = read_records(records_path)
    _drop_torn_line(records_path)
    with atomic_path(out / "sweep.json", overwrite=True) as partial:
        partial.write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
    trials = sweep.trials
    missing = [trial for trial in trials if sweep.key(trial) not in known]
    failures: list[str] = []
    with (
        records_path.open("a", encoding="utf-8") as sink,
        progress.task("sweep", len(trials)) as advance,
    ):
        advance(len(trials) - len(missing))
        for result in _execute(sweep, missing, device, workers):
            if isinstance(result, TrialRecord):
                sink.write(json.dumps(asdict(result)) + "\n")
                sink.flush()
                os.fsync(sink.fileno())
            else:
                failures.append(result)
            advance()
    n_done = len(trials) - len(failures)
    return SweepReport(len(trials), n_done, len(failures), tuple(failures), records_path)


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def _execute(
    sweep: Sweep, trials: list[Trial], device: str, workers: int
) -> Iterator[TrialRecord | str]:
    """Results as they finish: a record, or one line on what failed."""
    workers = max(1, min(workers, len(trials)))
    if workers == 1:
        runner = _Runner(sweep, device)
        for trial in trials:
            yield runner.run(trial)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # a fork would share torch's thread pools
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(sweep.spec, device, threads)
    ) as pool:
        futures = [pool.submit(_run_in_worker, trial) for trial in trials]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkFailedError(
                "a sweep worker",
                expected="it to finish its trial",
                found="that its process died (out of memory, or killed)",
                do="run the same command again, with fewer --workers: finished trials are kept",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Runner:
    """Decodes both sets once and runs trials on parts of the training set."""

    def __init__(self, sweep: Sweep, device: str) -> None:
        self.sweep, self.device = sweep, resolve_device(device)
        side = sweep.recipe.resolution
        self.train_set = load_image_set(sweep.train, side, self.device)
        self.test_loader = MemoryLoader(
            load_image_set(sweep.test, side, self.device), EVALUATION_BATCH
        )

    def run(self, trial: Trial) -> TrialRecord | str:
        try:
            return self._run(trial)
        except WorkFailedError as error:
            return f"{trial}: {error}"

    def _run(self, trial: Trial) -> TrialRecord:
        sweep = self.sweep
        examples, per_class = self._subset(trial)
        _, record = run_training(
            examples,
            self.test_loader,
            sweep.recipe,
            n_classes=max(sweep.train.n_classes, sweep.test.n_classes),
            full_examples=sweep.train.n_examples,
            budget=trial.budget,
            seed=trial.seed,
            device=self.device,
            train_digest=sweep.train.digest,
            test_digest=sweep.test.digest,
        )
        fraction = len(examples.example_ids) / sweep.train.n_examples
        return TrialRecord(sweep.key(trial), trial, fraction, per_class, asdict(record))

    def _subset(self, trial: Trial) -> tuple[ImageSet, dict[str, int]]:
        sweep = self.sweep
        settings = SelectionSettings(
            metric=None if trial.side in ("random", "full") else trial.metric,
            keep=trial.keep,
            side="random" if trial.side == "full" else trial.side,
            class_balance=sweep.spec.class_balance,
            seed=trial.seed,
        )
        kept = select(sweep.table, settings)
        positions = sweep.train.positions(kept.example_ids)
        per_class = {str(label): count for label, count in kept.per_class.items()}
        return self.train_set.subset(positions), per_class


_runner: _Runner | None = None


def _start_worker(spec: SweepSpec, device: str, threads: int) -> None:
    global _runner
    torch.set_num_threads(threads)
    _runner = _Runner(Sweep(spec), device)


def _run_in_worker(trial: Trial) -> TrialRecord | str:
    assert _runner is not None  # set by _start_worker
    return _runner.run(trial)

"""The trials of a sweep, checked against the files that it names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tamis.bundles.opening import open_bundle
from tamis.errors import ScoreTableError
from tamis.score_table import read_score_table
from tamis.selection.settings import SelectionSettings
from tamis.sweep.records import Trial, read_records
from tamis.sweep.spec import SweepSpec
from tamis.training.loop import n_steps
from tamis.training.recipes import get_recipe
from tamis.training.runs import check_same_classes

__all__ = ["Sweep", "SweepPlan", "plan_sweep"]


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
        if len(self.table.left_out.ids):
            raise ScoreTableError(
                spec.scores,
                expected=f"a score for each of the {self.train.n_examples} examples of"
                f" {spec.train}, which the sweep trains on",
                found=f"{len(self.table.left_out.ids)} that were left out",
                do=f"cut them out first: tamis cut {spec.train} SOUND.beton --scores"
                f" {spec.scores} --side random --keep 1",
            )
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

    def selection(self, trial: Trial) -> SelectionSettings:
        """How the trial's part of the training set is chosen."""
        spec = self.spec
        scored, own = trial.side not in ("random", "full"), trial.side == "stratified"
        return SelectionSettings(
            metric=trial.metric if scored else None,
            keep=trial.keep,
            side="random" if trial.side == "full" else trial.side,
            class_balance=spec.class_balance,
            seed=trial.seed,
            hardest_cut=spec.hardest_cut if own else None,
            strata=spec.strata if own else None,
        )

    def key(self, trial: Trial) -> str:
        """Hash of everything that decides the trial's result."""
        scored = trial.metric in self.table.columns and trial.side not in ("random", "full")
        how = self.selection(trial)
        own = {"hardest_cut": how.hardest_cut, "strata": how.strata}
        facts = {
            **asdict(trial),
            "train": self.train.digest,
            "test": self.test.digest,
            "scores": self.table.columns[trial.metric].digest if scored else None,
            "class_balance": self.spec.class_balance if trial.metric != "full" else None,
            "recipe": self.recipe.digest,
            # Only where there are any: sides without them keep the keys of earlier records.
            **{name: value for name, value in own.items() if value is not None},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


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

"""The trials of a sweep, checked against the files that it names."""

from __future__ import annotations

import hashlib
import json
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.opening import open_bundle
from tamis.errors import ScoreTableError, UsageError
from tamis.hashing import example_hash
from tamis.metrics.registry import get_metrics
from tamis.score_table import ScoreTable, read_score_table, unscored_table
from tamis.selection.settings import SelectionSettings
from tamis.sweep.records import Trial
from tamis.sweep.spec import SweepSpec
from tamis.training.recipes import Recipe
from tamis.training.runs import check_same_classes

__all__ = ["Sweep", "initial_set"]


def initial_set(bundle: Bundle, size: float) -> NDArray[np.int64]:
    """The examples that a sweep of this size begins with, drawn at random.

    The same draw for all seeds, because scores belong to it; smaller sets are parts of larger ones.

    Args:
        bundle: The training bundle, of n examples.
        size: Share of them, in (0, 1].

    Returns:
        (max(1, round(size · n)),) int64 example ids, in the bundle's order.
    """
    count = max(1, round(size * bundle.n_examples))
    drawn = example_hash(bundle.example_ids, 0, "initial set")
    rows = np.lexsort((bundle.example_ids, drawn))[:count]
    return bundle.example_ids[np.sort(rows)]


class Sweep:
    """A checked sweep: bundles opened, scores matched, trials listed.

    Args:
        spec: What people wrote.
        tables: Size → file of the scores of that initial set, where the sweep computes them;
            empty before it has.

    Raises:
        BundleError: A bundle that is not sound, or classes that differ.
        ScoreTableError: Scores of another bundle, or a metric that the table lacks.
        UsageError: An unknown recipe, or metric of which no scores are given.
    """

    def __init__(self, spec: SweepSpec, tables: dict[float, Path] | None = None) -> None:
        self.spec = spec
        self.train, self.test = open_bundle(spec.train), open_bundle(spec.test)
        check_same_classes(self.train.classes, self.test.classes)
        self._tables: dict[float, ScoreTable] = {}
        self._digests: dict[tuple[float, str], str] = {}
        self._files = tables or {}
        self.recipes: dict[str, Recipe] = dict(zip(spec.recipe, spec.recipes(), strict=True))
        self._check_recipes()
        self._check_early_stop()
        if spec.scores is not None:
            for metric in spec.scored_metrics:
                self._given.column(metric)
        elif spec.scored_metrics:
            get_metrics(spec.scored_metrics)
            spec.campaign()
        self._check_sizes()

    def with_tables(self, tables: dict[float, Path]) -> Sweep:
        """The same sweep with other files of scores, see ``tables``."""
        other = copy(self)
        other._files, other._tables, other._digests = tables, {}, {}
        return other

    def _check_recipes(self) -> None:
        for name, recipe in self.recipes.items():
            if recipe.network == "backbone":
                raise UsageError(
                    f"recipe {name}",
                    expected="one that begins with a fresh network",
                    found="one that goes on from another",
                    do="run tamis select and tamis train for it",
                )

    def _check_early_stop(self) -> None:
        """Refuse a rule by which the full set is never judged."""
        rule = self.spec.early_stop
        if rule is None:
            return
        for name, recipe in self.recipes.items():
            if rule.epoch(recipe.epochs) >= recipe.epochs:
                most = 1000 * (recipe.epochs - 1) // recipe.epochs / 1000  # a few digits, below
                raise UsageError(
                    "stop_early",
                    expected=f"after to leave some of the {recipe.epochs} epochs of {name}",
                    found=f"{rule.after:g}, after which there is none",
                    do=f"lower it to {most:g} or less" if most else "leave stop_early out",
                )

    def _check_sizes(self) -> None:
        least = min(self.spec.sizes) * min(self.spec.keep) * self.train.n_examples
        if round(least) < 1:
            raise UsageError(
                "sizes, keep",
                expected=f"at least one of the {self.train.n_examples} examples in every set",
                found=f"size {min(self.spec.sizes):g} and keep {min(self.spec.keep):g}",
                do="leave the smallest ones out",
            )

    @cached_property
    def _given(self) -> ScoreTable:
        """Of the whole training bundle, as the sweep file names it."""
        assert self.spec.scores is not None
        table = read_score_table(self.spec.scores).for_bundle(self.train)
        if len(table.left_out.ids):
            raise ScoreTableError(
                self.spec.scores,
                expected=f"a score for each of the {self.train.n_examples} examples of"
                f" {self.spec.train}, which the sweep trains on",
                found=f"{len(table.left_out.ids)} that were left out",
                do=f"cut them out first: tamis cut {self.spec.train} SOUND.beton --scores"
                f" {self.spec.scores} --side random --keep 1",
            )
        return table

    def table(self, size: float) -> ScoreTable:
        """Labels, and scores where there are any, of the initial set of a size."""
        if size not in self._tables:
            self._tables[size] = self._read(size)
        return self._tables[size]

    def _read(self, size: float) -> ScoreTable:
        ids = initial_set(self.train, size)
        positions = self.train.positions(ids)
        if self.spec.scores is not None:
            return self._given.take(positions)
        table = unscored_table(self.train, positions)
        if size in self._files:
            scored = read_score_table(self._files[size])
            if not np.array_equal(scored.example_ids, ids):
                raise ScoreTableError(
                    self._files[size],
                    expected=f"scores of the {len(ids)} examples that the sweep drew",
                    found="others",
                    do="remove the file; the next call scores them again",
                )
            table = replace(table, columns=scored.columns)
        return table

    @property
    def is_scored(self) -> bool:
        """Whether all scores that the trials need are there."""
        spec = self.spec
        if spec.scores is not None or not spec.scored_metrics:
            return True
        return all(
            metric in self.table(size).columns
            for size in spec.sizes
            for metric in spec.scored_metrics
        )

    @property
    def trials(self) -> list[Trial]:
        """The grid: sets that are not pruned and random first, then metric by metric."""
        spec = self.spec
        cells = [
            Trial(metric, side, keep, seed, budget, size, recipe)  # type: ignore[arg-type]
            for recipe in spec.recipe
            for budget in spec.budget
            for size in spec.sizes
            for seed in range(spec.seeds)
            for metric, side, keep in self._parts()
        ]
        order = {"full": 0, "random": 1}
        return sorted(cells, key=lambda cell: order.get(cell.metric, 2))

    def _parts(self) -> list[tuple[str, str, float]]:
        spec = self.spec
        parts = [("full", "full", 1.0)] if 1.0 in spec.keep else []
        for keep in spec.keep:
            if keep < 1 and "random" in spec.metrics:
                parts.append(("random", "random", keep))
            if keep < 1:
                parts += [(m, side, keep) for m in spec.scored_metrics for side in spec.side]
        return parts

    def selection(self, trial: Trial) -> SelectionSettings:
        """How the trial's part of its initial set is chosen."""
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

    def n_kept(self, trial: Trial) -> int:
        """Examples that the trial trains on."""
        return max(1, round(trial.keep * max(1, round(trial.size * self.train.n_examples))))

    def key(self, trial: Trial) -> str:
        """Hash of everything that decides the trial's result.

        Raises:
            ScoreTableError: Its scores are not there yet.
        """
        scored = trial.side not in ("random", "full")
        how, size = self.selection(trial), trial.size
        # Only where there are any: trials without them keep the keys of earlier records.
        own = {
            "hardest_cut": how.hardest_cut,
            "strata": how.strata,
            "size": size if size < 1 else None,
        }
        facts = {
            "metric": trial.metric,
            "side": trial.side,
            "keep": trial.keep,
            "seed": trial.seed,
            "budget": trial.budget,
            "train": self.train.digest,
            "test": self.test.digest,
            "scores": self._digest(size, trial.metric) if scored else None,
            "class_balance": self.spec.class_balance if trial.metric != "full" else None,
            "recipe": self.recipes[trial.recipe].digest,
            **{name: value for name, value in own.items() if value is not None},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _digest(self, size: float, metric: str) -> str:
        if (size, metric) not in self._digests:
            self._digests[size, metric] = self.table(size).column(metric).digest
        return self._digests[size, metric]

"""Where the numbers of a report come from, and the command that repeats them."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tamis import __version__
from tamis.score_table import ScoreTable
from tamis.sweep.grid import Sweep
from tamis.sweep.records import TrialRecord
from tamis.versions import source_commit

__all__ = ["Provenance", "provenance"]


@dataclass(frozen=True)
class Provenance:
    """What a reader needs to repeat the work.

    Attributes:
        facts: What it is, and its value; both for people.
        scores: Metric → how its scores came about, as JSON; "" where nothing is recorded.
        sweep_file: The sweep file, YAML with absolute paths.
        command: What repeats trials and report, given that file.
    """

    facts: list[tuple[str, str]]
    scores: dict[str, str]
    sweep_file: str
    command: str


def provenance(
    sweep: Sweep, records: Sequence[TrialRecord], table: ScoreTable, folder: Path
) -> Provenance:
    """Collect it from what the files say about themselves.

    Args:
        sweep: The sweep.
        records: Its finished trials.
        table: Its scores.
        folder: Of the sweep.
    """
    spec, runs = sweep.spec, [record.run for record in records]
    train, test = sweep.train, sweep.test
    facts = [
        ("training bundle", f"{spec.train}, {train.n_examples:,} examples, {train.digest}"),
        ("test bundle", f"{spec.test}, {test.n_examples:,} examples, {test.digest}"),
    ]
    if train.manifest is not None:
        made = _listed({"by": train.manifest.operation, **train.manifest.settings})
        facts.append(("training bundle made", made))
    where = str(spec.scores) if spec.scores else "computed by the sweep, see scoring below"
    facts.append(("scores", where))
    facts.append(("selection", f"class balance {spec.class_balance:g}"))
    recipes = {run["recipe_digest"]: run["recipe"] for run in runs}
    facts += [(f"recipe {recipe['name']}", _listed(recipe)) for recipe in recipes.values()]
    machines = Counter(_listed(run["environment"]) for run in runs)
    facts += [(f"{n} runs on", machine) for machine, n in machines.most_common()]
    commit = source_commit()
    facts.append(("report by", f"tamis {__version__}" + (f", commit {commit}" if commit else "")))
    scores = {
        name: json.dumps(column.info, indent=1, ensure_ascii=False) if column.info else ""
        for name, column in table.columns.items()
    }
    values = spec.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)
    out = shlex.quote(str(folder))
    command = f"tamis sweep sweep.yaml --out {out} && tamis report {out} --overwrite"
    return Provenance(facts, scores, text, command)


def _listed(values: dict[str, Any]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')} {f'({_listed(value)})' if isinstance(value, dict) else value}"
        for name, value in values.items()
        if value is not None
    )
